"""Values as JSON between us and a program in a sandbox: plain data, and arrays as bytes with dtype and shape.

Both sides run this text; it imports the standard library, and NumPy only where there are arrays. Floats that are not
finite are written as Python writes them (``NaN``, ``Infinity``) and come back as such.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from typing import Any

DEPTH = 100
"""Lists and dicts nested deeper are refused: the parser is recursive, and a host may have raised Python's limit."""

MARK = "$"  # the key of a dict that stands for something else
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # an open one ends with the text, so the search is linear


def encode(value: Any, depth: int = 0) -> Any:
    """``value`` in what JSON can hold; tuples become lists, NumPy's scalars Python's.

    Raises:
        TypeError: it is, or holds, something else.
        ValueError: it is nested more than ``DEPTH`` deep.
    """
    if depth > DEPTH:
        raise ValueError(f"nested more than {DEPTH} deep")
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in (list, tuple):
        return [encode(item, depth + 1) for item in value]
    if kind is dict:
        if not all(type(key) is str for key in value):
            raise TypeError("a dict whose keys are not all strings")
        items = {key: encode(item, depth + 2) for key, item in value.items()}
        return {MARK: "dict", "items": items} if MARK in items else items
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in "biufc":
        if value.ndim == 0 and value.dtype.kind in "biuf":
            return value.item() if value.dtype.itemsize <= 8 else float(value)
        data = base64.b64encode(numpy.ascontiguousarray(value).tobytes()).decode()
        return {MARK: "array", "dtype": value.dtype.str, "shape": list(value.shape), "data": data}
    raise TypeError(f"a {kind.__name__}; allowed are None, numbers, strings, lists, dicts and arrays of numbers")


def decode(value: Any) -> Any:
    """What ``encode`` was given.

    Raises:
        ValueError: an array is not what it says; nothing is allocated for more than the bytes that came.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if MARK not in value:
        return {key: decode(item) for key, item in value.items()}
    if value[MARK] == "dict" and isinstance(value.get("items"), dict):
        return {key: decode(item) for key, item in value["items"].items()}
    if value[MARK] != "array":
        raise ValueError(f"a dict marked {str(value[MARK])[:50]!r}")
    return _array(value.get("dtype"), value.get("shape"), value.get("data"))


def _array(dtype: Any, shape: Any, data: Any) -> Any:
    import numpy

    if not isinstance(dtype, str) or not re.fullmatch(r"[<>|][biufc]\d{1,2}", dtype) or not isinstance(data, str):
        raise ValueError("an array whose dtype or data is malformed")
    if not isinstance(shape, list) or len(shape) > 32 or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array whose shape is malformed")
    content = base64.b64decode(data, validate=True)
    try:
        kind = numpy.dtype(dtype)
    except TypeError as error:
        raise ValueError(f"no dtype is called {dtype}") from error
    if math.prod(shape) * kind.itemsize != len(content):
        raise ValueError(f"an array of shape {tuple(shape[:8])} with {len(content)} bytes")
    return numpy.frombuffer(content, kind).reshape(shape).copy()


def parse(text: bytes) -> Any:
    """JSON from a program that may be hostile.

    Raises:
        ValueError: it is not one JSON text, or nested too deep.
    """
    if text.count(b"[") + text.count(b"{") > DEPTH:
        import numpy

        signs = numpy.frombuffer(STRING.sub(b"", text), numpy.uint8) | 0x20  # "[" and "{" differ in this bit alone
        steps = (signs == ord("{")).astype(numpy.int8) - (signs == ord("}"))
        if numpy.cumsum(steps, dtype=numpy.int32).max() > DEPTH + 2:
            raise ValueError(f"nested more than {DEPTH} deep")
    return json.loads(text.decode())  # of bytes it would guess the encoding, and count other brackets than we did
