"""The command line: each command as a table and as JSON, errors in one line, runs interrupted and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from blackbox import __version__, benchmark, cli
from blackbox.errors import SettingError, SpaceError
from blackbox.journal import Journal
from blackbox.optimizer import Optimizer
from blackbox.problems import entries, load
from blackbox.space import Box, Float, Int, Space
from blackbox.strategy import methods
from blackbox.task import find_objective, read_space, read_task

OBJECTIVES = """
import time
import blackbox as bb

def loss(x):
    return (x["a"] - 1) ** 2 + (x["n"] - 3) ** 2

def slow(x):
    time.sleep(0.02)
    return loss(x)

def broken(x):
    raise ValueError("never\\nworks")

def interrupted(x):
    interrupted.calls += 1
    if interrupted.calls == 7:
        raise KeyboardInterrupt
    return loss(x)

interrupted.calls = 0

class Sphere:
    space = bb.Box(-5, 5, 3)
    def __call__(self, x):
        return float(x @ x)

sphere = Sphere()
number = 3
"""
SPACE = """
[a]
type = "float"
low = -5
high = 5
[n]
type = "int"
low = 1
high = 9
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with objectives and a space; modules imported from it are forgotten afterwards."""
    (tmp_path / "objectives.py").write_text(OBJECTIVES)
    (tmp_path / "space.toml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]


def blackbox(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def as_json(*arguments: object, code: int = 0) -> Any:
    return json.loads(blackbox(*arguments, "--json", code=code).stdout)


def refused(*arguments: object) -> str:
    """The error of a command, which is one line on stderr, and nothing else."""
    result = blackbox(*arguments, code=2)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    return str(result.stderr)


# ---- lists


def test_version_and_help() -> None:
    assert blackbox("--version").stdout == f"blackbox {__version__}\n"
    for command in ("methods", "problems", "minimize", "run", "resume", "show", "bench"):
        assert f"\n  {command} " in blackbox("--help").stdout
        assert "Usage:" in blackbox(command, "--help").stdout
    assert blackbox().stdout == blackbox("--help").stdout
    assert blackbox("bench").stdout == blackbox("bench", "--help").stdout


def test_methods_lists_the_registry() -> None:
    assert {row["name"]: row["source"] for row in as_json("methods")} == {m.name: m.source for m in methods().values()}
    text = blackbox("methods").stdout
    assert all(name in text for name in methods())


def test_methods_describes_one() -> None:
    facts = as_json("methods", "cma-es")
    assert {"name": "popsize", "type": "int | None", "default": "None"} in facts["hyperparameters"]
    assert "popsize" in blackbox("methods", "cma-es").stdout
    assert "Source: Hansen 2016" in blackbox("methods", "cma-es").stdout
    assert "did you mean 'cma-es'" in refused("methods", "cma-s")
    assert "``cat-cma``" in blackbox("methods", "auto").stdout


def test_problems_can_all_be_loaded() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("gymnasium")
    listed = as_json("problems")
    assert len(listed) == len(entries())
    for row in listed:
        objective, space = load(
            row["name"].replace("noisy-fN", "noisy-f101").replace("-fN", "-f1").replace("-dD", "-d5")
        )
        assert callable(objective)
        assert space.decode(np.full(space.dimension, 0.5)) is not None
    text = blackbox("problems").stdout
    assert "bbob-f24-dD" in text
    assert "bbob-noisy-fN-dD" in text


def test_problems_of_a_number_are_those_of_cocos_suites() -> None:
    objective, space = load("bbob-f8-d5-i2")
    assert (objective.function, objective.dimension, objective.instance) == (8, 5, 2)
    assert space == Box(-5, 5, 5)
    mixed, space = load("bbob-mixint-f3-d10")
    assert mixed(space.decode(np.full(10, 0.5))) > mixed.f_opt
    noisy, space = load("bbob-noisy-f108-d3-i2")
    assert (noisy.problem.function, noisy.problem.dimension, noisy.problem.instance) == (108, 3, 2)
    assert space == Box(-5, 5, 3)
    for name in (
        "bbob-f25-d2", "bbob-f1-d1", "bbob-f1-d2-i0", "bbob-mixint-f1-d6", "bbob-noisy-f1-d5", "bbob-noisy-f131-d5",
        "bbob-f1", "svc",
    ):  # fmt: skip
        with pytest.raises(SettingError):
            load(name)
    with pytest.raises(SettingError, match="bbob-noisy-fN-dD"):
        load("bbob-noisy")


# ---- minimize


def test_minimize_finds_the_minimum_and_prints_it() -> None:
    command = (
        "minimize",
        "objectives:loss",
        "--space",
        "space.toml",
        "--method",
        "cma-es",
        "--budget",
        200,
        "--seed",
        1,
    )
    found = as_json(*command)
    assert found["x"]["n"] == 3
    assert found["x"]["a"] == pytest.approx(1, abs=1e-3)
    assert found["evaluations"] == 200
    assert found["stopped"] == {"budget": "all 200 evaluations are done"}
    text = blackbox(*command).stdout
    assert repr(found["x"]["a"]) in text
    assert "all 200 evaluations are done" in text


@pytest.mark.parametrize("name", ["objectives:sphere", "objectives.py:sphere", "./objectives.py:Sphere.space.decode"])
def test_objectives_by_module_by_file_and_by_attribute(name: str) -> None:
    objective, space = find_objective(name)
    assert callable(objective)
    assert space == (Box(-5, 5, 3) if name.endswith("sphere") else None)


def test_an_objective_may_bring_its_space() -> None:
    found = as_json("minimize", "objectives:sphere", "--method", "cma-es", "--budget", 300, "--seed", 0)
    assert len(found["x"]) == 3
    assert found["value"] < 1e-6


def test_problems_stand_for_objectives() -> None:
    found = as_json("minimize", "bbob-f1-d2", "--method", "cma-es", "--target", 79.49, "--seed", 0)
    assert found["value"] <= 79.49
    assert "target" in found["stopped"]


def test_noisy_problems_stand_for_objectives_with_and_without_workers() -> None:
    command = ("minimize", "bbob-noisy-f107-d2", "--method", "sobol", "--budget", 20, "--seed", 0)
    found = as_json(*command)
    assert found["failures"] == 0
    objective, _ = load("bbob-noisy-f107-d2")
    assert objective(np.array(found["x"])) == found["value"]
    assert as_json(*command, "--workers", 1)["value"] == found["value"]


def test_direction_and_seconds() -> None:
    command = ("minimize", "objectives:loss", "--space", "space.toml", "--method", "random", "--seed", 0)
    assert as_json(*command, "--direction", "maximize", "--budget", 50)["value"] > 30
    assert "seconds" in as_json(*command, "--seconds", 0.2)["stopped"]


@pytest.mark.filterwarnings("default")
def test_nothing_found_is_exit_code_1() -> None:
    command = ("minimize", "objectives:broken", "--space", "space.toml", "--method", "cma-es", "--seed", 0)
    result = blackbox(*command, code=1)
    assert "No evaluation had a value" in result.stdout
    assert "ValueError: never" in result.stdout
    assert result.stderr.count("warning: ") == len(result.stderr.splitlines()) >= 1
    assert as_json(*command, code=1)["x"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("objectives:los --space space.toml", "did you mean 'loss'"),
        ("objectives:number --space space.toml", "must be callable; got an object of type int"),
        ("objectives:loss", "space must be given"),
        ("nomodule:loss --space space.toml", "there is no module 'nomodule'"),
        ("os.nomodule:loss --space space.toml", "there is no module 'os.nomodule'"),
        ("nofile.py:loss --space space.toml", "there is no file 'nofile.py'"),
        ("loss --space space.toml", "MODULE:FUNCTION, FILE.py:FUNCTION or a name"),
        (":loss --space space.toml", "there is no module ''"),
        ("objectives:loss --space nofile.toml", "nofile.toml cannot be read"),
        ("objectives:loss --space objectives.py", "objectives.py is not TOML"),
        ("objectives:loss --space space.toml --method cmaes", "did you mean 'cma-es'"),
        ("objectives:loss --space space.toml --budget 0", "budget must be an integer >= 1; got 0"),
        ("objectives:loss --space space.toml --budget many", "--budget"),
        ("objectives:loss --space space.toml --timeout -1", "timeout"),
        ("objectives:loss --space space.toml --workers -1", "workers"),
        ("objectives:loss --space space.toml --workers two", "workers"),
        ("objectives:loss --space space.toml --seed -1", "seed must be"),
        ("objectives:loss --space space.toml --direction up", "--direction"),
        ("objectives:loss --space space.toml --budgett 3", "No such option"),
        ("objectives:loss --space space.toml --method random --journal space.toml", "space.toml"),
        ("", "OBJECTIVE"),
    ],
)
def test_errors_are_one_line_that_names_the_argument(arguments: str, message: str) -> None:
    assert message.lower() in refused("minimize", *arguments.split()).lower()


def test_unknown_commands_and_missing_files() -> None:
    assert "No such command 'minimise'" in refused("minimise")
    for command in ("show", "resume"):
        assert refused(command, "nothing.db") == "error: there is no journal 'nothing.db'\n"
    assert "space.toml" in refused("show", "space.toml")
    assert "nothing.toml" in refused("run", "nothing.toml")


def test_a_module_that_cannot_be_imported_is_named_with_the_line(folder: Path) -> None:
    (folder / "faulty.py").write_text("\nimport nosuchlibrary\n")
    (folder / "unclosed.py").write_text("def loss(x:\n")
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("raise RuntimeError('not\\ntoday')\n")
    for name, message in {
        "faulty:loss": f"raised ModuleNotFoundError: No module named 'nosuchlibrary' ({folder}/faulty.py, line 2)",
        "unclosed.py:loss": "raised SyntaxError: '(' was never closed (unclosed.py, line 1)",
        "package.module:loss": f"raised RuntimeError: not today ({folder}/package/__init__.py, line 1)",
    }.items():
        assert message in refused("minimize", name)


def test_unexpected_exceptions_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("blackbox.problems.entries", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        blackbox("problems")


def test_a_file_named_like_a_loaded_module_is_refused(folder: Path) -> None:
    (folder / "json.py").write_text("def loss(x):\n    return 0.0\n")
    assert "rename the file" in refused("minimize", "json.py:loss", "--space", "space.toml")


# ---- run


def write_config(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_run_does_what_the_file_says(folder: Path) -> None:
    config = write_config(
        folder,
        """
        objective = "objectives.py:loss"
        method = "cma-es"
        budget = 24
        seed = 3
        journal = "runs/loss.db"
        x0 = {a = 2.0, n = 5}

        [hyperparameters]
        popsize = 12

        [space]
        a = {type = "float", low = -5, high = 5}
        n = {type = "int", low = 1, high = 9}
        """,
    )
    found = as_json("run", config)
    with Optimizer.resume("runs/loss.db") as optimizer:
        assert optimizer.popsize == 12
        assert optimizer.generation == 2
        assert optimizer.best.value == found["value"]
        assert optimizer.space == Space({"a": Float(-5, 5), "n": Int(1, 9)})
        assert optimizer.settings.x0[0] == pytest.approx(0.7)
    again = as_json(
        "minimize", "objectives:loss", "--space", "space.toml", "--budget", 24, "--seed", 3, "--method", "cma-es"
    )
    assert again["value"] != found["value"]  # the popsize has come through


def test_every_key_of_a_config_reaches_minimize(folder: Path) -> None:
    config = write_config(
        folder,
        """
        objective = "bbob-f1-d2"
        method = "cma-es"
        budget = 1000
        seconds = 60
        target = 79.48
        patience = 300
        workers = 0
        retries = 2
        direction = "minimize"
        restarts = "ipop"
        seed = 1
        journal = "sphere.db"
        durability = "power"
        """,
    )
    task = read_task(config)
    assert task.name == "bbob-f1-d2"
    assert task.space == Box(-5, 5, 2)
    assert task.settings["restarts"] == "ipop"
    assert task.evaluation == {"workers": 0, "retries": 2, "seconds": 60, "target": 79.48, "patience": 300}
    assert set(as_json("run", config)["stopped"]) == {"target"}
    with Journal.open("sphere.db", read_only=True) as journal:
        assert journal.durability == "power"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budgett = 3\nobjective = 'objectives:loss'", "'budgett' is not a key; known are objective, space"),
        ("budgett = 3\nobjective = 'objectives:loss'", "did you mean 'budget'"),
        ("budget = 3", "objective is missing"),
        ("objective = 3", "objective must be a string"),
        ("objective = 'objectives:loss'\nspace = 3", "space must be a table"),
        ("objective = 'objectives:loss'\nspace = 'other.toml'", "other.toml cannot be read"),
        ("objective = 'objectives:loss'\nspace = {a = {type = 'flaot', low = 0, high = 1}}", "did you mean 'float'"),
        ("objective = 'objectives:loss'\nspace = {a = {type = 'float', low = 2, high = 1}}", "run.toml: space: a: low"),
        (
            "objective = 'objectives:sphere'\nhyperparameters = {popsiz = 3}\nmethod = 'cma-es'",
            "did you mean 'popsize'",
        ),
        ("objective = 'objectives:sphere'\nhyperparameters = {budget = 3}", "got 'budget', which is none"),
        ("objective = 'objectives:sphere'\nhyperparameters = 3", "hyperparameters must be a table"),
        ("objective = 'objectives:sphere'\njournal = 3", "journal must be"),
        ("objective = 'objectives:sphere'\nbudget = 'x'", "budget must be an integer"),
        ("objective = 'objectives:sphere'\ndurability = 'power'", 'durability must be "process" without a journal'),
        ("objective = 'objectives:sphere'\njournal = 'a.db'\ndurability = 'x'", "durability must be 'process' or"),
        ("objective = 'objectives:sphere'\nmethod = 3", "method must be"),
        ("objective = ", "is not TOML"),
    ],
)
def test_configs_are_strict(folder: Path, text: str, message: str) -> None:
    assert message in refused("run", write_config(folder, text))


def test_spaces_in_toml_may_be_boxes(folder: Path) -> None:
    (folder / "box.toml").write_text('type = "box"\nlow = -1\nhigh = 2\ndimension = 3\n')
    assert read_space(folder / "box.toml") == Box(-1, 2, 3)
    (folder / "box.toml").write_text('type = "box"\nlow = -1\n')
    with pytest.raises(SpaceError, match=r"box\.toml.*high"):
        read_space(folder / "box.toml")


# ---- journals


def test_a_journal_is_resumed_as_it_was_begun(folder: Path) -> None:
    command = ("minimize", "objectives:loss", "--space", "space.toml", "--method", "cma-es", "--seed", 5)
    whole = as_json(*command, "--budget", 60)
    blackbox(*command, "--budget", 25, "--journal", "part.db")
    assert "holds a run already" in refused(*command, "--budget", 60, "--journal", "part.db")
    assert as_json("resume", "part.db", "--budget", 60)["value"] == whole["value"]
    done = as_json("resume", "part.db")  # nothing is left to do
    assert (done["value"], done["evaluations"]) == (whole["value"], 60)


def test_resume_keeps_what_was_said_and_takes_changes(folder: Path) -> None:
    command = ("minimize", "objectives:loss", "--space", "space.toml", "--method", "cma-es", "--seed", 5)
    as_json(
        *command, "--budget", 10, "--journal", "run.db", "--direction", "maximize", "--target", 1e9, "--seconds", 99
    )
    found = as_json("resume", "run.db", "--budget", 20, "--target", 1.0, "--objective", "objectives.py:loss")
    assert set(found["stopped"]) == {"target"}
    assert found["direction"] == "maximize"
    with Journal.open("run.db", read_only=True) as journal:
        noted = {"objective": "objectives.py:loss", "target": 1.0, "seconds": 99.0}
        assert journal.note("command") == noted


def test_journals_of_python_name_no_objective() -> None:
    with Optimizer(Box(-5, 5, 3), "cma-es", seed=0, journal="python.db", budget=30):
        pass
    assert "--objective" in refused("resume", "python.db")
    assert as_json("resume", "python.db", "--objective", "objectives:sphere")["evaluations"] == 30


def test_ctrl_c_leaves_a_journal_and_says_how_to_go_on() -> None:
    command = (
        "minimize",
        "objectives:interrupted",
        "--space",
        "space.toml",
        "--method",
        "cma-es",
        "--budget",
        50,
        "--seed",
        5,
    )
    found = blackbox(*command, "--journal", "my run.db", "--json", code=130)
    assert json.loads(found.stdout)["evaluations"] == 6
    assert "interrupted after 6 evaluations; go on with: blackbox resume 'my run.db'" in found.stderr
    whole = as_json(*command[:1], "objectives:loss", *command[2:])
    resumed = as_json("resume", "my run.db", "--objective", "objectives:loss")
    assert resumed["value"] == whole["value"]
    assert (resumed["evaluations"], resumed["statuses"]) == (50, {"ok": 44})


def test_show_as_table_json_picture_and_page(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    found = as_json("minimize", "objectives:loss", "--space", "space.toml", "--method", "cma-es", "--budget", 30,
                    "--seed", 5, "--journal", "run.db")  # fmt: skip
    content = Path("run.db").read_bytes()
    result = blackbox("show", "run.db", "--png", "run.png", "--html", "new/run.html", "--best", 3)
    assert repr(found["x"]["a"]) in result.stdout
    assert "The best 3" in result.stdout
    assert "objectives:loss" in result.stdout
    assert result.stderr == "wrote run.png\nwrote new/run.html\n"
    assert Path("run.png").read_bytes().startswith(b"\x89PNG")
    assert Path("new/run.html").read_text().startswith("<!DOCTYPE html>")
    shown = as_json("show", "run.db")
    assert shown["best"]["x"] == found["x"]
    assert len(shown["points"]) == 30
    assert Path("run.db").read_bytes() == content
    assert "'run.gif'" in refused("show", "run.db", "--png", "run.gif")


def test_show_imports_no_objective(folder: Path) -> None:
    blackbox(
        "minimize",
        "objectives:loss",
        "--space",
        "space.toml",
        "--method",
        "random",
        "--budget",
        3,
        "--journal",
        "run.db",
    )
    (folder / "objectives.py").write_text("raise AssertionError")
    sys.modules.pop("objectives")
    assert as_json("show", "run.db")["command"]["objective"] == "objectives:loss"


# ---- bench


def test_bench_bbob_scores_as_coco_does() -> None:
    data = as_json("bench", "bbob", "--methods", "cma-es,random", "--functions", "1,5-6", "--dims", "2,3",
                   "--budget-multiplier", 60, "--instances", 2)  # fmt: skip
    assert len(data["runs"]) == 2 * 3 * 2 * 2
    best, worst = data["summary"]
    assert (best["method"], worst["method"]) == ("cma-es", "random")
    assert best["area"] == pytest.approx((best["area 2-D"] + best["area 3-D"]) / 2)
    runs = [run for run in data["runs"] if run["method"] == "cma-es" and run["dimension"] == 2]
    hits = [hit for run in runs for hit in run["hits"]]
    assert best["solved 2-D"] == pytest.approx(np.mean([hit is not None for hit in hits]))
    assert best["area 2-D"] == pytest.approx(np.mean([1 - np.log(hit or 120) / np.log(120) for hit in hits]))
    for run in runs:
        reached = [hit for hit in run["hits"] if hit is not None]
        assert reached == sorted(reached)
        assert all(1 <= hit <= 120 for hit in reached)
        assert len(reached) == sum(run["distance"] <= target for target in benchmark.TARGETS)
    text = blackbox("bench", "bbob", "--methods", "random", "--functions", "1", "--dims", "2").stdout
    assert "area 2-D" in text


def test_bench_hpo_ranks_methods() -> None:
    pytest.importorskip("sklearn")
    data = as_json(
        "bench", "hpo", "--methods", "sobol,random", "--tasks", "svc_breast_cancer", "--budget", 3, "--seeds", 2
    )
    assert [len(data["runs"]), len(data["summary"])] == [4, 2]
    ranks = [row["mean rank"] for row in data["summary"]]
    assert ranks == sorted(ranks)
    assert sum(ranks) == 3
    for row in data["summary"]:
        values = [run["value"] for run in data["runs"] if run["method"] == row["method"]]
        assert row["svc_breast_cancer"] == pytest.approx(np.mean(values))
        assert 0 <= row["svc_breast_cancer test"] < 0.6


def test_bench_hpo_without_scikit_learn_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert "pip install 'blackbox-engine[hpo]'" in refused("bench", "hpo", "--budget", 2)


def test_bench_errors() -> None:
    assert "did you mean 'cma-es'" in refused("bench", "bbob", "--methods", "cmaes")
    assert "dims must be numbers" in refused("bench", "bbob", "--dims", "2,x")
    assert "functions must be numbers" in refused("bench", "bbob", "--functions", ",")
    assert "function" in refused("bench", "bbob", "--functions", "25")
    assert "did you mean 'svc_digits'" in refused("bench", "hpo", "--tasks", "svc_digit")
    assert "No such command" in refused("bench", "other")


# ---- the installed script

SCRIPT = Path(sysconfig.get_path("scripts")) / "blackbox"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}


def test_the_installed_script_with_workers_and_a_signal(folder: Path) -> None:
    """Two processes evaluate a function of a file; Ctrl-C ends them; the journal resumes."""
    command = [SCRIPT, "minimize", "objectives.py:slow", "--space", "space.toml", "--method", "cma-es", "--seed", "0",
               "--budget", "100000", "--workers", "2", "--journal", "run.db", "--progress"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 120
        while told() < 10 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "go on with: blackbox resume run.db" in errors
    assert "evaluations, best" in errors
    before = told()
    assert before >= 10
    command = [SCRIPT, "resume", "run.db", "--budget", str(before + 5), "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["evaluations"] == before + 5


def told() -> int:
    if not Path("run.db").exists():
        return 0
    try:
        with Journal.open("run.db", read_only=True) as journal:
            return len(journal)
    except Exception:  # it is just being made
        return 0


def test_help_loads_nothing_heavy() -> None:
    report = "import atexit, sys; atexit.register(lambda: print(*sys.modules))"
    code = f"{report}; from blackbox import cli; cli.app(['--help'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    assert "Usage:" in result.stdout
    assert not loaded & {
        "numpy",
        "rich.console",
        "rich.table",
        "jax",
        "scipy",
        "sklearn",
        "matplotlib",
        "pebble",
        "sqlite3",
    }


def test_the_documented_configuration_is_valid(folder: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "command_line.md").read_text()
    text = page.partition("```toml\n")[2].partition("```")[0]
    (folder / "train.py").write_text("def loss(x):\n    return x['learning_rate'] + x.get('momentum', 1.0)\n")
    task = read_task(write_config(folder, text))
    assert task.space.names == ("learning_rate", "layers", "optimizer", "momentum")
    assert task.settings["timeout"] == 60
