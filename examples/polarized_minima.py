"""A polarized swarm finds the four minima of Himmelblau's function, of which a plain one finds one."""

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

import blackbox as bb
from blackbox.cbo import minima

mpl.use("Agg")

MINIMA = np.array([(3.0, 2.0), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127)])
WIDTH, GENERATIONS = 5.0, 200


def himmelblau(x):
    return (x[..., 0] ** 2 + x[..., 1] - 11) ** 2 + (x[..., 0] + x[..., 1] ** 2 - 7) ** 2


def swarm(kappa):
    """The first particles, and the state after all generations."""
    strategy = bb.create("polarized-cbo", kappa=kappa, sigma0=WIDTH / np.sqrt(3))
    state = strategy.init(bb.key(0), np.zeros(2))
    start = state.particles
    for _ in range(GENERATIONS):
        population = strategy.ask(state)
        state = strategy.tell(state, population, himmelblau(population))
    return start, state


axis = np.linspace(-1.15 * WIDTH, 1.15 * WIDTH, 300)
values = himmelblau(np.stack(np.meshgrid(axis, axis), axis=-1))
figure, panels = plt.subplots(1, 2, figsize=(11, 6.4), sharey=True, layout="constrained")
found = {}
for panel, name, kappa, sign in zip(panels, ("polarized", "plain"), (2.0, np.inf), ("2", r"\infty"), strict=True):
    start, state = swarm(kappa)
    points, value, particles = minima(state, within=0.5)
    for x, f, count in zip(points, value, particles, strict=True):
        print(f"{name:9} ({x[0]:6.3f}, {x[1]:6.3f})  value {f:.0e}, followed by {count} particles")
    found[name] = sum(np.abs(points - minimum).max(axis=1).min() < 0.02 for minimum in MINIMA)

    panel.contour(axis, axis, values, levels=np.geomspace(2, 800, 12), colors="#BBBBBB", linewidths=0.7, zorder=1)
    for first, last in zip(start, state.consensus, strict=True):
        panel.plot(*zip(first, last, strict=True), color="#56B4E9", lw=0.6, alpha=0.7, zorder=2)
    panel.scatter(*MINIMA.T, s=110, marker="x", color="black", lw=1.6, label="minima", zorder=3)
    panel.scatter(*start.T, s=14, color="#0072B2", label="particles at the start", zorder=3)
    panel.scatter(*state.particles.T, s=16, color="#E69F00", label="particles at the end", zorder=4)
    panel.scatter(
        *state.consensus.T, s=150, marker="o", facecolor="none", edgecolor="#D55E00", lw=1.6,
        label="consensus of a particle", zorder=5,
    )  # fmt: skip
    limits = (axis[0], axis[-1])
    panel.set(
        title=f"{name}, $\\kappa = {sign}$",
        xlabel="$x_1$",
        xlim=limits,
        ylim=limits,
        aspect="equal",
    )
panels[0].set_ylabel("$x_2$")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
figure.savefig("polarized_minima.png", dpi=120)
print(f"polarized found {found['polarized']} of 4 minima, plain {found['plain']}; picture: polarized_minima.png")
