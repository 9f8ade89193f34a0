"""JSON found in answers and checked against schemas, beside the reference implementation where it is installed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blackbox.errors import SettingError
from blackbox.llm.json_schema import check_schema, extract, misfit

POINT = {
    "type": "object",
    "properties": {"x": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 2}},
    "required": ["x"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "text",
    [
        '{"x": [1, 2]}', ' \n{"x": [1, 2]}\n', 'Here:\n```json\n{"x": [1, 2]}\n```\nDone.', '```\n{"x": [1, 2]}\n```',
        'The answer {as asked} is {"x": [1, 2]}.',
        '[0] then {"x": [1]} and {"x": [1, 2]}', '{"x": [1, 2]} {"x": [3, 4]}',
    ],
)  # fmt: skip
def test_json_is_found_in_what_surrounds_it(text: str) -> None:
    assert extract(text, POINT) == {"x": [1, 2]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no", "it holds no JSON"), ('{"x": [1, 2]', "it is \\[1, 2\\], which is no object"),
        ("{}", "it lacks 'x'"),
        ('{"x": [1, 2], "y": 0}', "it has 'y', which is not allowed"),
        ('{"x": [1]}', "it.x: \\[1\\] has fewer entries"),
        ('{"x": [1, 100]}', "it.x\\[1\\]: 100 is more than 99"), ('{"x": [1, true]}', "it.x\\[1\\] is true"),
        ('{"x": [1, NaN]}', "it holds no JSON"), ('{"x": 3}', "it.x is 3, which is no array"),
        ("[" * 50_000, "it holds no JSON"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        extract(text, POINT)


@pytest.mark.parametrize(
    "schema",
    [
        3, {"format": "date"}, {"type": "int"}, {"properties": {"a": {"pattern": "x"}}}, {"items": []},
        {"additionalProperties": {}}, {"minimum": "3"}, {"anyOf": [{"not": {}}]}, {"enum": [{1, 2}]},
    ],
)  # fmt: skip
def test_schemas_with_other_keywords_are_refused(schema: Any) -> None:
    with pytest.raises(SettingError, match="schema"):
        check_schema(schema)


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from([0.5, 2.0]), st.text("ab", max_size=3))
VALUES = st.recursive(
    LEAVES,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from("xyz"), part, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["object", "array", "string", "boolean", "null", "integer", "number"])
PLAIN = st.fixed_dictionaries(
    {},
    optional={
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True), "minimum": st.integers(-3, 3),
        "exclusiveMaximum": st.integers(-3, 3), "minItems": st.integers(0, 2), "maxItems": st.integers(0, 2),
        "minLength": st.integers(0, 2), "enum": st.lists(VALUES, min_size=1, max_size=3), "const": VALUES,
        "required": st.lists(st.sampled_from("xyz"), max_size=2, unique=True),
    },
)  # fmt: skip
SCHEMAS = st.recursive(
    PLAIN,
    lambda part: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("xyz"), part, max_size=2), "items": part,
            "additionalProperties": st.booleans(), "anyOf": st.lists(part, min_size=1, max_size=2),
        },
    ),
    max_leaves=4,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(VALUES, SCHEMAS)
def test_verdicts_are_those_of_the_reference(value: Any, schema: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    check_schema(schema)
    text = json.loads(json.dumps(value))
    assert (misfit(text, schema) == "") == jsonschema.Draft202012Validator(schema).is_valid(text)
