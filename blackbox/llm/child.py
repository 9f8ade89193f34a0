"""What runs in the sandbox's process: confine it, call the program, write one result.

The program shares this process, so it can read the token, write to the pipe and change every function here. All it
gains is another value for itself, which the parent reads as data: one that returned it would have had the same.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import types
from typing import Any

from blackbox.llm.confine import confine, end_with_parent
from blackbox.llm.exchange import decode, encode

NAME = "<program>"
REFUSALS = (errno.EPERM, errno.EACCES, errno.EROFS, errno.EFBIG, errno.EAGAIN, errno.ENETUNREACH)


def main(request: dict[str, Any]) -> None:
    """Answer one request: ``result`` (the pipe), ``token``, the program and what it may use."""
    if request["level"] != "none":
        end_with_parent()
    try:
        confine(request["level"], request["memory"], request["seconds"], request["readable"])
    except Exception as error:
        _write(request, {"kind": "crash", "message": f"the process could not be confined: {error}"})
    spare = [bytes(2**20)]  # to be given back before an exhausted memory is reported
    try:
        sys.path += request["path"]
        sys.argv = [NAME]
        answer = {"value": _call(request["source"], request["entry"], request["args"])}
        text = json.dumps(answer)
    except BaseException as error:
        spare.clear()
        text = json.dumps(_describe(error))
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        _write(request, text)


def _write(request: dict[str, Any], answer: str | dict[str, str]) -> None:
    """Write the result and leave, before anything that the program has prepared for the end."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    data = memoryview(f"{request['token']}{text}".encode())
    try:
        while data:
            data = data[os.write(request["result"], data) :]
    finally:
        os._exit(0)


class _BadResult(Exception):
    pass


def _call(source: str, entry: str, args: Any) -> Any:
    module = types.ModuleType("program")
    sys.modules["program"] = module
    exec(compile(source, NAME, "exec"), module.__dict__)
    if entry not in module.__dict__:
        raise _BadResult(f"the program does not define {entry}")
    value = module.__dict__[entry](*decode(args))
    try:
        return encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise _BadResult(f"{entry} returned {error}") from None


def _describe(error: BaseException) -> dict[str, str]:
    """The kind of failure and a line about it, whatever the exception does when it is looked at."""
    try:
        if isinstance(error, _BadResult):
            return {"kind": "result", "message": str(error)[:1000]}
        line, trace = "", error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == NAME:
                line = f" (line {trace.tb_lineno})"
            trace = trace.tb_next
        if isinstance(error, SyntaxError):
            line = f" (line {error.lineno})"
        refused = isinstance(error, OSError) and error.errno in REFUSALS
        kind = "memory" if isinstance(error, MemoryError) else "forbidden" if refused else "raised"
        return {"kind": kind, "message": f"{type(error).__name__}: {error}"[:1000] + line}
    except BaseException:
        return {"kind": "raised", "message": "an exception that cannot be described"}
