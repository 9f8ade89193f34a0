"""A transformer fine-tuned by EGGROLL on exactly right answers: examples/eggroll_transformer.py with seeds and rates.

    python bench/fine_tuning.py              some ten minutes on one core; writes bench/results/fine_tuning.md

Each run is the example as it is, with a seed (of initial weights, split of the questions, batches and noise) and a
learning rate of plain SGD, which is the root mean square step in units of sigma where there is no signal.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import write

EXAMPLE = Path(__file__).parent.parent / "examples" / "eggroll_transformer.py"
ONE_CORE = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}


def run(seed: int, rate: float) -> tuple[float, float, float]:
    """Shares of unseen questions answered right before and after, and CPU seconds of everything."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, str(EXAMPLE), str(seed), str(rate)]
    output = subprocess.run(command, env=os.environ | ONE_CORE, capture_output=True, text=True, check=True).stdout
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    shares = re.findall(r"exactly right before (\S+), after fine-tuning (\S+)", output)[-1]
    seconds = spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime
    return float(shares[0]), float(shares[1]), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.3, 1.0])
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for rate in arguments.rates:
        runs = []
        for seed in arguments.seeds:
            runs.append(run(seed, rate))
            print(f"learning rate {rate}, seed {seed}: {runs[-1]}", flush=True)
        before, after, seconds = zip(*runs, strict=True)
        rows.append({
            "learning rate": rate,
            "right before, mean": f"{statistics.mean(before):.1%}",
            "right after, mean": f"{statistics.mean(after):.1%}",
            "worst": f"{min(after):.1%}",
            "each seed": ", ".join(f"{a:.1%} to {b:.1%}" for a, b in zip(before, after, strict=True)),
            "CPU s, mean": f"{statistics.mean(seconds):.0f}",
        })  # fmt: skip
    note = (
        f"Seeds {', '.join(map(str, arguments.seeds))}. Popsize 512, 50 generations, sigma 0.02, group-relative "
        "shaping, plain SGD with cosine decay from the learning rate; 2,000 unseen questions. "
        "CPU time includes pretraining."
    )
    packages = ["jax", "flax", "optax", "numpy"]
    write("fine_tuning", "A transformer fine-tuned on exactly right answers", list(rows[0]), rows, packages, note)


if __name__ == "__main__":
    main()
