"""The demonstration's three figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

mpl.use("Agg")

# Okabe and Ito 2008: distinguishable with every form of color blindness. Line styles repeat the distinction.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
STYLES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (4, 2, 1, 2, 1, 2)), (0, (2, 2)))

mpl.rcParams.update(
    {
        "figure.figsize": (8, 5),
        "figure.dpi": 120,
        "figure.constrained_layout.use": True,
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "legend.frameon": False,
    }
)


def _save(name: str, folder: Path) -> Path:
    path = folder / name
    plt.savefig(path)
    plt.close()
    return path


def search(losses: Sequence[float], default: float, label: str, title: str, folder: Path) -> Path:
    """Loss of every evaluation of a hyperparameter search in order, and the best so far.

    Args:
        losses: one per evaluation; NaN where it failed.
        default: the loss of the library's own settings.
        label: of the loss's axis, with its unit.
        title: of the figure.
        folder: where the picture goes.
    """
    values = np.array(losses, dtype=float)
    number = np.arange(1, len(values) + 1)
    best = np.fmin.accumulate(np.where(np.isnan(values), np.inf, values))
    figure, axes = plt.subplots()
    axes.scatter(number, values, s=22, color=COLORS[5], label="one evaluation", zorder=2)
    axes.step(number, best, where="post", color=COLORS[0], lw=2.2, label="best so far", zorder=3)
    axes.axhline(default, color=COLORS[1], ls="--", lw=1.8, label="default settings", zorder=1)
    axes.set(xlabel="evaluations", ylabel=label, title=title, yscale="log", xlim=(0, len(values) + 1))
    _plain_log_ticks(axes)
    figure.legend(loc="outside lower center", ncols=3)
    return _save("1-hyperparameters.png", folder)


def runtimes(
    hits: Mapping[str, Sequence[float]], targets: int, budget: int, dimension: int, title: str, folder: Path
) -> Path:
    """Share of (function, target) pairs reached over the evaluations spent.

    Args:
        hits: by method, the evaluation at which each reached target was reached first.
        targets: number of (function, target) pairs.
        budget: evaluations of each run.
        dimension: of the functions.
        title: of the figure.
        folder: where the picture goes.
    """
    _, axes = plt.subplots()
    ordered = sorted(hits, key=lambda method: -len(hits[method]))
    for i, method in enumerate(ordered):
        at = np.sort(np.array(hits[method], dtype=float))
        share = np.arange(1, len(at) + 1) / targets
        axes.step(
            [1, *at, budget], [0, *share, share[-1]], where="post", lw=2, color=COLORS[i], ls=STYLES[i], label=method
        )
    axes.set(
        xlabel=f"evaluations (dimension {dimension})", ylabel="share of targets reached", title=title,
        xscale="log", xlim=(1, budget), ylim=(0, None),
    )  # fmt: skip
    axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, decimals=0))
    axes.legend(loc="upper left", title="method, best at the end first")
    return _save("2-bbob.png", folder)


def learning(episodes: np.ndarray, returns: np.ndarray, highest: float, title: str, label: str, folder: Path) -> Path:
    """Returns of a population of policies over the episodes played.

    Args:
        episodes: played up to each generation, shape ``(generations,)``.
        returns: worst, quartiles and best in each generation, shape ``(generations, 5)``.
        highest: return that an episode can have.
        title: of the figure.
        label: of the return's axis, with its unit.
        folder: where the picture goes.
    """
    low, lower, median, upper, high = np.asarray(returns).T
    figure, axes = plt.subplots()
    axes.fill_between(episodes, low, high, color=COLORS[5], alpha=0.25, lw=0, label="worst to best of a generation")
    axes.fill_between(episodes, lower, upper, color=COLORS[5], alpha=0.6, lw=0, label="middle half")
    axes.plot(episodes, median, color=COLORS[0], lw=2.2, label="median")
    axes.set(xlabel="episodes played", ylabel=label, title=title, xlim=(0, episodes[-1]), ylim=(0, 1.05 * highest))
    axes.axhline(highest, color=COLORS[1], ls="--", lw=1.8, label="highest possible")
    axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
    figure.legend(loc="outside lower center", ncols=4)
    return _save("3-neuroevolution.png", folder)


def _plain_log_ticks(axes: Axes) -> None:
    """Numbers such as 0.02 instead of powers of ten, on an axis that may span less than a decade."""
    axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5), numticks=8))
    axes.yaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
