"""JSON in the answers of language models: found in the text around it, and checked against a schema.

Of JSON Schema (draft 2020-12) this knows the keywords that structured outputs of common servers take. A schema with any
other is refused at once: none is passed over in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from blackbox.errors import SettingError

_IGNORED = {"$schema", "title", "description", "default", "examples"}  # they say nothing about what is valid
_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
    "number": lambda value: _is_number(value),
}
_LIMITS: dict[str, tuple[type | tuple[type, ...], Callable[[Any, Any], bool], str]] = {
    "minimum": ((int, float), lambda value, limit: value >= limit, "is less than"),
    "maximum": ((int, float), lambda value, limit: value <= limit, "is more than"),
    "exclusiveMinimum": ((int, float), lambda value, limit: value > limit, "is not more than"),
    "exclusiveMaximum": ((int, float), lambda value, limit: value < limit, "is not less than"),
    "minItems": (list, lambda value, limit: len(value) >= limit, "has fewer entries than"),
    "maxItems": (list, lambda value, limit: len(value) <= limit, "has more entries than"),
    "minLength": (str, lambda value, limit: len(value) >= limit, "is shorter than"),
    "maxLength": (str, lambda value, limit: len(value) <= limit, "is longer than"),
}
_STRUCTURE = {"type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf"}
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


def check_schema(schema: object, at: str = "schema") -> None:
    """SettingError unless every keyword of ``schema`` is one that is checked here."""
    if not isinstance(schema, Mapping):
        raise SettingError(f"{at} must be a dictionary, a JSON schema; got {schema!r}")
    if foreign := [word for word in schema if word not in _IGNORED | _STRUCTURE and word not in _LIMITS]:
        known = ", ".join(sorted(_STRUCTURE | _LIMITS.keys()))
        raise SettingError(f"{at} has the keyword {foreign[0]!r}; known are {known}")
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind not in _TYPES:
            raise SettingError(f"{at}.type must be one of {', '.join(_TYPES)}; got {kind!r}")
    if not isinstance(schema.get("additionalProperties", True), bool):
        raise SettingError(f"{at}.additionalProperties must be true or false")
    for word in _LIMITS:
        if word in schema and not _is_number(schema[word]):
            raise SettingError(f"{at}.{word} must be a number; got {schema[word]!r}")
    for name, part in dict(schema.get("properties", {})).items():
        check_schema(part, f"{at}.{name}")
    if "items" in schema:
        check_schema(schema["items"], f"{at}[]")
    for part in schema.get("anyOf", ()):
        check_schema(part, f"{at}.anyOf")
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{at} must hold JSON values only: {error}") from error


def misfit(value: Any, schema: Mapping[str, Any], at: str = "it") -> str:
    """Where and how ``value`` does not fit a checked schema; "" if it does."""
    kinds = schema.get("type")
    if kinds is not None and not any(_TYPES[kind](value) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return f"{at} is {_short(value)}, which is no {kinds if isinstance(kinds, str) else ' or '.join(kinds)}"
    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        return f"{at} is {_short(value)}, which is none of {_short(schema['enum'])}"
    if "const" in schema and not _same(value, schema["const"]):
        return f"{at} is {_short(value)}, which is not {_short(schema['const'])}"
    for word, (applies, holds, complaint) in _LIMITS.items():
        concerned = word in schema and isinstance(value, applies) and not isinstance(value, bool)
        if concerned and not holds(value, schema[word]):
            return f"{at}: {_short(value)} {complaint} {schema[word]}"
    if "anyOf" in schema and all(misfit(value, part, at) for part in schema["anyOf"]):
        return f"{at} is {_short(value)}, which fits none of anyOf"
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        if absent := [name for name in schema.get("required", ()) if name not in value]:
            return f"{at} lacks {absent[0]!r}"
        if not schema.get("additionalProperties", True) and (
            more := [name for name in value if name not in properties]
        ):
            return f"{at} has {more[0]!r}, which is not allowed"
        parts = [(f"{at}.{name}", value[name], part) for name, part in properties.items() if name in value]
    elif isinstance(value, list) and "items" in schema:
        parts = [(f"{at}[{i}]", entry, schema["items"]) for i, entry in enumerate(value)]
    else:
        parts = []
    return next((found for place, entry, part in parts if (found := misfit(entry, part, place))), "")


def extract(text: str, schema: Mapping[str, Any]) -> Any:
    """The JSON value in an answer: the whole text, or a fenced block, or the first object or array that fits.

    Raises:
        ValueError: there is none that fits ``schema``; says why.
    """
    complaint = "it holds no JSON"
    for part in _candidates(text):
        found = misfit(part, schema)
        if not found:
            return part
        if complaint == "it holds no JSON":
            complaint = found
    raise ValueError(complaint)


def _candidates(text: str) -> Any:
    """Values that the text may mean, the likeliest first."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    for part in (text, *_FENCE.findall(text)):
        try:
            yield decoder.decode(part.strip())
        except (ValueError, RecursionError):
            continue
    start, tries = 0, 0
    while (opening := re.search(r"[{\[]", text[start:])) is not None and tries < 100:  # not quadratic in "[[[["
        start += opening.start()
        tries += 1
        try:
            value, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
        else:
            yield value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)


def _same(value: Any, other: Any) -> bool:
    """Equality of JSON values, to which true is not 1."""
    return json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
