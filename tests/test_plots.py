"""Figures and pages: what is drawn, that hostile names do no harm, and that a page needs nothing but itself."""

from __future__ import annotations

import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blackbox.errors import MissingExtra, SettingError
from blackbox.optimizer import Optimizer
from blackbox.reporting import page, plots
from blackbox.reporting.report import Report
from blackbox.space import Bool, Box, Choice, Float, Int, Permutation, Space

matplotlib = pytest.importorskip("matplotlib")

HOSTILE = Space(
    {
        "$x$ <script>alert(1)</script>": Float(1e-3, 1e3, log=True),
        "a_{b}^\\frac": Int(1, 2),
        "\N{PILE OF POO} naïve": Bool(),
        "order": Permutation(["a", "b", "c"]),
        "k": Choice({"$": Space({"inner": Float(0, 1)}), "</table>": None}),
    }
)


@pytest.fixture(autouse=True)
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    """How good the importances are is tests/test_report.py's concern."""
    monkeypatch.setattr("blackbox.reporting.importance.TREES", 8)
    monkeypatch.setattr("blackbox.reporting.importance.SHUFFLES", 2)


def told(path: Path, space: Any, values: list[float], method: str = "random", **settings: Any) -> Report:
    """A run of which candidate i was told values[i], NaN as a failure with a reason."""
    with Optimizer(space, method, seed=0, journal=path, **settings) as optimizer:
        for candidate, value in zip(optimizer.ask(len(values)), values, strict=True):
            if math.isnan(value):
                optimizer.fail(candidate, 'it <b>"failed"</b> http://example.org\nand more')
            else:
                optimizer.tell(candidate, value)
    return Report.read(path)


def drawn(plot: plots.Plot, report: Report) -> Any:
    with plots.new_figure(plot.height) as figure:
        panel = figure.subplots()
        plot.draw(panel, report)
    return panel


def labelled(panel: Any, start: str) -> Any:
    (artist,) = [line for line in panel.lines if str(line.get_label()).startswith(start)]
    return artist


CONVERGENCE, PARALLEL, IMPORTANCE = plots.PLOTS


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_convergence_draws_the_best_so_far_and_marks_failures(tmp_path: Path, direction: Any) -> None:
    values = [5.0, math.nan, 3.0, 4.0, 6.0, math.nan, 2.0, 2.5]
    panel = drawn(CONVERGENCE, told(tmp_path / "run.db", Box(0, 1, 2), values, direction=direction))
    best = labelled(panel, "best so far")
    expected = [5, 3, 3, 3, 2, 2, 2] if direction == "minimize" else [5, 5, 5, 6, 6, 6, 6]
    assert best.get_xdata().tolist() == [1, 3, 4, 5, 7, 8, 8]
    assert best.get_ydata().tolist() == expected
    assert labelled(panel, "without a value (2)").get_xdata().tolist() == [2, 6]
    assert labelled(panel, "best: ").get_xdata().tolist() == [7 if direction == "minimize" else 5]
    assert panel.get_xlabel() == "evaluations"
    assert direction == "minimize" or "higher is better" in panel.get_ylabel()


@pytest.mark.parametrize(
    ("values", "scale", "label"),
    [
        ([1e-3, 1.0, 1e3, 5.0], "log", "value (lower is better)"),
        ([1.0, 2.0, 3.0, 4.0], "linear", "value (lower is better)"),
        ([-1.0, 2.0, 3.0, 4.0], "linear", "value (lower is better)"),
        ([-50.0, -50 + 1e-9, 1e6, 3.0, -49.0], "log", "value − best value"),
    ],
)
def test_logarithmic_axes_where_values_span_decades(
    tmp_path: Path, values: list[float], scale: str, label: str
) -> None:
    panel = drawn(CONVERGENCE, told(tmp_path / "run.db", Box(0, 1, 2), values))
    assert panel.get_yscale() == scale
    assert panel.get_ylabel() == label
    assert np.isfinite(labelled(panel, "best so far").get_ydata()).all()


