"""Every example runs as a user would run it: as a script, in a folder of its own; its last line is as promised."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

EXAMPLES = Path(__file__).parent.parent / "examples"
LAST_LINES = {
    "adversarial_attack": (
        r"signs of estimated gradients fool (9\d|100)% of 30 images, noise of the same length \d\d?%; "
        r"picture: adversarial_attack\.png"
    ),
    "pde_correction": (
        r"mean relative error: no correction 0\.1[45]\d, trained without the solver 0\.[01]\d\d, "
        r"through it by values 0\.0[6-9]\d; picture: pde_correction\.png"
    ),
    "sphere_ask_tell": r"value \d\.\de-1\d after \d+ evaluations",
    "mixed_space_with_failures": r"value 0\.0\d\d after 400 evaluations",
    "search_digits": r"value 0\.\d\d\d after 8 evaluations",
    "bbob_methods": r"picture: bbob_methods.png",
    "cbo_digits": r"test accuracy 0\.9\d\d after 115000 evaluations",
    "consensus_gradient": (
        r"final distance to the minimum: hopping 0\.\d\d\d, CBO 0\.0\d\d, gradient descent 10\.99; "
        r"picture: consensus_gradient\.png"
    ),
    "discover_heuristic": r"excess over the lower bound: best fit 4\.\d\d%, found heuristic [0-4]\.\d\d%",
    "discover_optimizer": r"distance to the minimum: gradient descent 0\.7\d\d, found program 0\.[45]\d\d",
    "evollm": r"19 questions; EvoLLM \d+(\.\d+)?, random search [1-9]e\+02 above the minimum",
    "optimize_prompt": (r"held-out loss after \d+ evaluations: seed 0\.5\d\d, picked prompt 0\.[0123]\d\d"),
    "polarized_minima": r"polarized found 4 of 4 minima, plain 1; picture: polarized_minima\.png",
    "sparse_recovery": r"median relative error of MirrorCBO 0\.[01]\d\d, CBO 1\.\d\d\d; picture: sparse_recovery\.png",
    "cartpole": r"mean return of the evolved policy: (4[5-9]\d|500) of 500 in unseen episodes",
    "egg_language_model": r"held-out text: [345]\.\d\d\d bits per byte after 80 updates",
    "eggroll_brax": r"mean return of the policy: (4[5-9]\d|500) of 500 in unseen episodes",
    "eggroll_digits": r"test accuracy 0\.9[3-9]\d after 200 generations",
    "eggroll_policy": r"mean return of the policy: -[12]\d\d in unseen episodes after 15360 episodes",
    "eggroll_transformer": r"exactly right before 0\.\d\d\d, after fine-tuning 0\.[89]\d\d",
    "neuroevolution": r"mean return in 200 unseen episodes: (4[5-9]\d|500)\.\d",
    "many_runs": r"popsize 64: [1-6]\d of 64 runs found the global minimum .*",
}
SHORTER = {
    "pde_correction": [("0.03, 4000", "0.03, 2000"), ("0.02, 400", "0.02, 200")],
    "discover_heuristic": [("= 800", "= 150")],
    "search_digits": [("budget=10", "budget=4"), ("budget=20", "budget=8")],
    "egg_language_model": [("else 300", "else 80")],
    "eggroll_digits": [("(800, 0.2)", "(200, 0.2)")],
    "eggroll_transformer": [("512, 32, 8, 50", "256, 32, 8, 20")],
}
"""What is replaced in those that take a minute."""
OPTIONAL = {"eggroll_brax": "brax"}  # no dependency of ours; brax warns that it is no longer maintained


def run_example(script: Path, folder: Path, warnings: str = "error") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "TERM": "dumb"}
    for name in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"):  # they compute more than they compile
        environment.pop(name, None)
    command = [sys.executable, "-W", warnings, str(script)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240
    )


def test_each_example_is_listed() -> None:
    assert set(LAST_LINES) == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", LAST_LINES)
def test_example(name: str, tmp_path: Path) -> None:
    if name in OPTIONAL and importlib.util.find_spec(OPTIONAL[name]) is None:
        pytest.skip(f"needs {OPTIONAL[name]}")
    text = (EXAMPLES / f"{name}.py").read_text()
    for long, short in SHORTER.get(name, []):
        assert text.count(long) == 1
        text = text.replace(long, short)
    script = tmp_path / f"{name}.py"
    script.write_text(text)
    result = run_example(script, tmp_path, "ignore" if name in OPTIONAL else "error")
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(LAST_LINES[name], result.stdout.splitlines()[-1]), result.stdout


def test_a_missing_package_of_an_example_is_named_with_the_command(tmp_path: Path) -> None:
    for name, package in OPTIONAL.items():
        script = tmp_path / f"{name}.py"
        script.write_text(f"import sys; sys.modules[{package!r}] = None\n" + (EXAMPLES / f"{name}.py").read_text())
        result = run_example(script, tmp_path)
        assert result.returncode == 1
        assert result.stderr == f"This example needs {package}: pip install {package}\n"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demonstration's modules can be imported, for this test alone."""
    monkeypatch.syspath_prepend(EXAMPLES / "demo")
    for name in ("digits_search", "bbob_functions", "policy_search", "plots"):
        monkeypatch.delitem(sys.modules, name, raising=False)


SMALLER = {
    "digits_search": {"BUDGET": 4},
    "bbob_functions": {"METHODS": ("cma-es", "random"), "BUDGET": 60},
    "policy_search": {"POPSIZE": 8, "GENERATIONS": 4},
}


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("part", SMALLER)
def test_part_of_the_demonstration(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(part)
    for name, value in SMALLER[part].items():
        monkeypatch.setattr(module, name, value)
    console = Console(width=100, file=io.StringIO(), record=True)
    table, picture = module.run(console, tmp_path)
    console.print(table)
    assert len(table.rows) == 2
    assert "nan" not in console.export_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_readme_does_what_it_says(tmp_path: Path) -> None:
    """The script is run twice, as after a kill; then the commands below it, and the network that learns."""
    text = (EXAMPLES.parent / "README.md").read_text()
    code, network = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    commands = re.findall(r"^blackbox [^#\n]*", text, re.MULTILINE)
    assert len(commands) == 4
    script = tmp_path / "svc.py"
    script.write_text(code.replace("budget=60, workers", "budget=12, workers"))
    for _ in range(2):
        result = run_example(script, tmp_path)
        assert result.returncode == 0, result.stderr
        assert re.fullmatch(r"({'C': .*} 0\.\d+\n){2}", result.stdout), result.stdout
    for command in commands:
        arguments = shlex.split(command.replace("--budget 80", "--budget 22"))[1:]
        module = [sys.executable, "-c", "from blackbox.cli import app; app()", *arguments]
        finished = subprocess.run(module, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
        assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "svc.png").read_bytes().startswith(b"\x89PNG")
    script.write_text(network)
    learned = run_example(script, tmp_path)
    assert learned.returncode == 0, learned.stderr
    assert float(learned.stdout) < 0.3  # 0.49 before
