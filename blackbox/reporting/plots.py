"""Figures of a run: convergence, parallel coordinates, importance of the variables. Needs matplotlib.

Colors are those of Okabe and Ito (2008) and the map viridis: distinguishable with every form of color blindness.
Nothing here touches matplotlib's global state.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.errors import SettingError, missing_extra
from blackbox.reporting.axes import Axis, axes
from blackbox.reporting.importance import LEAST, importance
from blackbox.reporting.report import Report, coordinates
from blackbox.reporting.tables import plain, shown

if TYPE_CHECKING:
    from jaxtyping import Float

BLUE, VERMILION, GREEN, GRAY = "#0072B2", "#D55E00", "#009E73", "#767676"
MOST_POINTS = 4000  # dots of the convergence plot; of more evaluations, evenly spaced ones are shown
MOST_LINES = 400  # of parallel coordinates; of more evaluations, the best half and others evenly spaced
MOST_AXES, MOST_BARS = 10, 15
HUGE = 1e100  # values beyond, such as penalties, are drawn here: axes of matplotlib overflow from some 1e250 on
FORMATS = (".png", ".pdf", ".svg")

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


class Plot(NamedTuple):
    """One kind of figure."""

    name: str
    height: float
    """In inches, at a width of 9."""
    draw: Callable[[Any, Report], None]
    """Draws a report on matplotlib axes."""


def save(report: Report, path: Path) -> None:
    """All figures of a run, one below the other, as a picture.

    Args:
        report: the run.
        path: ends in .png, .pdf or .svg.

    Raises:
        SettingError: another ending, several objectives, or a file that cannot be written.
        MissingExtra: matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise SettingError(f"the picture must end in {', '.join(FORMATS)}; got {str(path)!r}")
    if report.settings.objectives > 1:
        raise SettingError(
            f"the journal must be of a run with one objective; got one with {report.settings.objectives}"
        )
    heights = [plot.height for plot in PLOTS]
    with new_figure(sum(heights)) as figure:
        for part, plot in zip(figure.subfigures(len(PLOTS), height_ratios=heights), PLOTS, strict=True):
            plot.draw(part.subplots(), report)
        write(path, lambda file: figure.savefig(file, dpi=120, format=path.suffix[1:].lower()))


def write(path: Path, content: Callable[[Any], object]) -> None:
    """Let ``content`` write to the file at ``path``; folders are made as needed.

    Raises:
        SettingError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            content(file)
    except OSError as error:
        raise SettingError(f"the file {str(path)!r} cannot be written: {error.strerror}") from error


def render(plot: Plot, report: Report, file: Any) -> None:
    """One figure of a run as PNG."""
    with new_figure(plot.height) as figure:
        plot.draw(figure.subplots(), report)
        figure.savefig(file, dpi=140, format="png")


@contextlib.contextmanager
def new_figure(height: float) -> Iterator[Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot") from error
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # names in rare scripts
        yield Figure(figsize=(9, height), layout="constrained")


class _Scale(NamedTuple):
    """How values are drawn."""

    heights: Float[np.ndarray, "n"]
    label: str
    is_log: bool

    @classmethod
    def of(cls, report: Report) -> _Scale:
        """Logarithmic where the values span decades: of the values if all are positive, else of the distance to the
        best one, which itself then lies on the lower edge. Larger numbers than matplotlib can draw lie on the edge.
        """
        values, minimizes = np.clip(report.values, -HUGE, HUGE), report.sign > 0
        finite = values[report.is_ok]
        label = "value (lower is better)" if minimizes else "value (higher is better)"
        if finite.min() > 0:
            values = np.maximum(values, 1 / HUGE)
            return cls(values, label, bool(finite.max() >= 30 * finite.min()))
        best = finite.min() if minimizes else finite.max()
        distance = np.abs(values - best)
        positive = distance[report.is_ok & (distance > 0)]
        if len(positive) > 2 and np.quantile(positive, 0.95) / np.quantile(positive, 0.05) >= 100:
            label = "value \N{MINUS SIGN} best value" if minimizes else "best value \N{MINUS SIGN} value"
            return cls(np.maximum(distance, max(positive.min(), 1 / HUGE)), label, True)
        return cls(values, label, False)


def convergence(panel: Any, report: Report) -> None:
    """Every evaluation's value and the best so far, over the number of evaluations."""
    values, is_ok = report.values, report.is_ok
    number = np.arange(1, len(values) + 1)
    panel.set(title="Convergence")
    if not is_ok.any():
        return _say(panel, "no evaluation has a value")
    panel.grid(True)
    panel.set(xlabel="evaluations")
    scale = _Scale.of(report)
    ok = np.flatnonzero(is_ok)
    dots = ok[:: math.ceil(len(ok) / MOST_POINTS)]
    panel.scatter(number[dots], scale.heights[dots], s=14, color=BLUE, alpha=0.45, lw=0, label="one evaluation")
    best = scale.heights[report.best_so_far]
    steps = np.append(number[ok], len(values)), np.append(best, best[-1])
    panel.step(*steps, where="post", color=VERMILION, lw=2.2, label="best so far")
    first = report.ranking[0]
    text = f"best: {shown(float(values[first]))} (evaluation {first + 1})"
    panel.plot(
        number[first], scale.heights[first], "*", ms=14, color=VERMILION, mec="white", mew=0.8, ls="none", label=text
    )
    if len(lost := number[~is_ok]):  # on the upper edge, whatever the scale of the values
        panel.plot(
            lost, np.ones(len(lost)), "x", ms=6, mew=1.5, color="black", ls="none", clip_on=False,
            transform=panel.get_xaxis_transform(), label=f"without a value ({len(lost)})",
        )  # fmt: skip
    panel.set(ylabel=scale.label, yscale="log" if scale.is_log else "linear")
    if len(values) >= 2000:
        panel.set(xscale="log", xlim=(1, len(values)))
    else:
        panel.set_xlim(0, len(values) + 1)
        panel.xaxis.get_major_locator().set_params(integer=True)
    _legend(panel)


