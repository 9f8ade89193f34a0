"""The package for OptunaHub's registry: loaded as its users load it, and with what the registry asks for."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("optunahub", exc_type=ImportError)  # without git it cannot be imported

import optuna
import optunahub

from blackbox.integrations.optuna import BlackboxSampler

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "optunahub" / "package" / "samplers" / "blackbox"


def test_the_sampler_is_loaded_from_the_registrys_folder() -> None:
    module = optunahub.load_local_module("samplers/blackbox", registry_root=str(PACKAGE.parents[1]))
    assert module.BlackboxSampler is BlackboxSampler
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=module.BlackboxSampler("cma-es", seed=0))
    study.optimize(lambda trial: trial.suggest_float("x", -5, 5) ** 2 + trial.suggest_float("y", -5, 5) ** 2, 100)
    assert study.best_value < 0.01


def test_the_example_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(PACKAGE / "example.py")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=240)
    last = result.stdout.splitlines()[-1]
    assert (match := re.match(r"value (\S+) after 60 trials", last)) and float(match[1]) < 0.1, last


def test_the_front_matter_is_what_the_registry_reads() -> None:
    _, head, text = (PACKAGE / "README.md").read_text().split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in head.strip().splitlines())
    assert list(fields) == ["author", "title", "description", "tags", "optuna_versions", "license"]
    assert fields["tags"].startswith("[sampler, ")
    assert re.fullmatch(r"\[\d+\.\d+\.\d+\]", fields["optuna_versions"])
    assert fields["optuna_versions"][1:-1].split(".")[0] == optuna.__version__.split(".")[0]
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == ["Abstract", "APIs", "Installation", "Example"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (PACKAGE / "requirements.txt").read_text().strip() == f"{project['name']}[optuna]"
    assert (PACKAGE / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
