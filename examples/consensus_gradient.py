"""A consensus that sees no gradient goes the way of gradient descent on a smoothed function, past narrow valleys."""

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

import blackbox as bb

mpl.use("Agg")

# Riedl, Klock, Geldhauser & Fornasier 2023, "Gradient is all you need?": their clouds, steps and start.
RUNS, STEPS, POPSIZE, ALPHA, WIDTH, START = 50, 250, 200, 100.0, 0.7, 8.0


def f(x, smoothing=0.0):
    """Rastrigin's function, or its mean over a normal of that standard deviation."""
    waves = 1 - np.exp(-2 * (np.pi * smoothing) ** 2) * np.cos(2 * np.pi * x)
    return np.sum(x**2 + smoothing**2 + 2.5 * waves, axis=-1)


def gradient_flow(start, smoothing, step=1e-3, steps=5000):
    path = [np.array(start)]
    for _ in range(steps):
        slope = 5 * np.pi * np.exp(-2 * (np.pi * smoothing) ** 2) * np.sin(2 * np.pi * path[-1])
        path.append(path[-1] - step * (2 * path[-1] + slope))
    return np.stack(path)


def consensus_paths(method, **settings):
    """The consensus after each step of each run, of shape (steps, runs, 2): the runs are one leading axis."""
    strategy = bb.create(method, popsize=POPSIZE, **settings)
    keys = np.stack([bb.key(seed) for seed in range(RUNS)])
    state = strategy.init(keys, np.full((RUNS, 2), START))
    path = [state.consensus]
    for _ in range(STEPS):
        population = strategy.ask(state)
        state = strategy.tell(state, population, f(population))
        path.append(state.consensus)
    return np.stack(path)


hopping = consensus_paths("consensus-hopping", sigma0=WIDTH, alpha=ALPHA, decay=1.0)
cbo = consensus_paths(
    "cbo", sigma0=0.5, diffusion="isotropic", s=0.16, drift=0.01, alpha="geometric", alpha0=ALPHA, alpha_max=ALPHA
)
start = (START, START)
descent, smoothed = gradient_flow(start, 0.0), gradient_flow(start, WIDTH)

axis = np.linspace(-2.0, 9.5, 400)
values = f(np.stack(np.meshgrid(axis, axis), axis=-1))
figure, panels = plt.subplots(1, 2, figsize=(11, 6.2), sharey=True, layout="constrained")
courses = {"consensus hopping": hopping, "consensus-based optimization": cbo}
for panel, (title, paths) in zip(panels, courses.items(), strict=True):
    panel.contourf(axis, axis, values, levels=24, cmap="Greys", alpha=0.55, zorder=0)
    for run in range(RUNS):
        label = f"consensus, {RUNS} runs" if run == 0 else None
        panel.plot(*paths[:, run].T, color="#56B4E9", lw=0.7, alpha=0.4, label=label, zorder=1)
    panel.plot(*paths.mean(axis=1).T, color="#0072B2", lw=2.4, label="their mean", zorder=2)
    panel.plot(*smoothed.T, color="#E69F00", lw=2.4, ls="--", label="gradient flow of the smoothed f", zorder=3)
    panel.plot(*descent.T, color="#D55E00", lw=3, label="gradient flow of f", zorder=4)
    panel.scatter(*descent[-1], s=60, color="#D55E00", zorder=5)
    panel.scatter(*start, s=60, marker="s", color="black", label="start", zorder=6)
    panel.scatter(0, 0, s=160, marker="*", color="black", label="minimum", zorder=6)
    limits = (axis[0], axis[-1])
    panel.set(title=title, xlabel="$x_1$", xlim=limits, ylim=limits, aspect="equal")
panels[0].set_ylabel("$x_2$")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
figure.savefig("consensus_gradient.png", dpi=120)

of_hopping, of_cbo = (np.median(np.linalg.norm(path[-1], axis=-1)) for path in (hopping, cbo))
print(
    f"final distance to the minimum: hopping {of_hopping:.3f}, CBO {of_cbo:.3f}, "
    f"gradient descent {np.linalg.norm(descent[-1]):.2f}; picture: consensus_gradient.png"
)
