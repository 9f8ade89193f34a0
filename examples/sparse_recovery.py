"""A signal with three spikes in thirty places is recovered from its measurements alone, by values and no gradient.

MirrorCBO and plain CBO have the same particles at the start and the same settings (Bungert, Hoffmann, Kim & Roith
2025); but a coordinate of MirrorCBO is 0 until its dual has gone far enough.
"""

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

import blackbox as bb
from blackbox.problems.recovery import SparseRecovery

mpl.use("Agg")

SIGNALS, STEPS = 20, 300
SHARED = {
    "sigma0": 1.0, "s": 2 * 0.05**0.5, "drift": 0.05, "truncation": float("inf"),
    "alpha0": 1.0, "growth": 1.4, "alpha_max": 1e15,
}  # fmt: skip
STRATEGIES = {
    "MirrorCBO": bb.cbo.MirrorCBO(mirror="sparse", threshold=2.0, **SHARED),
    "CBO": bb.cbo.CBO(diffusion="anisotropic", alpha="geometric", **SHARED),
    "CBO with its own defaults": bb.cbo.CBO(),
}


def recovered(strategy, problem):
    state = strategy.init(bb.key(0), np.zeros(problem.d))
    for _ in range(STEPS):
        population = strategy.ask(state)
        state = strategy.tell(state, population, problem(population))
    return strategy.recommend(state)


problems = [SparseRecovery(seed=seed) for seed in range(SIGNALS)]
found, errors = {}, {}
for name, strategy in STRATEGIES.items():
    found[name] = [recovered(strategy, problem) for problem in problems]
    errors[name] = [float(problem.distance(x)) for problem, x in zip(problems, found[name], strict=True)]
    near = sum(error < 0.05 for error in errors[name])
    print(f"{name}: median relative error {np.median(errors[name]):.3f}, below 0.05 for {near} of {SIGNALS} signals")

places = np.arange(problems[0].d)
figure, panels = plt.subplots(2, 1, figsize=(8, 5.4), sharex=True, sharey=True, layout="constrained")
for panel, name in zip(panels, ("MirrorCBO", "CBO"), strict=True):
    truth, x = problems[0].x_true, found[name][0]
    for heights, style, color, size, label in (
        (truth, "o", "#BBBBBB", 10, "truth"),
        (x, "D", "#D55E00", 4.5, "recovered"),
    ):
        markers, stems, _ = panel.stem(places, heights, markerfmt=style, basefmt=" ", label=label)
        plt.setp(markers, color=color, markersize=size)
        plt.setp(stems, color=color, linewidth=size / 3)
    panel.axhline(0, color="black", lw=0.6)
    zeros = int((np.abs(x) < 1e-9).sum())
    panel.set(title=f"{name}, the first signal: relative error {errors[name][0]:.3f}, {zeros} zeros", ylabel="$x_k$")
panels[-1].set(xlabel="$k$")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
figure.savefig("sparse_recovery.png", dpi=120)
medians = ", ".join(f"{name} {np.median(errors[name]):.3f}" for name in ("MirrorCBO", "CBO"))
print(f"median relative error of {medians}; picture: sparse_recovery.png")
