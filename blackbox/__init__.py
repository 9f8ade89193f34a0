"""Gradient-free optimization behind one ask/tell interface, from three hyperparameters to a network's weights.

The public names are imported on first use, so ``import blackbox`` costs little more than NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackbox.lazy import lazy_exports

__version__ = "0.1.0"

_NAMES = {
    "arrays": ["Array", "Key"],
    "cluster": ["Ray"],
    "errors": [
        "BlackboxError",
        "BudgetExhausted",
        "CheckpointError",
        "DuplicateTell",
        "JournalError",
        "MissingExtra",
        "NonFinite",
        "ProviderError",
        "SandboxError",
        "SettingError",
        "SpaceError",
        "TellError",
        "UnknownCandidate",
        "WorkerError",
    ],
    "fleet": ["Fleet"],
    "integrations.scipy": ["scipy_method"],
    "kernels.noise": ["fold", "key"],
    "minimizer": ["Result", "Stop", "minimize"],
    "optimizer": ["Candidate", "Optimizer"],
    "pareto": ["hypervolume"],
    "population": ["evaluate"],
    "runner": ["History", "run"],
    "shell.rungs": ["Fidelity"],
    "space": ["Bool", "Box", "Choice", "Float", "Int", "Permutation", "Space", "reflect"],
    "storage.state_file": ["load", "save"],
    "strategy": ["Strategy", "algorithm", "create", "methods"],
}
__all__, __getattr__ = lazy_exports(
    __name__,
    _NAMES,
    submodules=("cbo", "classic", "es", "ga", "kernels", "llm", "model", "problems", "programs", "qd", "testing", "zo"),
)

if TYPE_CHECKING:
    from blackbox.arrays import Array as Array
    from blackbox.arrays import Key as Key
    from blackbox.cluster import Ray as Ray
    from blackbox.errors import BlackboxError as BlackboxError
    from blackbox.errors import BudgetExhausted as BudgetExhausted
    from blackbox.errors import CheckpointError as CheckpointError
    from blackbox.errors import DuplicateTell as DuplicateTell
    from blackbox.errors import JournalError as JournalError
    from blackbox.errors import MissingExtra as MissingExtra
    from blackbox.errors import NonFinite as NonFinite
    from blackbox.errors import ProviderError as ProviderError
    from blackbox.errors import SandboxError as SandboxError
    from blackbox.errors import SettingError as SettingError
    from blackbox.errors import SpaceError as SpaceError
    from blackbox.errors import TellError as TellError
    from blackbox.errors import UnknownCandidate as UnknownCandidate
    from blackbox.errors import WorkerError as WorkerError
    from blackbox.fleet import Fleet as Fleet
    from blackbox.integrations.scipy import scipy_method as scipy_method
    from blackbox.kernels.noise import fold as fold
    from blackbox.kernels.noise import key as key
    from blackbox.minimizer import Result as Result
    from blackbox.minimizer import Stop as Stop
    from blackbox.minimizer import minimize as minimize
    from blackbox.optimizer import Candidate as Candidate
    from blackbox.optimizer import Optimizer as Optimizer
    from blackbox.pareto import hypervolume as hypervolume
    from blackbox.population import evaluate as evaluate
    from blackbox.runner import History as History
    from blackbox.runner import run as run
    from blackbox.shell.rungs import Fidelity as Fidelity
    from blackbox.space import Bool as Bool
    from blackbox.space import Box as Box
    from blackbox.space import Choice as Choice
    from blackbox.space import Float as Float
    from blackbox.space import Int as Int
    from blackbox.space import Permutation as Permutation
    from blackbox.space import Space as Space
    from blackbox.space import reflect as reflect
    from blackbox.storage.state_file import load as load
    from blackbox.storage.state_file import save as save
    from blackbox.strategy import Strategy as Strategy
    from blackbox.strategy import algorithm as algorithm
    from blackbox.strategy import create as create
    from blackbox.strategy import methods as methods


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
