"""Tables and plots of benchmark runs."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from objective import HIGH, LOW, SIGMA0, TARGETS
from peers import SAME_METHOD, SOLVERS
from rich.console import Console
from runs import GROUPS, Key, Run, difference, mean_area

mpl.use("Agg")

# Okabe and Ito 2008, distinguishable with every form of color blindness; line styles repeat the distinction.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00")
CURVES = 8  # solvers drawn in the runtime plots

Problems = frozenset[tuple[int, int, int, int]]


def _by_solver(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by solver, best mean area first."""
    solvers: dict[str, list[Run]] = {}
    for run in runs:
        solvers.setdefault(run.key.solver, []).append(run)
    return dict(sorted(solvers.items(), key=lambda item: -mean_area(item[1])))


def _problems(runs: Sequence[Run]) -> Problems:
    return frozenset((run.key.function, run.key.dimension, run.key.instance, run.key.seed) for run in runs)


def _span(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 as ``1-3, 7``."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in the source, too."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = [
        [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    ruler = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (padded[0], ruler, *padded[1:]))


def _cell(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _scores(solvers: dict[str, list[Run]], baseline: Sequence[Run], baseline_name: str) -> str:
    """One line a solver, all on the same problems."""
    dimensions = sorted({run.key.dimension for runs in solvers.values() for run in runs})
    rows = []
    for name, runs in solvers.items():
        evaluations = sum(run.evaluations for run in runs)
        rows.append(
            [
                name,
                _cell(float(np.mean([run.solved for run in runs]))),
                f"**{_cell(mean_area(runs))}**",
                *[_cell(mean_area([run for run in runs if run.key.dimension == d])) for d in dimensions],
                *[_cell(mean_area([run for run in runs if run.key.function in group])) for group in GROUPS.values()],
                "" if name == baseline_name else str(difference(runs, baseline)),
                f"{1e6 * sum(run.seconds for run in runs) / max(evaluations, 1):.0f}",
            ]
        )
    columns = ["solved", "area", *[f"D = {d}" for d in dimensions], *GROUPS, f"less {baseline_name}", "µs/eval."]
    return _table(["solver", *columns], rows)


def _pairs(solvers: dict[str, list[Run]]) -> str:
    """Ours against the same method in other packages, by dimension."""
    dimensions = sorted({run.key.dimension for runs in solvers.values() for run in runs})
    rows = []
    for ours, theirs in SAME_METHOD:
        if ours in solvers and theirs in solvers:
            by_dimension = [
                difference([run for run in solvers[ours] if run.key.dimension == d], solvers[theirs])
                for d in dimensions
            ]
            whole = difference(solvers[ours], solvers[theirs])
            rows.append([f"{ours} less {theirs}", str(whole.pairs), f"**{whole}**", *map(str, by_dimension)])
    return _table(["", "pairs", "area", *[f"D = {d}" for d in dimensions]], rows) if rows else ""


def _groups(solvers: dict[str, list[Run]]) -> dict[Problems, dict[str, list[Run]]]:
    """Solvers by the problems that they ran, most problems first."""
    groups: dict[Problems, dict[str, list[Run]]] = {}
    for name, own in solvers.items():
        groups.setdefault(_problems(own), {})[name] = own
    return dict(sorted(groups.items(), key=lambda item: -len(item[0])))


def _on(problems: Problems, solvers: dict[str, list[Run]]) -> dict[str, list[Run]]:
    """Solvers that ran all of the problems, with these runs only, best first."""
    shared = {name: [run for run in own if _problems([run]) <= problems] for name, own in solvers.items()}
    return _by_solver([run for own in shared.values() if len(own) == len(problems) for run in own])


def _section(factor: int, runs: Sequence[Run], baseline: str) -> str:
    solvers = _by_solver(runs)
    parts = [f"## {factor} · D evaluations"]
    for problems, members in _groups(solvers).items():
        functions, dimensions, instances, seeds = (_span(list(column)) for column in zip(*problems, strict=True))
        shown = {
            name: own
            for name, own in _on(problems, solvers).items()
            if name in members or name == baseline or name.startswith("blackbox:")
        }
        parts.append(
            f"Functions {functions}, D = {dimensions}, instances {instances}, seeds {seeds}: "
            f"{len(problems)} runs a solver.\n\n{_scores(shown, shown.get(baseline, []), baseline)}"
        )
    if pairs := _pairs(solvers):
        parts.append(f"The same method elsewhere, on the problems that both ran:\n\n{pairs}")
    return "\n\n".join(parts)


def _versions() -> str:
    names = ["numpy", *dict.fromkeys(solver.package for solver in SOLVERS.values())]
    found = []
    for name in dict.fromkeys(names):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def _markdown(runs: Sequence[Run], baseline: str, command: str) -> str:
    factors = sorted({run.key.factor for run in runs})
    sections = [_section(factor, [r for r in runs if r.key.factor == factor], baseline) for factor in factors]
    notes = [f"* `{n}`: {SOLVERS[n].note}." for n in _by_solver(runs) if n in SOLVERS and SOLVERS[n].note]
    failed = [run for run in runs if run.error]
    notes += [
        f"* `{name}`: {len(own)} runs ended in an error, such as {own[0].error}."
        for name, own in _by_solver(failed).items()
    ]
    return f"""# BBOB: ours and other packages' solvers

`{command}`, Python {platform.python_version()}, {platform.machine()};
{_versions()}.

Problems of `blackbox.problems.bbob`. {len(TARGETS)} targets, 10^2 to 10^-8 above the optimal value. *solved*: share of
targets hit within the budget of B evaluations. *area*: under the runtime ECDF with a logarithmic axis from 1 to B, the
mean of 1 - ln(hit) / ln(B), misses 0. Start points uniform in [-4, 4]^D by problem and seed, step size {SIGMA0}, the
same for all that take one; all restart until B is spent. "± " is the standard error of a paired difference over
functions and dimensions. Solvers that take a box get [{LOW}, {HIGH}]^D; `pycma`, `cmaes`, `evosax`, Nelder-Mead and
`blackbox:METHOD` run unbounded, but for methods that live in a box. µs/eval.: processor time, problem included, on a
shared machine.

{chr(10).join(sections)}

## Notes

{chr(10).join(notes) or "None."}
"""


def _summary(runs: Sequence[Run]) -> str:
    """Area and share solved per solver, budget, dimension and function (means over instances and seeds), as JSON."""
    cells: dict[tuple[str, int, int], dict[int, list[Run]]] = {}
    for run in runs:
        key: Key = run.key
        cells.setdefault((key.solver, key.factor, key.dimension), {}).setdefault(key.function, []).append(run)
    lines = []
    for (solver, factor, dimension), functions in sorted(cells.items()):
        record = {
            "solver": solver,
            "factor": factor,
            "dimension": dimension,
            "functions": sorted(functions),
            "runs": sum(map(len, functions.values())),
            "area": [round(mean_area(functions[f]), 4) for f in sorted(functions)],
            "solved": [round(float(np.mean([run.solved for run in functions[f]])), 4) for f in sorted(functions)],
        }
        lines.append(json.dumps(record))
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _most_compared(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The solvers to plot: all that ran the problems which most solvers ran, with these runs only."""
    solvers = _by_solver(runs)
    groups = _groups(solvers)
    return _on(max(groups, key=lambda problems: len(groups[problems])), solvers)


def _chosen(solvers: dict[str, list[Run]], baseline: str) -> list[str]:
    """The solvers worth a curve: ours and the baseline first, then the best others."""
    ours = [name for name in solvers if name.startswith("blackbox:") and name.count(":") == 1][: CURVES // 2]
    others = [name for name in solvers if name != baseline and not name.startswith("blackbox:")]
    return [*ours, *[baseline][: baseline in solvers], *others][:CURVES]


def _plot_runtimes(factor: int, runs: Sequence[Run], baseline: str, path: Path) -> None:
    """Share of (problem, target) pairs hit over the evaluations by dimension, one panel a dimension."""
    solvers = _most_compared(runs)
    dimensions = sorted({run.key.dimension for own in solvers.values() for run in own})
    columns = min(2, len(dimensions))
    rows = -(-len(dimensions) // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(5.5 * columns, 3.8 * rows + 0.8), squeeze=False, layout="constrained", sharey=True
    )
    for panel, dimension in zip(panels.flat, dimensions, strict=False):
        for i, name in enumerate(_chosen(solvers, baseline)):
            own = [run for run in solvers[name] if run.key.dimension == dimension]
            at = np.sort(np.concatenate([np.array(run.hits, dtype=float) for run in own]))
            share = np.arange(1, len(at) + 1) / (len(own) * len(TARGETS))
            end = float(share[-1]) if len(share) else 0.0
            x = np.array([1.0, *at, factor * dimension]) / dimension
            style = "-" if name.startswith("blackbox:") else "--"
            panel.step(x, [0.0, *share, end], where="post", color=COLORS[i], ls=style, lw=1.8, label=name)
        panel.set(title=f"D = {dimension}", xscale="log", xlim=(1.0, factor), ylim=(0, None))
        panel.set_xlabel("evaluations / D")
        panel.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:g}"))
        panel.grid(alpha=0.3)
    for panel in panels[:, 0]:
        panel.set_ylabel("share of targets hit")
    for panel in list(panels.flat)[len(dimensions) :]:
        panel.remove()
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_areas(factor: int, runs: Sequence[Run], path: Path) -> None:
    """Mean area of all solvers that ran the same, largest number of problems."""
    solvers = _most_compared(runs)
    names = list(solvers)[::-1]
    areas = [mean_area(solvers[name]) for name in names]
    colors = [COLORS[0] if name.startswith("blackbox:") else "#999999" for name in names]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.27 * len(names)), layout="constrained")
    axes.barh(names, areas, color=colors, height=0.75)
    for y, area in enumerate(areas):
        axes.text(area, y, f" {area:.3f}", va="center", fontsize=8)
    own = solvers[names[0]]
    dimensions = _span([run.key.dimension for run in own])
    title = f"{factor} · D evaluations, D = {dimensions}, {len(own)} runs a solver; ours in blue"
    axes.set(xlabel="area under the runtime ECDF", title=title)
    axes.set_xlim(0, 1.1 * max(areas))
    axes.margins(y=0.01)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(runs: Sequence[Run], baseline: str, folder: Path, console: Console, command: str) -> None:
    """Print the tables and write them, the summary and the plots into ``folder``."""
    text = _markdown(runs, baseline, command)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    (folder / "bbob.md").write_text(text, encoding="utf-8")
    (folder / "bbob.json").write_text(_summary(runs), encoding="utf-8")
    for factor in sorted({run.key.factor for run in runs}):
        own = [run for run in runs if run.key.factor == factor]
        _plot_runtimes(factor, own, baseline, folder / f"bbob-ecdf-{factor}.png")
        _plot_areas(factor, own, folder / f"bbob-area-{factor}.png")
    console.print(f"written: {folder / 'bbob.md'}, bbob.json and plots")
