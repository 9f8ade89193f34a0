"""A study with the package of this folder; from the registry it is ``optunahub.load_module("samplers/blackbox")``."""

from __future__ import annotations

from pathlib import Path

import optuna
import optunahub


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -5, 5)
    y = trial.suggest_int("y", -5, 5)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    return (x - 1) ** 2 + (y - 2) ** 2 + (kind == "a")


registry = Path(__file__).resolve().parents[2]
module = optunahub.load_local_module("samplers/blackbox", registry_root=str(registry))
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(sampler=module.BlackboxSampler(seed=0, budget=60))
study.optimize(objective, n_trials=60)
print(f"value {study.best_value:.2g} after {len(study.trials)} trials at {study.best_params}")
