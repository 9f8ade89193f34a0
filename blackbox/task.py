"""A task for ``minimize`` as text: the objective's name, the space as TOML, a whole run as a TOML file."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import tomllib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blackbox.errors import SettingError, SpaceError
from blackbox.journal import Journal
from blackbox.minimizer import minimize
from blackbox.optimizer import Optimizer
from blackbox.shell.settings import Settings
from blackbox.space import Box, Space, space_from_dict
from blackbox.strategy import nearest

OBJECTIVE, SPACE = "objective", "space"
EVALUATION = ("workers", "synchronous", "timeout", "retries", "seconds", "target", "patience")
"""Settings that say how to evaluate and when to stop; all others determine the run."""
COMMAND = "command"
"""Key of the journal's note that holds the objective's name and these settings."""
KEYS = (OBJECTIVE, SPACE, "method", "hyperparameters", "budget", "seed", "x0", "direction", "constraints", "objectives",
        "noise", "restarts", "journal", "durability", *EVALUATION)  # fmt: skip


class Task(NamedTuple):
    """What to minimize, and how."""

    name: str
    """Of the objective."""
    objective: Callable[[Any], Any]
    space: Space | Box
    settings: dict[str, Any]
    """Further arguments of :func:`blackbox.minimize`."""

    @property
    def evaluation(self) -> dict[str, Any]:
        """Those of the settings that a journal does not keep by itself."""
        return {name: self.settings[name] for name in EVALUATION if name in self.settings}


def read_task(path: Path) -> Task:
    """The run that a TOML file describes::

        objective = "train.py:loss"   # or "package.module:function", or a name of `blackbox problems`
        budget = 200                  # and the other arguments of minimize: method, seconds, target, patience,
        workers = 2                   # timeout, retries, synchronous, seed, direction, constraints, objectives,
                                      # noise, restarts, durability, x0
        journal = "runs/train.db"

        [hyperparameters]             # of the method
        popsize = 16

        [space.C]                     # as for Space.from_toml; or space = "space.toml"
        type = "float"
        low = 1e-3
        high = 1e3
        log = true

    Raises:
        SettingError: an unreadable file, or an unknown or missing key.
        SpaceError: a malformed space.
    """
    table = read_toml(path)
    for key in table:
        if key not in KEYS:
            raise SettingError(f"{path}: {key!r} is not a key; known are {', '.join(KEYS)}{nearest(key, KEYS)}")
    if OBJECTIVE not in table:
        raise SettingError(f"{path}: objective is missing; it names a function, as in objective = 'train.py:loss'")
    if not isinstance(table.get("journal", ""), str):
        raise SettingError(f"{path}: journal must be the name of a file; got {table['journal']!r}")
    hyperparameters = table.pop("hyperparameters", {})
    if not isinstance(hyperparameters, dict):
        raise SettingError(f"{path}: hyperparameters must be a table; got {hyperparameters!r}")
    for key in hyperparameters.keys() & {
        *inspect.signature(minimize).parameters,
        *inspect.signature(Optimizer).parameters,
    }:
        raise SettingError(f"{path}: hyperparameters must be those of the method; got {key!r}, which is none")
    name, space = table.pop(OBJECTIVE), table.pop(SPACE, None)
    if isinstance(space, str):
        space = read_space(Path(space))
    elif space is not None:
        space = to_space(space, f"{path}: space")
    return make_task(name, space, {**table, **hyperparameters})


def make_task(name: str, space: Space | Box | None, settings: Mapping[str, Any]) -> Task:
    """The task of minimizing the objective called ``name`` over ``space``, or else over its own space."""
    objective, own = find_objective(name)
    space = own if space is None else space
    if space is None:
        raise SettingError(f"space must be given for {name}, which has no attribute `space`; got nothing")
    return Task(name, objective, space, dict(settings))


def resumed_task(path: Path, objective: str | None, changes: Mapping[str, Any]) -> Task:
    """How to go on with the run of a journal: as the command line has noted, but for ``changes``.

    Raises:
        JournalError: the file is missing, damaged, or something else.
        SettingError: no objective is known, or it cannot be found.
    """
    with Journal.open(path, read_only=True) as journal:
        settings = Settings.from_json(journal.configuration)
        noted = journal.note(COMMAND)
    command = noted if isinstance(noted, dict) else {}
    name = command.get(OBJECTIVE) if objective is None else objective
    if name is None:
        raise SettingError(f"{path} does not say what its objective is; name it with --objective MODULE:FUNCTION")
    kept = {key: value for key, value in command.items() if key in EVALUATION}
    fixed = {"journal": path, "direction": settings.direction}
    return make_task(name, settings.space, {**kept, **fixed, **changes})


def find_objective(name: object) -> tuple[Callable[[Any], Any], Space | Box | None]:
    """The objective of a name, and its space if it brings one.

    Args:
        name: ``package.module:function``, ``path/to/file.py:function``, or a problem's name (see
            :func:`blackbox.problems.load`). The current folder is searched for modules.

    Raises:
        SettingError: nothing of that name, or nothing callable.
    """
    if not isinstance(name, str):
        raise SettingError(f"objective must be a string like 'module:function'; got {name!r}")
    place, colon, attribute = name.rpartition(":")
    if not colon:
        from blackbox.problems import load

        try:
            objective, space = load(name)
        except SettingError as error:
            due = "MODULE:FUNCTION, FILE.py:FUNCTION or a name that `blackbox problems` lists"
            raise SettingError(f"objective must be {due}; got {name!r} ({error})") from None
        return objective, space
    found: Any = _module(place, name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [key for key, value in vars(found).items() if callable(value)] if hasattr(found, "__dict__") else []
            raise SettingError(f"objective {name!r}: {place} has no {part!r}{nearest(part, known)}")
        found = getattr(found, part)
    if not callable(found):
        raise SettingError(f"objective {name!r} must be callable; got an object of type {type(found).__name__}")
    space = getattr(found, "space", None)
    return found, space if isinstance(space, Space | Box) else None


def _module(place: str, name: str) -> Any:
    """The module of a dotted name or a file."""
    if place.endswith(".py"):
        file = Path(place).resolve()
        if not file.is_file():
            raise SettingError(f"objective {name!r}: there is no file {place!r}")
        folder, module = str(file.parent), file.stem
    else:
        folder, module, file = os.getcwd(), place, None
    if folder not in sys.path:  # worker processes inherit the path and import by name
        sys.path.insert(0, folder)
    missing = SettingError(f"objective {name!r}: there is no module {module!r} here or among the installed packages")
    if not module or module.startswith("."):
        raise missing
    try:
        found = importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise missing from None
        raise _failed_import(name, module, error) from error
    if file is not None and Path(getattr(found, "__file__", None) or "").resolve() != file:
        raise SettingError(f"objective {name!r}: another module is called {module!r} too; rename the file")
    return found


def _failed_import(name: str, module: str, error: Exception) -> SettingError:
    """The error of a module that raises when it is imported, with the line that did."""
    place = ""
    if error.__traceback__ is not None and not isinstance(error, SyntaxError):  # which says so itself
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f" ({frame.filename}, line {frame.lineno})"
    return SettingError(f"objective {name!r}: importing {module!r} raised {type(error).__name__}: {error}{place}")


def read_space(path: Path) -> Space | Box:
    """The space of a TOML file: a table per variable, or ``type = "box"`` with ``low``, ``high``, ``dimension``."""
    return to_space(read_toml(path), str(path))


def to_space(table: Any, place: str) -> Space | Box:
    """The space of a TOML table that stands in ``place``."""
    if not isinstance(table, dict):
        raise SettingError(f"{place} must be a table of variables or the name of a .toml file; got {table!r}")
    data = table if isinstance(table.get("type"), str) else {"type": "space", "variables": table}
    try:
        return space_from_dict(data)
    except SpaceError as error:
        raise SpaceError(f"{place}: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, or SettingError."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path} is not TOML: {error}") from None
