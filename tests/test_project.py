"""The project itself: what an import costs, what the wheel holds, what the documentation covers."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement  # pytest's own dependency

import blackbox as bb
from blackbox.task import read_task

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = [path for folder in ("blackbox", "kernels", "problems") for path in sorted((ROOT / folder).rglob("*.py"))]


def run_python(code: str, *flags: str) -> str:
    result = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


# ---- import

HEAVY = {
    "jax", "scipy", "sklearn", "optuna", "ray", "matplotlib", "pandas", "gymnasium", "rich", "typer", "pebble",
    "beartype",
}  # fmt: skip


@pytest.mark.parametrize("code", ["import blackbox", "import blackbox; blackbox.create('cma-es'); blackbox.Space"])
def test_import_loads_no_heavy_module(code: str) -> None:
    loaded = set(run_python(f"{code}\nimport sys\nprint('\\n'.join(sys.modules))").split())
    assert not loaded & HEAVY


def test_import_adds_little_to_numpy() -> None:
    """A stand-in for the time, which a loaded machine falsifies: how much source is executed besides NumPy's."""
    code = "import {}, sys; print('\\n'.join(sys.modules))"
    base = set(run_python(code.format("numpy")).split())
    added = set(run_python(code.format("blackbox")).split()) - base
    assert len(added) <= 12, sorted(added)


def test_numpy_path_never_imports_jax() -> None:
    code = """
import sys
import numpy as np
import blackbox as bb
space = bb.Space({"x": bb.Float(-1, 1), "k": bb.Choice(["a", "b"])})
bb.minimize(lambda p: p["x"] ** 2 + (p["k"] == "a"), space, budget=20, seed=0)
bb.run(bb.create("cma-es"), lambda x: float(x @ x), np.ones(3), key=bb.key(0), generations=5)
print([name for name in ("jax", "scipy", "sklearn", "matplotlib") if name in sys.modules])
"""
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize(
    ("module", "use", "extra"),
    [
        (
            "sklearn",
            "from blackbox.problems.hpo import task; t = task('svc_digits'); t(t.space.decode([0.5] * 12))",
            "hpo",
        ),
        (
            "gymnasium",
            "from blackbox.problems.control import ControlTask as T; t = T('CartPole-v1'); t(t.box().low)",
            "rl",
        ),
        ("sklearn", "from blackbox.problems import load; load('svc_digits')", "hpo"),
        ("sklearn", "import blackbox.integrations.sklearn", "sklearn"),
        ("optuna", "import blackbox.integrations.optuna", "optuna"),
        ("nevergrad", "import blackbox.integrations.nevergrad", "nevergrad"),
        ("ribs", "bb.create('pyribs:cma_es')", "pyribs"),
        ("ConfigSpace", "import blackbox.integrations.config_space", "configspace"),
        ("ray", "import blackbox.integrations.ray", "tune"),
        ("scipy", "bb.scipy_method('cma-es')", "scipy"),
        ("gymnasium", "from blackbox.problems import load; load('Pendulum-v1')", "rl"),
    ],
)
def test_missing_extras_name_the_install_command(module: str, use: str, extra: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; import blackbox as bb\ntry:\n    {use}\n"
    message = run_python(code + "except bb.MissingExtra as error:\n    print(error)")
    assert f"pip install 'blackbox-engine[{extra}]'" in message


def test_problems_are_loaded_without_the_packages_that_evaluate_them() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("gymnasium")
    code = (
        "from blackbox.problems import load; load('svc_digits'), load('Pendulum-v1'); import sys; print(*sys.modules)"
    )
    assert not set(run_python(code).split()) & HEAVY


# ---- source

EXECUTING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}
"""Modules that can run code when they load a file."""


