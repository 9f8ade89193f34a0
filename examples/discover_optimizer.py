"""A search over programs begins with gradient descent and finds an optimizer for heavy-tailed gradients."""

import numpy as np

import blackbox as bb
from blackbox.programs import ADAMW, GRADIENT, LION, RegularizedEvolution, analysis, descend, search

STEPS, EVALUATIONS = 60, 500
RATES = 10.0 ** np.arange(-3, 0.1, 0.5).reshape(-1, 1, 1)  # each program has its best


def quadratics(seeds, d):
    """Six problems with curvatures from 1e-4 to 1, and noise of Student's t on every gradient."""
    rng = np.random.default_rng(seeds)
    curvature = rng.permuted(np.tile(np.geomspace(1e-4, 1.0, d), (6, 1)), axis=1)
    best = rng.permuted(np.tile([-1.0, 1.0], (6, d // 2)), axis=1)  # a program cannot learn on which side it is
    noise = 0.3 * np.sqrt(curvature) * rng.standard_t(1.5, size=(STEPS, 6, d))

    def loss(program):
        """The median over six problems of the distance to the minimum, after training."""
        start = np.zeros((len(RATES), 6, d))
        end = descend(
            program,
            lambda w, t: curvature * (w - best) + noise[t],
            start,
            lr=lambda t: RATES * (1 - t / STEPS),
            steps=STEPS,
        )
        with np.errstate(all="ignore"):
            distances = np.mean(np.abs(end - best), axis=-1)
        return float(np.min(np.median(np.where(np.isfinite(distances), distances, np.inf), axis=1)))

    return loss


proxy, held_out = quadratics(0, 20), quadratics(1, 100)
strategy = RegularizedEvolution(start=GRADIENT, popsize=50, tournament=5)
state = search(strategy, strategy.init(bb.key(0)), proxy, evaluations=EVALUATIONS, batch=10)
found = min(state.elites[:8], key=quadratics(2, 50))  # the winners on the proxy, by another task
print(found)
print(f"{state.drawn} children, {state.saved} evaluations saved by the cache, {state.evaluations} made")
for name, program in (("gradient descent", GRADIENT), ("AdamW", ADAMW), ("Lion", LION)):
    print(f"{name:16} {held_out(analysis(program).program):.3f} on problems of other seeds with 100 weights")
print(f"distance to the minimum: gradient descent {held_out(GRADIENT):.3f}, found program {held_out(found):.3f}")