def parallel_coordinates(panel: Any, report: Report) -> None:
    """One line per evaluation across an axis per variable; the better, the darker."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    panel.set(title="Parallel coordinates")
    if not report.is_ok.any():
        return _say(panel, "no evaluation has a value")
    panel.spines[["left", "bottom"]].set_visible(False)
    panel.set_yticks([])
    found, note = _chosen_axes(report)
    scale = _Scale.of(report)
    ranking = [i for i in report.ranking if report.is_ok[i]]
    if len(ranking) > MOST_LINES:
        rest = np.linspace(MOST_LINES // 2, len(ranking) - 1, MOST_LINES // 2).astype(int)
        note.append(f"{MOST_LINES} of {len(ranking)} evaluations")
        ranking = ranking[: MOST_LINES // 2] + [ranking[i] for i in rest]
    lost = np.flatnonzero(~report.is_ok)[-MOST_LINES // 4 :].tolist()
    order = ranking + lost
    numbers = np.array(
        [[axis.number(coordinates(report.evaluations[i].candidate.x)) for axis in found] for i in order]
    ).reshape(len(order), len(found))
    places = np.full((len(order), len(found) + 1), ABSENT)
    for k, axis in enumerate(found):
        places[:, k] = [ABSENT if math.isnan(number) else axis.position(number) for number in numbers[:, k]]
        if axis.options is not None:  # apart, so that lines through the same option can be told apart
            places[:, k] += np.where(np.isnan(numbers[:, k]), 0.0, 0.05 * (np.arange(len(order)) * 0.618 % 1.0 - 0.5))
    heights = scale.heights[ranking]
    value_axis = Axis("value", float(heights.min()), float(heights.max()), scale.is_log)
    places[: len(ranking), -1] = [value_axis.position(height) for height in heights.tolist()]

    lines = [np.column_stack([np.arange(len(row)), row]) for row in places]
    shades = np.linspace(0.0, 0.95, len(ranking))
    kept = list(zip(lines, colormaps["viridis"](shades), strict=False))[::-1]  # the best on top
    panel.add_collection(
        LineCollection([line for line, _ in kept], colors=[color for _, color in kept], lw=1.1, alpha=0.5)
    )
    if lost:
        dotted = LineCollection(lines[len(ranking) :], colors="black", lw=0.9, ls=":", alpha=0.6)
        dotted.set_label(f"without a value ({(~report.is_ok).sum()})")
        panel.add_collection(dotted)
    panel.plot(*lines[0].T, color=VERMILION, lw=2.4, label="best")
    panel.plot([], [], color=colormaps["viridis"](0.05), lw=2, label="better")
    panel.plot([], [], color=colormaps["viridis"](0.9), lw=2, label="worse")
    for k, axis in enumerate([*found, value_axis]):
        is_gappy = bool((places[:, k] == ABSENT).any())
        _draw_axis(panel, k, axis, "" if not is_gappy else "none" if axis is value_axis else "absent")
    names = [*(_label(axis.name, 18) for axis in found), scale.label.replace(" (", "\n(")]
    slanted = any(len(a) + len(b) > 200 / len(names) for a, b in itertools.pairwise(n.split("\n")[0] for n in names))
    panel.set_xticks(range(len(names)), names, rotation=25 if slanted else 0, ha="right" if slanted else "center")
    panel.tick_params(axis="x", length=0)
    bottom = ABSENT if (places == ABSENT).any() else 0.0
    panel.set(xlim=(-0.15, len(found) + 0.4), ylim=(bottom - 0.06, 1.05))
    if note:
        panel.set_xlabel("shown: " + "; ".join(note), fontsize=9, color=GRAY)
    _legend(panel)


ABSENT = -0.14  # where lines cross the axis of a variable that they do not have


def _chosen_axes(report: Report) -> tuple[list[Axis], list[str]]:
    """The axes to draw, in the order of the space, and what is left out."""
    everything = axes(report.settings.space)
    found = [axis for axis in everything if axis.item is None]
    left_out = sorted({axis.name for axis in everything if axis.item is not None})
    note = [f"all but the permutation {', '.join(left_out)}"] if left_out else []
    if len(found) > MOST_AXES:
        ranked = importance(report)
        names = [axis.name for axis in found] if ranked is None else ranked.names
        names = [name for name in names if name not in left_out][:MOST_AXES]
        note.append(f"{'the first' if ranked is None else 'the most important'} {MOST_AXES} of {len(found)} variables")
        found = [axis for axis in found if axis.name in names]
    return found, note


def _draw_axis(panel: Any, k: int, axis: Axis, absent: str) -> None:
    """An upright axis at x = k with its ticks; ``absent`` labels the place below it, if any line passes there."""
    panel.plot([k, k], [0.0, 1.0], color="black", lw=1.0, zorder=3)
    ticks = [(axis.position(number), text) for number, text in _ticks(axis)] + [(ABSENT, absent)] * bool(absent)
    for y, text in ticks:
        panel.plot([k - 0.015, k + 0.015], [y, y], color="black", lw=1.0, zorder=3)
        panel.text(
            k + 0.03, y, text, fontsize=8, va="center", zorder=4, style="italic" if y == ABSENT else "normal",
            bbox={"facecolor": "white", "alpha": 0.75, "pad": 0.6, "lw": 0},
        )  # fmt: skip


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    """Some numbers on an axis, both ends among them, and what to write there."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if axis.options is not None:
        step = math.ceil(len(axis.options) / 12)
        return [(float(i), _label(axis.options[i], 14)) for i in range(0, len(axis.options), step)]
    locator = LogLocator(numticks=6) if axis.is_log else MaxNLocator(4, integer=axis.is_integer)
    inner = [float(tick) for tick in locator.tick_values(axis.low, axis.high) if axis.low < tick < axis.high]
    inner = [tick for tick in inner if 0.08 < axis.position(tick) < 0.92]
    ends = [axis.low, axis.high] if axis.high > axis.low else [axis.low]
    return [(number, _short(number)) for number in [*ends, *inner]]


