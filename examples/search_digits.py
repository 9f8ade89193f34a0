"""A hyperparameter search on scikit-learn's digits in two processes, interrupted, and resumed from its journal."""

from pathlib import Path
from tempfile import TemporaryDirectory

import blackbox as bb
from blackbox.problems.hpo import task


def main():
    problem = task("svc_digits")  # cross-validated error rate of a support vector machine
    with TemporaryDirectory() as folder:
        journal = Path(folder) / "digits.db"
        # The first call ends after 10 results; a kill at any moment would leave the journal just as usable.
        bb.minimize(problem, problem.space, budget=10, seed=0, workers=2, timeout=60, journal=journal)
        result = bb.minimize(
            problem, problem.space, budget=20, seed=0, workers=2, timeout=60, journal=journal, resume=True
        )
    print("best point:", result.x)
    print(f"test error {problem.test_score(result.x):.3f}")
    print(f"value {result.value:.3f} after {result.evaluations} evaluations")


if __name__ == "__main__":  # worker processes import this file again
    main()
