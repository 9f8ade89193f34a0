"""The laws of search spaces: round trips, totality of decoding, and errors that name the argument."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import malformed_points, malformed_spaces, random_space

from blackbox.errors import BlackboxError, SpaceError
from blackbox.space import (
    Bool,
    Box,
    Choice,
    Float,
    Int,
    Permutation,
    Space,
    as_space,
    reflect,
    space_from_dict,
)

law = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
NATIVE = (str, int, float, bool, type(None), list)
KERNELS = {"rbf": Space({"gamma": Float(1e-5, 10, log=True)}), "poly": Space({"degree": Int(1, 6)}), "linear": None}
SVC = Space({"C": Float(1e-3, 1e3, log=True), "kernel": Choice(KERNELS), "shrinking": Bool()})

bounds = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)
positive = st.floats(min_value=1e-300, max_value=1e300)
integers = st.integers(-(2**63), 2**63 - 1)
values = st.one_of(st.text(max_size=5), st.integers(), st.floats(-10, 10), st.booleans(), st.none())
options = st.lists(values, min_size=2, max_size=5, unique_by=lambda value: (type(value) is bool, value))


@st.composite
def leaves(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(["float", "log float", "int", "log int", "bool", "choice", "permutation"]))
    if kind in ("float", "log float"):
        low, high = sorted(draw(st.tuples(*[positive if "log" in kind else bounds] * 2).filter(lambda b: b[0] != b[1])))
        return Float(low, high, log="log" in kind)
    if kind in ("int", "log int"):
        numbers = st.integers(1, 2**51) if "log" in kind else integers
        low_int, high_int = sorted(draw(st.tuples(numbers, numbers).filter(lambda b: b[0] != b[1])))
        return Int(low_int, high_int, log="log" in kind)
    if kind == "bool":
        return Bool()
    return Choice(draw(options)) if kind == "choice" else Permutation(draw(options))


@st.composite
def spaces(draw: st.DrawFn, depth: int = 2, names: Any = None) -> Space:
    """Random spaces whose choices nest to ``depth`` levels; every name is used once."""
    names = names or (f"v{i}" for i in count())
    dimensions: dict[str, Any] = {}
    for _ in range(draw(st.integers(1, 3))):
        name = next(names)
        if depth and draw(st.booleans()):
            branches = draw(st.lists(st.booleans(), min_size=1, max_size=3))
            dimensions[name] = Choice(
                {f"option {i}": draw(spaces(depth - 1, names)) if b else None for i, b in enumerate(branches)}
            )
        else:
            dimensions[name] = draw(leaves())
    return Space(dimensions)


@st.composite
def spaces_and_vectors(draw: st.DrawFn, low: float = 0.0, high: float = 1.0) -> tuple[Space, np.ndarray]:
    space = draw(spaces())
    coordinates = st.floats(low, high)
    return space, np.array(draw(st.lists(coordinates, min_size=space.dimension, max_size=space.dimension)))


# Round trips and totality


@law
@given(spaces_and_vectors())
def test_decoding_what_was_encoded_gives_the_point_exactly(case: tuple[Space, np.ndarray]) -> None:
    space, vector = case
    point = space.decode(vector)
    encoded = space.encode(point)
    assert encoded.shape == (space.dimension,)
    assert encoded.dtype == np.float64
    assert ((encoded >= 0) & (encoded <= 1)).all()
    assert space.decode(encoded) == point
    assert np.array_equal(space.encode(space.decode(encoded)), encoded)


@law
@given(spaces_and_vectors(-1.7e308, 1.7e308))
def test_every_finite_vector_decodes_to_native_values_inside_the_space(case: tuple[Space, np.ndarray]) -> None:
    space, vector = case
    point = space.decode(vector)
    assert space.explain(point) is None
    assert all(type(value) in NATIVE for value in point.values())
    assert json.loads(json.dumps(point)) == point
    assert point == space.decode(reflect(vector))


@law
@given(spaces(), st.integers(0, 2**32))
def test_decode_many_is_decode_for_each(space: Space, seed: int) -> None:
    vectors = np.random.default_rng(seed).uniform(-1, 2, (7, space.dimension))
    assert space.decode_many(vectors) == [space.decode(vector) for vector in vectors]
    assert space.decode_many(vectors[:0]) == []


@law
@given(spaces())
def test_a_space_survives_json_with_any_order_of_keys_and_its_own_repr(space: Space) -> None:
    for sort_keys in (False, True):
        assert space_from_dict(json.loads(json.dumps(space.to_dict(), sort_keys=sort_keys))) == space
    assert eval(repr(space)) == space  # noqa: S307
    assert hash(Space.from_dict(space.to_dict())) == hash(space)


@law
@given(spaces_and_vectors(), st.integers(0, 2**32))
def test_inactive_coordinates_do_not_matter_and_encode_as_one_half(case: tuple[Space, np.ndarray], seed: int) -> None:
    space, vector = case
    mask = space.active_mask(vector)
    other = np.where(mask, vector, np.random.default_rng(seed).random(space.dimension))
    point = space.decode(vector)
    assert space.decode(other) == point
    assert (space.encode(point)[~mask] == 0.5).all()
    assert np.array_equal(space.active_mask(space.encode(point)), mask)


@law
@given(st.lists(st.tuples(bounds, bounds).filter(lambda b: b[0] != b[1]), min_size=1, max_size=5), st.data())
def test_a_box_round_trips_exactly_and_stays_inside(corners: list[tuple[float, float]], data: st.DataObject) -> None:
    box = Box(*np.sort(corners).T)
    assert eval(repr(box)) == box  # noqa: S307
    assert space_from_dict(json.loads(json.dumps(box.to_dict()))) == box
    vectors = st.lists(st.floats(-1e3, 1e3), min_size=len(box), max_size=len(box))
    for vector in (data.draw(vectors), np.zeros(len(box)), np.ones(len(box))):
        point = box.decode(vector)
        assert box.contains(point)
        assert np.array_equal(box.decode(box.encode(point)), point)
        assert np.array_equal(box.decode_many([vector])[0], point)


def test_the_corners_of_the_cube_are_the_bounds_of_a_box() -> None:
    rng = np.random.default_rng(0)
    box = Box(-rng.random(1_000), rng.random(1_000))
    assert np.array_equal(box.decode(np.zeros(1_000)), box.low)
    assert np.array_equal(box.decode(np.ones(1_000)), box.high)
    assert np.array_equal(box.decode(box.encode(box.high)), box.high)


EXTREMES = [
    Float(0, 5e-324), Float(1, 1 + 2**-52), Float(1, 1 + 2**-52, log=True), Float(1e10, 1e10 + 1e-3),
    Float(-8e307, 8e307), Float(1e-300, 1e300, log=True), Float(5e-324, 1e308, log=True),
    Float(5e-324, 1e-323, log=True), Float(-1e308, 0), Float(0.999, 1.001, log=True),
    Float(1e300, 1.0001e300, log=True), Float(1e-10, 1, log=True), Float(-1e-300, 1), Int(1, 2**51, log=True),
    Float(1e300, math.nextafter(1e300, math.inf), log=True), Int(0, 1),
    Int(0, 2**51 - 1), Int(0, 2**53), Int(0, 2**62), Int(-(2**63), 2**63 - 1), Int(2**62 - 10, 2**62),
    Int(-(2**63), 1 - 2**63), Int(2**51 - 5, 2**51, log=True), Int(1, 2, log=True),
]  # fmt: skip


@pytest.mark.parametrize("dimension", EXTREMES, ids=repr)
def test_extreme_ranges_keep_their_bounds_and_round_trip(dimension: Float | Int) -> None:
    space = Space({"x": dimension})
    assert space.decode([0.0]) == {"x": dimension.low}
    assert space.decode([1.0]) == {"x": dimension.high}
    rng = np.random.default_rng(0)
    u = np.concatenate([[0.0, 1.0, 5e-324, 1e-300, 1 - 2**-53], rng.random(80), 10 ** -rng.uniform(0, 18, 40)])
    for point in space.decode_many(np.concatenate([u, 1 - u])[:, None]):
        assert dimension.low <= point["x"] <= dimension.high
        assert type(point["x"]) is (int if isinstance(dimension, Int) else float)
        assert space.decode(space.encode(point)) == point


@law
@given(st.tuples(bounds, bounds).filter(lambda b: b[0] != b[1]), st.floats(0, 1))
def test_any_float_of_the_range_comes_back_to_the_resolution_of_its_coordinate(
    corner: tuple[float, float], weight: float
) -> None:
    low, high = sorted(corner)
    value = min(max(low * (1 - weight) + high * weight, low), high)
    space = Space({"x": Float(low, high)})
    ulp = math.ulp(max(abs(low), abs(high)))
    assert abs(space.decode(space.encode({"x": value}))["x"] - value) <= ulp


@pytest.mark.parametrize(
    "dimension",
    [Int(-3, 9), Int(1, 300, log=True), Int(0, 2**51 - 1), Int(2**53, 2**53 + 9), Int(1, 2**42, log=True)],
    ids=repr,
)
def test_every_integer_comes_back(dimension: Int) -> None:
    space = Space({"n": dimension})
    rng = random.Random(0)
    some = [rng.randint(dimension.low, dimension.high) for _ in range(200)]
    for n in {*some, dimension.low, dimension.high, dimension.low + 1, dimension.high - 1}:
        assert space.decode(space.encode({"n": n})) == {"n": n}


@law
@given(options, st.data())
def test_every_option_and_order_comes_back(items: list[Any], data: st.DataObject) -> None:
    space = Space({"choice": Choice(items), "order": Permutation(items), "flag": Bool()})
    for option in items:
        point = {"choice": option, "order": data.draw(st.permutations(items)), "flag": data.draw(st.booleans())}
        decoded = space.decode(space.encode(point))
        assert decoded == point
        assert type(decoded["choice"]) is type(option)


# What the encoding is


def test_the_encoding_is_the_documented_one() -> None:
    order = {"C": 1.0, "kernel": "poly", "degree": 3, "shrinking": True}
    assert SVC.names == ("C", "kernel", "gamma", "degree", "shrinking") == tuple(SVC)
    assert (SVC.dimension, len(SVC)) == (7, 5)
    np.testing.assert_allclose(SVC.encode(order), [0.5, 0, 1, 0, 0.5, 2.5 / 6, 0.75], rtol=1e-15)
    assert list(SVC.decode(SVC.encode(order))) == list(order)
    assert SVC.active_mask(SVC.encode(order)).tolist() == [True] * 4 + [False, True, True]
    assert SVC.decode([0.5, 0.2, 0.1, 0.9, 0.3, 0.3, 0.1]) == {"C": 1.0, "kernel": "linear", "shrinking": False}
    assert SVC.decode([0.0, 0.7, 0.7, 0.7, 0.0, 0.3, 0.5]) == {
        "C": 1e-3,
        "kernel": "rbf",
        "gamma": 1e-5,
        "shrinking": True,
    }
    assert Space({"p": Permutation(["a", "b", "c"])}).encode({"p": ["c", "a", "b"]}).tolist() == [0.5, 1.0, 0.0]
    assert Space({"p": Permutation(4)}).decode([0.4, 0.1, 0.4, 0.0]) == {"p": [3, 1, 0, 2]}
    ties = (np.random.default_rng(0).integers(3, size=500) / 2).tolist()
    assert Space({"p": Permutation(500)}).decode(ties) == {"p": sorted(range(500), key=ties.__getitem__)}


def test_layout_has_an_entry_per_variable_in_coordinate_order_and_is_hashable() -> None:
    assert SVC.layout == (
        ("float",),
        ("choice", 3),
        ("float",),
        ("int", tuple(i / 6 for i in range(1, 6))),
        ("int", (0.5,)),
    )
    assert Space({"p": Permutation(3), "n": Int(0, 128), "m": Int(0, 127)}).layout[:4] == (("float",),) * 4
    assert len(Space({"m": Int(0, 127)}).layout[0][1]) == 127
    assert Box(0, 1, 2).layout == (("float",), ("float",))
    assert {SVC.layout: 1}[SVC.layout] == 1


def test_conditions_say_which_entries_of_the_layout_are_active() -> None:
    inner = Space(
        {"z": Int(0, 4), "order": Permutation(3), "deep": Choice({"p": Space({"f": Float(0, 1)}), "q": None})}
    )
    space = Space({"a": Float(0, 1), "kind": Choice({"none": None, "some": inner}), "last": Bool()})
    starts = np.cumsum([0, *(entry[1] if entry[0] == "choice" else 1 for entry in space.layout)])
    for u in np.random.default_rng(0).random((100, space.dimension)):
        mask = space.active_mask(u)
        for start, (parent, option) in zip(starts, space.conditions, strict=False):
            is_chosen = parent < 0 or (
                mask[starts[parent]] and u[starts[parent] : starts[parent + 1]].argmax() == option
            )
            assert mask[start] == is_chosen
    assert len(space.conditions) == len(space.layout)


@pytest.mark.parametrize(
    "dimension", [Int(0, 2), Int(-7, 50), Int(1, 128, log=True), Int(5, 9, log=True), Bool()], ids=repr
)
def test_the_layouts_edges_are_where_the_decoded_value_changes(dimension: Int | Bool) -> None:
    space = Space({"n": dimension})
    ((_, edges),) = dimension.layout
    first = dimension.low if isinstance(dimension, Int) else 0
    u = np.sort(np.concatenate([np.random.default_rng(0).random(2000), *[[e - 1e-12, e + 1e-12] for e in edges]]))
    cells = np.searchsorted(edges, u, side="right")
    assert [point["n"] for point in space.decode_many(u[:, None])] == (first + cells).tolist()
    assert set(cells.tolist()) == set(range(len(edges) + 1))


def test_scales_are_uniform_on_their_axis() -> None:
    u = (np.arange(9_000) + 0.5)[:, None] / 9_000
    numbers = [point["n"] for point in Space({"n": Int(1, 9)}).decode_many(u)]
    assert np.bincount(numbers)[1:].tolist() == [1_000] * 9
    logs = np.log([point["x"] for point in Space({"x": Float(1e-4, 1e2, log=True)}).decode_many(u)])
    np.testing.assert_allclose(np.diff(logs), math.log(1e6) / 9_000, rtol=1e-9)
    many = [point["n"] for point in Space({"n": Int(1, 1_000, log=True)}).decode_many(u)]
    below = np.log([9.5 / 0.5, 99.5 / 0.5]) / np.log(1000.5 / 0.5)  # cells run from log(n - 1/2) to log(n + 1/2)
    np.testing.assert_allclose([np.mean(np.array(many) < 10), np.mean(np.array(many) < 100)], below, atol=2e-4)


def test_branches_may_share_names_that_are_never_active_together() -> None:
    rates = {"sgd": Space({"lr": Float(0.1, 1)}), "adam": Space({"lr": Float(1e-4, 1e-2), "beta": Float(0.5, 1)})}
    space = Space({"optimizer": Choice(rates)})
    assert space.names == ("optimizer", "lr", "beta")
    assert space.dimension == 5
    assert space.decode([1, 0, 0, 1, 1]) == {"optimizer": "sgd", "lr": 0.1}
    assert space.decode([0, 1, 0, 1, 1]) == {"optimizer": "adam", "lr": 1e-2, "beta": 1.0}


def test_an_inner_choice_of_an_inactive_branch_activates_nothing() -> None:
    deep = Space({"b": Choice({"q": Space({"c": Int(0, 3)}), "r": None})})
    space = Space({"a": Choice({"o": deep, "p": None}), "z": Bool()})
    assert space.decode([0, 1, 1, 0, 0.9, 0]) == {"a": "p", "z": False}
    assert space.decode([1, 0, 1, 0, 0.9, 0]) == {"a": "o", "b": "q", "c": 3, "z": False}
    assert space.active_mask([0, 1, 1, 0, 0.9, 0]).tolist() == [True, True, False, False, False, True]


def test_numpy_values_are_taken_and_become_native() -> None:
    space = Space(
        {"x": Float(np.float32(0), np.int64(1)), "n": Int(np.int8(0), np.uint64(9)), "c": Choice(np.arange(3))}
    )
    assert eval(repr(space)) == space  # noqa: S307
    point = {"x": np.float32(0.5), "n": np.int16(4), "c": np.int64(2)}
    decoded = space.decode(space.encode(point))
    assert decoded == {"x": 0.5, "n": 4, "c": 2}
    assert [type(value) for value in decoded.values()] == [float, int, int]
    assert Space({"p": Permutation(3)}).contains({"p": np.array([2, 0, 1])})
    assert Space({"f": Bool()}).contains({"f": np.True_})
    assert Space({"c": Choice(np.array(["a", "b"]))}) == Space({"c": Choice(["a", "b"])})


def test_true_is_not_one() -> None:
    space = Space({"c": Choice([1, True, 0, "1"])})
    assert [space.encode({"c": c}).argmax() for c in (1, True, 0, "1")] == [0, 1, 2, 3]
    assert not space.contains({"c": False})
    assert Choice([1]) != Choice([True])


def test_float32_and_integer_vectors_decode() -> None:
    assert Box(0, 8, 2).decode(np.array([0.25, 0.5], np.float32)).tolist() == [2.0, 4.0]
    assert Box(0, 8, 2).decode([0, 1]).dtype == np.float64


def test_boxes() -> None:
    box = Box([0, -1], [2, 1])
    assert box == Box(np.array([0.0, -1.0]), (2, 1)) == Box([0, -1], [2, 1], 2)
    assert Box(-5, 5, 3) == Box([-5] * 3, 5) != Box(-5, 5, 4)
    assert repr(Box(-5, 5, 3)) == "Box(-5.0, 5.0, 3)"
    assert repr(box) == "Box([0.0, -1.0], [2.0, 1.0])"
    assert box.names == tuple(box) == ("x0", "x1")
    assert box.decode([0.5, 1.25]).tolist() == [1.0, 0.5]
    assert box.encode([1, 0.5]).tolist() == [0.5, 0.75]
    assert box.active_mask([0, 0]).tolist() == [True, True]
    assert box.explain([0.5, 3]) == "x[1] must be a number in [-1.0, 1.0]; got 3.0 (float)"
    assert len({box, Box([0, -1], [2, 1])}) == 1
    with pytest.raises(ValueError, match="read-only"):
        box.low[0] = 5


def test_as_space_takes_spaces_boxes_and_dictionaries() -> None:
    box = Box(0, 1, 2)
    assert as_space(SVC) is SVC
    assert as_space(box) is box
    assert as_space({"x": Float(0, 1)}) == Space({"x": Float(0, 1)})


# The mirror


@law
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4))
def test_reflect_is_a_triangle_wave(coordinates: list[float]) -> None:
    u = np.array(coordinates)
    folded = reflect(u)
    assert ((folded >= 0) & (folded <= 1)).all()
    assert np.array_equal(reflect(folded), folded)
    assert np.array_equal(reflect(-u), folded)
    np.testing.assert_allclose(reflect(u + 2), folded, atol=1e-9)
    np.testing.assert_allclose(reflect(1 + u), reflect(1 - u), atol=1e-9)


def test_reflect_works_on_every_array_library() -> None:
    u = [[1.1, -0.1, 2.3], [0.25, -3.5, 5e-324]]
    expected = [[0.9, 0.1, 0.3], [0.25, 0.5, 5e-324]]
    np.testing.assert_allclose(reflect(np.array(u)), expected, rtol=1e-14)
    assert reflect(np.array(u, np.float32)).dtype == np.float32
    strict = pytest.importorskip("array_api_strict")
    np.testing.assert_array_equal(np.asarray(reflect(strict.asarray(u))), reflect(np.array(u)))
    jax = pytest.importorskip("jax")
    np.testing.assert_allclose(jax.jit(reflect)(jax.numpy.asarray(u)), expected, atol=1e-6)
    assert SVC.decode(jax.numpy.full(7, 0.25))["shrinking"] is False


# TOML


def test_toml_describes_every_kind_of_variable(tmp_path: Any) -> None:
    text = """
    [C]
    type = "float"
    low = 1e-3
    high = 1000
    log = true
    [kernel]
    type = "choice"
    options = ["rbf", "poly", "linear"]
    [kernel.branches.rbf.gamma]
    type = "float"
    low = 1e-5
    high = 10
    log = true
    [kernel.branches.poly.degree]
    type = "int"
    low = 1
    high = 6
    [shrinking]
    type = "bool"
    """
    assert Space.from_toml(text) == SVC
    path = tmp_path / "svc.toml"
    path.write_text(text)
    assert Space.from_toml(path) == Space.from_toml(str(path)) == SVC
    named = "[o]\ntype = 'choice'\n[o.branches.b]\n[o.branches.a.p]\ntype = 'permutation'\nitems = 3"
    assert Space.from_toml(named) == Space({"o": Choice({"b": None, "a": Space({"p": Permutation(3)})})})


# Errors

X = Space({"x": Float(0, 1)})
MALFORMED: list[tuple[str, Callable[[], Any]]] = [
    ("low must be a finite real number; got nan (float)", lambda: Float(math.nan, 1)),
    ("high must be a finite real number; got inf (float)", lambda: Float(0, math.inf)),
    ("low must be a finite real number; got '0' (str)", lambda: Float("0", 1)),
    ("low must be a finite real number; got True (bool)", lambda: Float(True, 2)),
    ("high must be a finite real number; got 1j (complex)", lambda: Float(0, 1j)),
    ("high must be a finite real number; got None (NoneType)", lambda: Float(0, None)),
    ("high must be a finite real number; got an object of type int", lambda: Float(0, 10**5000)),
    ("low must be below high = 1.0; got 1 (int)", lambda: Float(1, 1)),
    ("low must be below high = 0.0; got 2 (int)", lambda: Float(2, 0)),
    ("low must be above 0 on a log scale; got 0 (int)", lambda: Float(0, 1, log=True)),
    ("low must be above 0 on a log scale; got -1 (int)", lambda: Float(-1, 1, True)),
    ("high must be at most 1e308 on a log scale", lambda: Float(1, 1.5e308, log=True)),
    ("high must be such that high - low is finite", lambda: Float(-1e308, 1e308)),
    ("log must be True or False; got 1 (int)", lambda: Float(1, 2, log=1)),
    ("low must be an integer", lambda: Int(0.0, 5)),
    ("high must be an integer", lambda: Int(0, "5")),
    ("high must be an integer", lambda: Int(0, True)),
    ("high must be an integer from -9223372036854775808 to 9223372036854775807", lambda: Int(0, 2**63)),
    ("low must be below high = 3; got 3 (int)", lambda: Int(3, 3)),
    ("low must be at least 1 on a log scale; got 0 (int)", lambda: Int(0, 5, log=True)),
    ("high must be at most 2**51 on a log scale; got 2251799813685249", lambda: Int(1, 2**51 + 1, log=True)),
    ("log must be True or False; got 'yes' (str)", lambda: Int(1, 5, log="yes")),
    ("options must be a non-empty list or tuple; got [] (list)", lambda: Choice([])),
    ("options must be a non-empty list or tuple; got 'abc' (str)", lambda: Choice("abc")),
    ("options must be a non-empty list or tuple; got {1} (set)", lambda: Choice({1})),
    ("options must be a non-empty list or tuple", lambda: Choice(None)),
    ("options must be a non-empty list or tuple", lambda: Choice({})),
    ("options[2] must be different from options[0]; got 'a' (str)", lambda: Choice(["a", "b", "a"])),
    ("options[1] must be different from options[0]; got 1.0 (float)", lambda: Choice([1, 1.0])),
    ("options[0] must be a str, int, finite float, bool or None; got [1] (list)", lambda: Choice([[1]])),
    ("options[0] must be a str, int, finite float, bool or None; got nan", lambda: Choice([math.nan])),
    ("options must be keyed by non-empty strings if a dictionary; got 1", lambda: Choice({1: None})),
    ("options['a'] must be a Space or None; got {} (dict)", lambda: Choice({"a": {}})),
    ("items must be an integer from 2", lambda: Permutation(1)),
    ("items must be an integer from 2", lambda: Permutation(3.0)),
    ("items must be at least two values; got ['a'] (list)", lambda: Permutation(["a"])),
    ("items[1] must be different from items[0]", lambda: Permutation(["a", "a"])),
    ("items must be a non-empty list or tuple; got 'abc' (str)", lambda: Permutation("abc")),
    ("dimensions must be a non-empty dictionary from name to variable; got {}", lambda: Space({})),
    ("dimensions must be a non-empty dictionary from name to variable; got [", lambda: Space([("x", Float(0, 1))])),
    ("dimensions must be keyed by non-empty strings; got '' (str)", lambda: Space({"": Float(0, 1)})),
    ("dimensions must be keyed by non-empty strings; got 3 (int)", lambda: Space({3: Float(0, 1)})),
    ("dimensions['x'] must be Float, Int, Choice, Bool or Permutation", lambda: Space({"x": (0, 1)})),
    ("a Space belongs inside a Choice", lambda: Space({"x": X})),
    ("dimensions['x'] must be Float, Int", lambda: Space({"x": Float})),
    ("dimensions['x'] must be of names that differ", lambda: Space({"x": Choice({"a": X})})),
    ("dimensions['c'] must be of names that differ", lambda: Space({"x": Float(0, 1), "c": Choice({"a": X})})),
    ("dimensions['x'] must be of names that differ", lambda: Space({"c": Choice({"a": X}), "x": Float(0, 1)})),
    ("got 'x' twice", lambda: Space({"c": Choice({"a": X}), "d": Choice({"a": X})})),
    ("dimension must be an integer where low and high are numbers", lambda: Box(0, 1)),
    ("dimension must be an integer from 1", lambda: Box(0, 1, 0)),
    ("dimension must be an integer from 1", lambda: Box(0, 1, 2.0)),
    ("low, high and dimension must agree on one length; got [2, 3]", lambda: Box([0, 0], [1, 1, 1])),
    ("low, high and dimension must agree on one length; got [2, 5]", lambda: Box([0, 0], [1, 1], 5)),
    ("low[1] must be below high[1] = 1.0; got 1.0", lambda: Box([0, 1], [1, 1])),
    ("low[0] must be a finite real number; got nan", lambda: Box([math.nan, 1], [1, 2])),
    ("high[1] must be a finite real number; got True", lambda: Box([0, 0], [1, True])),
    ("low[0] must be a finite real number; got [0] (list)", lambda: Box([[0]], [[1]])),
    ("high[0] must be such that", lambda: Box(-1e308, 1e308, 3)),
    ("low must be of at least one number", lambda: Box([], [])),
    ("space must be a Space, a Box or a dictionary", lambda: as_space([0, 1])),
    ("x type must be among float, int, bool, permutation, choice; got 'flaot' (str); did you mean 'float'?",
     lambda: Space.from_toml('[x]\ntype = "flaot"')),
    ("x keys must be among type, low, high, log; got 'hihg' (str); did you mean 'high'?",
     lambda: Space.from_toml('[x]\ntype = "int"\nlow = 1\nhihg = 2')),
    ("x must have 'high'", lambda: Space.from_toml('[x]\ntype = "int"\nlow = 1')),
    ("x: low must be below high", lambda: Space.from_toml('[x]\ntype = "int"\nlow = 1\nhigh = 0')),
    ("branches must be among a; got 'b' (str)",
     lambda: Space.from_toml('[x]\ntype = "choice"\noptions = ["a"]\n[x.branches.b.y]\ntype = "bool"')),
    ("path_or_text must be a readable .toml file", lambda: Space.from_toml("absent.toml")),
    ("path_or_text must be a readable .toml file or TOML text", lambda: Space.from_toml("[x")),
    ("data type must be among space, box", lambda: space_from_dict({"type": "Space"})),
    ("variables must be of different names; got 'x' twice",
     lambda: Space.from_dict({"type": "space", "variables": [["x", {"type": "bool"}]] * 2})),
    # points
    ("x must be a dictionary with the names C, kernel", lambda: SVC.encode([1, 2])),
    ("C must be a number in [0.001, 1000.0]; got nothing", lambda: SVC.encode({})),
    ("C must be a number in [0.001, 1000.0]; got 5000 (int)", lambda: SVC.encode({"C": 5000})),
    ("C must be a number in [0.001, 1000.0]; got nan (float)", lambda: SVC.encode({"C": math.nan})),
    ("kernel must be one of 'rbf', 'poly', 'linear'; got 'rfb' (str)", lambda: SVC.encode({"C": 1, "kernel": "rfb"})),
    ("kernel must be one of 'rbf', 'poly', 'linear'; got ['rbf'] (list)",
     lambda: SVC.encode({"C": 1, "kernel": ["rbf"]})),
    ("degree must be an integer from 1 to 6; got 2.0 (float)",
     lambda: SVC.encode({"C": 1, "kernel": "poly", "degree": 2.0, "shrinking": True})),
    ("shrinking must be True or False; got 1 (int)", lambda: SVC.encode({"C": 1, "kernel": "linear", "shrinking": 1})),
    ("gamma must be absent, its branch is not active; got 1 (int)",
     lambda: SVC.encode({"C": 1, "kernel": "linear", "shrinking": True, "gamma": 1})),
    ("names of x must be among C, kernel, gamma, degree, shrinking; got 'gama' (str); did you mean 'gamma'?",
     lambda: SVC.encode({"C": 1, "kernel": "linear", "shrinking": True, "gama": 1})),
    ("p must be a list that has each of [0, 1, 2] once; got [0, 1, 1] (list)",
     lambda: Space({"p": Permutation(3)}).encode({"p": [0, 1, 1]})),
    ("u must be an array of real numbers of shape (d,) with d = 7; got shape (6,)", lambda: SVC.decode(np.zeros(6))),
    ("u must be an array of real numbers of shape (n, d) with d = 7", lambda: SVC.decode_many(np.zeros(7))),
    ("u must be an array of real numbers", lambda: SVC.decode("vector")),
    ("u must be an array of real numbers", lambda: SVC.decode([[0.0], 1.0])),
    ("u must be an array of real numbers", lambda: SVC.decode(np.zeros(7, complex))),
    ("u[3] must be finite; got nan (float)", lambda: SVC.active_mask([0, 0, 0, math.nan, 0, 0, 0])),
    ("u[1, 0] must be finite; got inf (float)", lambda: Box(0, 1, 1).decode_many([[0.0], [math.inf]])),
    ("x[0] must be a number in [0.0, 1.0]; got nan (float)", lambda: Box(0, 1, 1).encode([math.nan])),
    ("x must be an array of 2 real numbers; got [0] (list)", lambda: Box(0, 1, 2).encode([0])),
]  # fmt: skip


@pytest.mark.parametrize(("message", "thunk"), MALFORMED, ids=range(len(MALFORMED)))
def test_an_error_names_the_argument_what_came_and_what_is_allowed(message: str, thunk: Callable[[], Any]) -> None:
    with pytest.raises(SpaceError, match=re.escape(message)):
        thunk()


@pytest.mark.parametrize("generate", [malformed_spaces, malformed_points])
def test_generated_malformed_calls_raise_errors_that_name_the_argument(generate: Any) -> None:
    for description, thunk in generate(seed=0, n=1_000):
        argument = description.split(":")[0]
        try:
            thunk()
        except BlackboxError as error:
            assert re.search(rf"(?<!\w){re.escape(argument)}(?!\w)", str(error)), f"{description}: {error}"
        else:
            pytest.fail(f"accepted: {description}")


def test_the_generators_of_malformed_cases_repeat_and_start_from_valid_spaces() -> None:
    first, second = ([name for name, _ in malformed_points(3, 50)] for _ in range(2))
    assert first == second
    for seed in range(50):
        space = random_space(random.Random(seed))
        assert space.contains(space.decode([0.3] * space.dimension))
        assert space_from_dict(space.to_dict()) == space


def test_explain_and_contains_agree_with_encode() -> None:
    assert SVC.explain({"C": 1, "kernel": "linear", "shrinking": True}) is None
    assert SVC.contains({"C": 1, "kernel": "linear", "shrinking": True})
    assert SVC.explain({"C": 1}) == "kernel must be one of 'rbf', 'poly', 'linear'; got nothing"
    assert not SVC.contains(None)