@pytest.mark.parametrize("values", [[1.0, 2.0, 1e308, 5.0], [1e-308, 3.0, 1e308], [-1e308, 0.0, 1e300, 4.0, 1e-300]])
def test_huge_values_such_as_penalties_leave_the_rest_visible(tmp_path: Path, values: list[float]) -> None:
    report = told(tmp_path / "run.db", Box(0, 1, 2), values)
    plots.save(report, tmp_path / "run.png")  # warnings of overflow would be errors
    low, high = drawn(plots.PLOTS[0], report).get_ylim()
    assert np.isfinite([low, high]).all()
    assert low < 2.0 < high


def test_many_evaluations_are_thinned_but_the_best_is_exact(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(5000).tolist()
    panel = drawn(CONVERGENCE, told(tmp_path / "run.db", Box(0, 1, 2), values))
    assert len(panel.collections[0].get_offsets()) <= plots.MOST_POINTS
    assert labelled(panel, "best so far").get_ydata()[-1] == min(values)
    assert panel.get_xscale() == "log"


def test_parallel_coordinates_have_a_line_per_evaluation_and_axes_with_bounds(tmp_path: Path) -> None:
    report = told(tmp_path / "run.db", HOSTILE, [float(i) for i in range(18)] + [math.nan] * 2)
    panel = drawn(PARALLEL, report)
    kept, lost = panel.collections
    assert len(kept.get_segments()) == 18
    assert len(lost.get_segments()) == 2
    names = [label.get_text().replace(r"\$", "$") for label in panel.get_xticklabels()]
    assert [name[:4] for name in names] == ["$x$ ", "a_{b", "\N{PILE OF POO} na", "k", "inne", "valu"]
    texts = [text.get_text() for text in panel.texts]
    assert {"0.001", "1e3", "True", "False", "absent", "none"} <= set(texts)
    assert "permutation" in panel.get_xlabel()
    best = labelled(panel, "best")
    candidate = report.evaluations[report.ranking[0]].candidate
    assert best.get_ydata()[0] == pytest.approx((math.log10(candidate.x["$x$ <script>alert(1)</script>"]) + 3) / 6)
    assert best.get_ydata()[-1] == 0


def test_parallel_coordinates_choose_axes_and_lines_and_say_so(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(450).tolist()
    panel = drawn(PARALLEL, told(tmp_path / "run.db", Box(0, 1, 25), values))
    assert len(panel.get_xticklabels()) == plots.MOST_AXES + 1
    assert len(panel.collections[0].get_segments()) == plots.MOST_LINES
    assert "10 of 25 variables" in panel.get_xlabel()
    assert "400 of 450 evaluations" in panel.get_xlabel()


@pytest.mark.parametrize("has_sklearn", [True, False])
def test_importance_says_how_it_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_sklearn: bool) -> None:
    if has_sklearn:
        pytest.importorskip("sklearn")
    else:
        monkeypatch.setitem(sys.modules, "sklearn", None)
    report = told(tmp_path / "run.db", Box(0, 1, 20), np.random.default_rng(0).random(40).tolist())
    panel = drawn(IMPORTANCE, report)
    assert len(panel.patches) == plots.MOST_BARS
    assert f"first {plots.MOST_BARS} of 20" in panel.get_title(loc="left")
    assert ("random forest" if has_sklearn else "Spearman") in panel.get_xlabel()


@pytest.mark.parametrize("values", [[], [math.nan, math.nan], [1.0], [2.0, 2.0, 2.0], [math.inf, 1.0]])
@pytest.mark.parametrize("plot", plots.PLOTS, ids=lambda plot: plot.name)
def test_every_figure_can_be_drawn_of_next_to_nothing(tmp_path: Path, plot: plots.Plot, values: list[float]) -> None:
    with Optimizer(HOSTILE, "random", seed=0, journal=tmp_path / "run.db") as optimizer:
        if values:
            optimizer.tell(optimizer.ask(len(values)), values)
    plots.render(plot, Report.read(tmp_path / "run.db"), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Report:
    values = [*np.random.default_rng(0).random(30).tolist(), math.nan]
    return told(tmp_path_factory.mktemp("hostile") / "<i>run.db", HOSTILE, values)


@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_pictures_in_every_format(hostile: Report, tmp_path: Path, ending: str) -> None:
    before = dict(matplotlib.rcParams)
    plots.save(hostile, tmp_path / "new" / f"run{ending}")
    assert (tmp_path / "new" / f"run{ending}").stat().st_size > 10_000
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("is_large", [False, True])
def test_texts_of_a_picture_lie_inside_it_and_do_not_overlap(tmp_path: Path, is_large: bool) -> None:
    """Titles, legends, labels and ticks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    names = [f"a_rather_long_parameter_name_{i}" for i in range(12)] if is_large else ["learning_rate", "layers"]
    variables: dict[str, Any] = {name: Float(1e-4, 1, log=True) for name in names}
    variables["kernel"] = Choice({"rbf": Space({"gamma": Float(1e-5, 10, log=True)}), "linear": None})
    values = np.random.default_rng(0).normal(size=60) ** 3 * 1e4
    report = told(tmp_path / "run.db", Space(variables), [*values.tolist(), math.nan])
    for plot in plots.PLOTS:
        with plots.new_figure(plot.height) as figure:
            panel = figure.subplots()
            plot.draw(panel, report)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            renderer = canvas.get_renderer()
            texts = [panel.title, panel._left_title, panel.xaxis.label, panel.yaxis.label]
            texts += [t for t in panel.get_xticklabels() if panel.viewLim.x0 <= t.get_position()[0] <= panel.viewLim.x1]
            texts += [t for t in panel.get_yticklabels() if panel.viewLim.y0 <= t.get_position()[1] <= panel.viewLim.y1]
            if legend := panel.get_legend():
                texts += legend.get_texts()
            shown = [(text, text.get_window_extent(renderer)) for text in texts if text.get_text().strip()]
            assert len(shown) > 5
            for i, (name, box) in enumerate(shown):
                assert box.x0 >= -1, name
                assert box.y0 >= -1, name
                assert box.x1 <= figure.bbox.x1 + 1, name
                assert box.y1 <= figure.bbox.y1 + 1, name
                for other, other_box in shown[:i]:
                    if name.get_rotation() and other.get_rotation():
                        continue  # slanted texts side by side have boxes that overlap
                    assert not box.padded(-1).overlaps(other_box.padded(-1)), (plot.name, name, other)


def test_other_endings_and_impossible_places_are_errors(hostile: Report, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"\.png, \.pdf, \.svg; got"):
        plots.save(hostile, tmp_path / "run.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="cannot be written"):
        page.save(hostile, tmp_path / "file" / "run.html")


def test_missing_matplotlib_names_the_command(hostile: Report, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"pip install 'blackbox-engine\[plot\]'"):
        plots.save(hostile, tmp_path / "run.png")


# ---- the page


class Reader(HTMLParser):
    """Tags, their attributes and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html(hostile: Report) -> str:
    return page.page(hostile)


def test_page_needs_nothing_but_itself(html: str) -> None:
    reader = Reader()
    reader.feed(html)
    sources = [value or "" for name, value in reader.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert len(sources) == len(plots.PLOTS)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {"script", "link", "iframe", "object", "form"} & set(reader.tags)
    assert "url(" not in html
    assert "@import" not in html


def test_page_has_no_links(tmp_path: Path) -> None:
    report = told(tmp_path / "run.db", Box(0, 1, 2), [1.0, 2.0, 3.0])
    assert re.findall(r"https?:|//\w", page.page(report).split("<body>")[0]) == []
    without_pictures = re.sub(r'src="data:[^"]*"', "", page.page(report))
    assert "http" not in without_pictures


def test_page_shows_settings_the_best_point_and_failures_as_text(html: str, hostile: Report) -> None:
    reader = Reader()
    reader.feed(html)
    best = hostile.facts()["best"]
    for part in ("<i>run.db: random", f"{best['value']:.12g}", repr(best["x"]["$x$ <script>alert(1)</script>"]), "seed",
                 "31 (30 ok, 1 failed)", 'it <b>"failed"</b> http://example.org'):  # fmt: skip
        assert part in reader.text
    assert not {"b", "i"} & set(reader.tags)
    assert reader.tags.count("table") == html.count("</table>")


def test_page_of_a_run_without_values(tmp_path: Path) -> None:
    report = told(tmp_path / "run.db", Box(0, 1, 2), [math.nan] * 3)
    assert "No evaluation has a value" in page.page(report)