def _short(number: float) -> str:
    """Three digits, and exponents without their zeros: 1e-5."""
    mantissa, e, exponent = f"{number:.3g}".partition("e")
    return mantissa + (f"e{int(exponent)}" if e else "")


def importances(panel: Any, report: Report) -> None:
    """A bar per variable."""
    panel.set(title="Importance of the variables")
    found = importance(report)
    if found is None:
        return _say(panel, f"needs {LEAST} evaluations with different values")
    count = min(MOST_BARS, len(found.names))
    y = np.arange(count)[::-1]
    spread = None if found.spread is None else found.spread[:count]
    style = {"ecolor": GRAY, "capsize": 2.5}
    panel.barh(y, found.scores[:count], xerr=spread, color=BLUE, height=0.65, error_kw=style)
    panel.set_yticks(y, [_label(name, 28) for name in found.names[:count]], fontsize=10 if count <= 10 else 8)
    panel.set_xlabel(f"{found.label}\n{textwrap.fill(found.note, 95)}")
    panel.axvline(0.0, color="black", lw=0.8)
    panel.grid(axis="x")
    panel.set_ylim(-0.6, count - 0.4)
    if len(found.names) > count:
        panel.set_title(f"Importance of the first {count} of {len(found.names)} variables")


PLOTS = (
    Plot("Convergence", 3.6, convergence),
    Plot("Parallel coordinates", 4.2, parallel_coordinates),
    Plot("Importance of the variables", 3.4, importances),
)


def _legend(panel: Any) -> None:
    """On the line of the title, so that the panel keeps its width."""
    panel.legend(loc="lower right", bbox_to_anchor=(1.01, 1.015), ncols=5, fontsize=9, borderpad=0, columnspacing=1.2)


def _say(panel: Any, text: str) -> None:
    """A sentence instead of a plot."""
    panel.set_axis_off()
    panel.text(0.5, 0.5, text, ha="center", va="center", transform=panel.transAxes, color=GRAY)


def _label(name: object, length: int) -> str:
    """A user's name as matplotlib text: short, in one line, and with dollars that begin no formula."""
    text, half = plain(name), (length - 1) // 2
    return (text if len(text) <= length else f"{text[:half]}…{text[-half:]}").replace("$", r"\$")