def forbidden_uses(tree: ast.AST) -> list[str]:
    """What could execute data: those modules, eval and its like, NumPy loads that allow pickles, shells."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [module for module in modules if module.split(".")[0] in EXECUTING]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in {"eval", "exec", "compile", "__import__", "os.system"} or arguments.get("shell") == "True":
                found.append(ast.unparse(node))
            if called in {"np.load", "numpy.load"} and arguments.get("allow_pickle") != "False":
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from yaml import load", "eval('1')", "np.load(f)", "np.load(f, allow_pickle=True)",
     "subprocess.run(c, shell=True)"],
)  # fmt: skip
def test_the_search_for_forbidden_uses_finds_them(line: str) -> None:
    assert forbidden_uses(ast.parse(line))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_package_never_executes_what_it_loads(path: Path) -> None:
    in_the_sandbox = ["exec(compile(source, NAME, 'exec'), module.__dict__)", "compile(source, NAME, 'exec')"]
    allowed = in_the_sandbox if path == ROOT / "blackbox" / "llm" / "child.py" else []
    assert forbidden_uses(ast.parse(path.read_text())) == allowed


TRACES = re.compile(
    r"\bTODO\b|\bFIXME\b|\bXXX\b|NotImplementedError|https?://(?:pypi|files\.pythonhosted|registry)|/work/|/root/"
)


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_unfinished_code_and_no_machine_paths() -> None:
    found = []
    for path in tracked_files():
        if path.suffix in {".py", ".md", ".toml", ".cff", ".sh"} and path != Path(__file__):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if TRACES.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


# ---- wheel


def is_installed(text: str) -> bool:
    """Whether this environment meets a requirement."""
    requirement = Requirement(text)
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def test_requirements_are_compared_with_what_is_installed() -> None:
    assert is_installed("numpy>=2")
    assert not is_installed("numpy>=1000")
    assert not is_installed("a-package-that-nobody-has>=1")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel built from a copy of the tracked sources, so that nothing stale gets in."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in tracked_files():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, copy]
    if all(is_installed(requirement) for requirement in PYPROJECT["build-system"]["requires"]):
        command.append("--no-build-isolation")  # as `make test` has them; else pip gets them, which needs the network
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (path,) = out.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    return zipfile.ZipFile(path).namelist()


def test_wheel_holds_every_package_file_and_nothing_else(wheel: list[str]) -> None:
    names = [path.relative_to(ROOT).as_posix() for path in tracked_files()]
    package = {name for name in names if name.startswith("blackbox/")}
    package |= {f"blackbox/{name}" for name in names if name.startswith(("kernels/", "problems/"))}
    assert {name for name in wheel if ".dist-info/" not in name} == package


def test_wheel_is_typed_and_licensed(wheel: list[str]) -> None:
    assert "blackbox/py.typed" in wheel
    licenses = {name.partition("/licenses/")[2] for name in wheel}
    assert {"LICENSE", "NOTICE", "blackbox/classic/joe_kuo.LICENSE"} <= licenses


def test_versions_agree() -> None:
    version = PYPROJECT["project"]["version"]
    assert bb.__version__ == version
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_extras_are_those_that_the_documentation_names() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert set(extras) == {
        "jax", "cuda", "evosax", "hpo", "nevergrad", "pyribs", "sklearn", "optuna", "configspace", "scipy", "rl",
        "gymnax", "brax", "llm", "ray", "tune", "plot", "dev", "all",
    }  # fmt: skip
    source = "\n".join(path.read_text() for path in SOURCES)
    named = set(re.findall(r"missing_extra\([^)]*\"(\w+)\"\)", source))
    assert named <= set(extras)


@pytest.mark.parametrize(
    "package",
    ["blackbox", *sorted(f"blackbox.{path.parent.name}" for path in (ROOT / "blackbox").glob("*/__init__.py"))],
)
def test_no_public_name_is_that_of_a_module_beside_it(package: str) -> None:
    """Whoever imports such a module would put it in the place of the name."""
    module = importlib.import_module(package)
    assert not {*getattr(module, "__all__", ())} & {found.name for found in pkgutil.iter_modules(module.__path__)}


# ---- documentation


def documented() -> set[str]:
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    return set(re.findall(r"^\.\. auto\w+:: ([\w.]+)", pages, re.MULTILINE))


def test_every_public_name_is_in_the_api_pages() -> None:
    assert {f"blackbox.{name}" for name in bb.__all__} <= documented()


def test_everything_that_a_page_imports_is_in_the_api_pages() -> None:
    known, missing = documented(), []
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for module, names in re.findall(
            r"^(?:>>> )?from (blackbox[\w.]*) import (.+)$", page.read_text(), re.MULTILINE
        ):
            whole = module in known  # by automodule
            missing += [
                f"{page.name}: {module}.{name}"
                for name in names.split(", ")
                if not whole and not {f"{module}.{name}", f"blackbox.{name}"} & known
            ]
    assert missing == []


@pytest.mark.parametrize("package", ["es", "ga", "classic", "model", "qd"])
def test_every_strategy_class_is_in_the_api_pages(package: str) -> None:
    assert {f"blackbox.{package}.{name}" for name in getattr(bb, package).__all__} <= documented()


@pytest.mark.parametrize("page", ["README.md", "docs/choosing.md"])
def test_every_method_is_in_the_tables(page: str) -> None:
    text = (ROOT / page).read_text()
    assert [name for name in bb.methods() if f"`{name}`" not in text] == []


def test_solvers_that_the_documentation_compares_are_in_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "bench")
    for name in ("objective", "peers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    solvers = importlib.import_module("peers").SOLVERS
    section = (ROOT / "docs" / "choosing.md").read_text().partition("## Where others win")[2].partition("\n## ")[0]
    named = re.findall(r"`(\w+:[\w:-]+)`", section)
    assert named
    assert [name for name in named if name not in solvers] == []
    assert re.findall(r"lq-CMA-ES|COBYQA|TPE|SMAC", section) == []


def test_every_public_callable_says_what_it_does() -> None:
    assert [name for name in bb.__all__ if not (getattr(bb, name).__doc__ or "").strip()] == []


def test_configuration_in_the_documentation_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "train", None)
    del sys.modules["train"]
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "command_line.md").read_text(), re.DOTALL)
    (tmp_path / "train.py").write_text("def loss(point):\n    return point['learning_rate']\n")
    path = tmp_path / "train.toml"
    path.write_text(text.replace("train.py", str(tmp_path / "train.py")))
    task = read_task(path)
    assert task.space == bb.Space(
        {
            "learning_rate": bb.Float(1e-5, 1.0, log=True),
            "layers": bb.Int(1, 8),
            "optimizer": bb.Choice({"sgd": bb.Space({"momentum": bb.Float(0.0, 0.99)}), "adam": None}),
        }
    )
    assert set(task.settings) == {"method", "budget", "workers", "timeout", "seed", "journal"}


def test_every_example_is_in_the_readme_and_starts_with_its_purpose() -> None:
    text = (ROOT / "README.md").read_text()
    for script in sorted((ROOT / "examples").glob("*.py")):
        assert f"examples/{script.name}" in text, script.name
        assert ast.get_docstring(ast.parse(script.read_text())), script.name


def test_figures_in_the_readme_are_those_in_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "bench")
    for name in ("objective", "peers", "record"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    readme = importlib.import_module("readme")
    text = (ROOT / "README.md").read_text()
    assert readme.updated(text) == text, "run: python bench/readme.py"
