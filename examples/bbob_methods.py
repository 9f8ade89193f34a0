"""Methods compared on three BBOB functions, with a picture of the distance to the optimum over the evaluations."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

import blackbox as bb
from blackbox.problems.bbob import BBOB

mpl.use("Agg")

METHODS = {"cma-es": "#0072B2", "l-shade": "#D55E00", "nelder-mead": "#009E73", "random": "#000000"}
DIMENSION, BUDGET = 5, 2000


def distances(problem, method):
    """Distance to the optimal value after each evaluation."""
    history = []

    def objective(x):
        value = float(problem(x))
        history.append(value - problem.f_opt)
        return value

    box = bb.Box([-5.0] * DIMENSION, [5.0] * DIMENSION)
    bb.minimize(objective, box, method=method, budget=BUDGET, seed=0)
    return np.minimum.accumulate(history)


figure, panels = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
for panel, function in zip(panels, (8, 10, 15), strict=True):
    problem = BBOB(function, DIMENSION, 1)
    for method, color in METHODS.items():
        curve = distances(problem, method)
        panel.step(np.arange(1, len(curve) + 1), curve, where="post", color=color, label=method)
        print(f"f{function:<2} {problem.name:24} {method:12} {curve[-1]:.1e}")
    panel.set(title=f"f{function}: {problem.name}", xlabel="evaluations", xscale="log", yscale="log", xlim=(1, BUDGET))
    panel.grid(alpha=0.3)
panels[0].set_ylim(bottom=1e-9)  # of all panels, once every curve is there
panels[0].set_ylabel("distance to the optimal value")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS), frameon=False)
path = Path("bbob_methods.png")
figure.savefig(path, dpi=120)
print(f"picture: {path}")
