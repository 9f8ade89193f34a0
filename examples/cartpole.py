"""Neuroevolution: a network that balances CartPole, evolved in one compiled program, episodes included."""

import jax.numpy as jnp
import numpy as np

import blackbox as bb
from blackbox.problems.control import JaxControl

task = JaxControl("CartPole-v1", hidden=(8,), episodes=8)  # minus the mean number of steps, at most 500
strategy = bb.create("cma-es", popsize=64, sigma0=0.5)
state, history = bb.run(strategy, task, jnp.zeros(task.dimension), key=bb.key(0), generations=30)

for generation in (0, 4, 9, 14, 19, 29):
    worst, median, best = -np.asarray(history.quantiles)[generation, [4, 2, 0]]
    print(f"generation {generation + 1:2d}: return {worst:5.1f} (worst), {median:5.1f} (median), {best:5.1f} (best)")
print(f"{int(history.evaluations) * task.episodes} episodes in {history.seconds:.1f} s, compilation included")

unseen = JaxControl("CartPole-v1", hidden=(8,), episodes=50, seed=1)
print(f"mean return of the evolved policy: {-float(unseen(strategy.recommend(state))):.0f} of 500 in unseen episodes")
