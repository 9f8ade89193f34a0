"""Generated malformed spaces and points, each of which must raise a BlackboxError that names the argument.

``malformed_spaces(seed, n)`` and ``malformed_points(seed, n)`` yield ``n`` pairs ``(description, thunk)``. A
description reads "argument: what is wrong"; the error's message must contain that argument. Same seed, same cases.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from blackbox.space import Bool, Box, Choice, Float, Int, Permutation, Space, as_space, space_from_dict

Case = tuple[str, Callable[[], Any]]

NOT_NUMBERS: list[Any] = [
    None, "1", "", b"1", True, False, np.bool_(True), 1j, complex(1, 0), np.complex128(1), [1], (1,), {}, {1}, object(),
    Decimal(1), Fraction(1, 2), datetime.date(2026, 1, 1), np.array([1.0]), np.array(1.0), float, int, len, slice(1),
    np.datetime64("2026-01-01"), np.str_("1"), np.array([1, "a"], dtype=object), range(2), Ellipsis, NotImplemented,
]  # fmt: skip
NOT_FINITE: list[Any] = [
    float("nan"), float("inf"), -float("inf"), np.nan, np.float32("inf"), np.float16("nan"), 10**400, -(10**5000),
]  # fmt: skip
NOT_FLAGS: list[Any] = [None, 0, 1, "true", 1.0, [], [True], np.int64(1), object()]
NOT_OPTIONS: list[Any] = [
    [1], (1,), {}, {1}, object(), 1j, b"a", Decimal(1), float("nan"), float("inf"), len, np.array([1]), Float(0, 1),
]  # fmt: skip
NOT_NAMES: list[Any] = ["", 1, None, 1.5, ("a",), b"a", True, np.str_("")]


def random_dimension(rng: random.Random, depth: int, names: Iterator[str]) -> Any:
    """A valid variable; a Choice has branches of at most ``depth`` levels, named by ``names``."""
    kind = rng.randrange(7)
    if kind == 0:
        low = rng.choice([0.0, -5.0, rng.uniform(-1e3, 1e3)])
        return Float(low, low + 10 ** rng.uniform(-3, 6))
    if kind == 1:
        low = 10 ** rng.uniform(-30, 3)
        return Float(low, low * 10 ** rng.uniform(0.1, 20), log=True)
    if kind == 2:
        low_int = rng.randint(-1000, 1000)
        return Int(low_int, low_int + rng.randint(1, 2000))
    if kind == 3:
        low_int = rng.randint(1, 100)
        return Int(low_int, low_int + rng.randint(1, 10**6), log=True)
    if kind == 4:
        return rng.choice([Bool(), Permutation(rng.randint(2, 6)), Permutation(["a", 1, None, True, 2.5])])
    if kind == 5 or depth == 0:
        return Choice(rng.sample(["a", "b", "", 0, 1, True, None, 2.5, "long option"], rng.randint(1, 6)))
    return Choice(
        {
            f"option {i}": random_space(rng, depth - 1, names) if rng.random() < 0.6 else None
            for i in range(rng.randint(1, 4))
        }
    )


def random_space(rng: random.Random, depth: int = 2, names: Iterator[str] | None = None) -> Space:
    """A valid space of one to five variables, conditional to ``depth`` levels."""
    names = names or (f"v{i}" for i in range(10**9))
    return Space({next(names): random_dimension(rng, depth, names) for _ in range(rng.randint(1, 5))})


def random_box(rng: random.Random) -> Box:
    low = [rng.uniform(-10, 10) for _ in range(rng.randint(1, 6))]
    return Box(low, [bound + rng.uniform(0.1, 10) for bound in low])


def malformed_spaces(seed: int, n: int) -> Iterator[Case]:
    """``n`` constructions of malformed variables, spaces and boxes, from Python, dictionaries and TOML."""
    rng = random.Random(seed)
    makers = [_bad_bounds, _bad_options, _bad_space, _bad_box, _bad_data, _bad_toml]
    for _ in range(n):
        yield rng.choice(makers)(rng)


def _bad_bounds(rng: random.Random) -> Case:
    cls = rng.choice([Float, Int])
    bad = rng.choice(NOT_NUMBERS + NOT_FINITE)
    equal = rng.randint(-9, 9)
    unordered = equal - rng.randint(0, 9)
    negative = -rng.choice([0, 1, 10**6])
    cases: list[Case] = [
        (f"low: {cls.__name__}, {type(bad).__name__}", lambda: cls(bad, 10)),
        (f"high: {cls.__name__}, {type(bad).__name__}", lambda: cls(0, bad)),
        ("low: not below high", lambda: cls(equal, unordered)),
        ("low: not positive on a log scale", lambda: cls(negative, 10, log=True)),
    ]
    not_flag = rng.choice(NOT_FLAGS)
    cases.append(("log: not a flag", lambda: cls(1, 10, not_flag)))
    if cls is Int:
        real, wide = rng.uniform(-9, 0.5), rng.choice([2**63, 2**64, 10**30])
        cases += [
            ("low: a float", lambda: Int(real, 10)),  # type: ignore[arg-type]
            ("high: a whole float", lambda: Int(0, 10.0)),  # type: ignore[arg-type]
            ("high: beyond 64 bits", lambda: Int(0, wide)),
            ("low: beyond 64 bits", lambda: Int(-wide - 1, 0)),
        ]
    else:
        cases.append(("high: width overflows", lambda: Float(-1.7e308, 1.7e308)))
        cases.append(("high: too great for a log scale", lambda: Float(1, 1.7e308, log=True)))
    return rng.choice(cases)


def _bad_options(rng: random.Random) -> Case:
    good = rng.sample(["a", "b", 0, 1, True, None, 2.5], rng.randint(1, 5))
    position = rng.randint(0, len(good))
    bad, double = rng.choice(NOT_OPTIONS), rng.choice(good)
    not_a_sequence = rng.choice([None, "abc", 5, 2.5, {1, 2}, (i for i in range(3)), object(), b"ab", len, np.eye(2)])
    name, branch = (
        rng.choice(NOT_NAMES),
        rng.choice([0, "a", {}, [], Float(0, 1), {"x": Float(0, 1)}, Space, Box(0, 1, 2)]),
    )
    empty: Any = rng.choice([[], (), {}, np.array([])])
    number = rng.choice([1, 0, -5, True, 2.0, None, 2**40, object(), {}, {1, 2}])
    return rng.choice(
        [
            ("options: one of another type", lambda: Choice([*good[:position], bad, *good[position:]])),
            ("options: equal", lambda: Choice([*good[:position], double, *good[position:]])),
            ("options: not a sequence", lambda: Choice(not_a_sequence)),
            ("options: empty", lambda: Choice(empty)),
            ("options: malformed name", lambda: Choice({"a": None, name: None})),
            ("options: malformed branch", lambda: Choice({"a": None, "b": branch})),
            ("items: malformed number", lambda: Permutation(number)),
            ("items: too few", lambda: Permutation(good[:1])),
            ("items: equal", lambda: Permutation([*good, double])),
            ("items: one of another type", lambda: Permutation([*good, bad])),
        ]
    )


def _bad_space(rng: random.Random) -> Case:
    good = dict(random_space(rng).dimensions)
    not_a_dict = rng.choice([None, [], {}, "x", 5, [("x", Float(0, 1))], Float(0, 1), object(), Box(0, 1, 2)])
    name = rng.choice(NOT_NAMES)
    value = rng.choice([None, 1, (0, 1), [0, 1], "float", Float, Int, Space(good), Box(0, 1, 2), {}, object()])
    not_a_space: Any = rng.choice([None, 1, "x", [], (0, 1), Float(0, 1), Space, object()])
    inner = Space({"x": Float(0, 1), "y": Choice({"deep": Space({"z": Bool()})})})
    clashing = rng.choice(["x", "y", "z"])
    around = {"outer": Choice({"a": inner, "b": None}), clashing: Int(0, 3)}
    if rng.random() < 0.5:
        around = dict(reversed(around.items()))
    return rng.choice(
        [
            ("dimensions: not a dictionary of variables", lambda: Space(not_a_dict)),
            ("dimensions: malformed name", lambda: Space({**good, name: Float(0, 1)})),
            ("dimensions: not a variable", lambda: Space({**good, "w": value})),
            ("dimensions: a branch's name clashes", lambda: Space(around)),
            ("dimensions: two branches clash", lambda: Space({"a": Choice({"o": inner}), "b": Choice({"o": inner})})),
            ("dimensions: a branch clashes with its choice", lambda: Space({clashing: Choice({"o": inner})})),
            ("space: not a space", lambda: as_space(not_a_space)),
        ]
    )  # fmt: skip


def _bad_box(rng: random.Random) -> Case:
    low = [rng.uniform(-9, 9) for _ in range(rng.randint(1, 5))]
    high = [bound + 1 for bound in low]
    i = rng.randrange(len(low))
    bad = rng.choice(NOT_NUMBERS[:18] + NOT_FINITE)
    size = rng.choice([0, -1, 2.0, "2", True, 2**40, [2], object()])
    nested: Any = rng.choice([[low], [[bound] for bound in low], np.eye(3), "abc", None, {1: 2}, np.array(["1"])])
    swapped = [*high[:i], low[i] - rng.choice([0, 1, 1e300]), *high[i + 1 :]]
    return rng.choice(
        [
            ("low: not numbers", lambda: Box([*low[:i], bad, *low[i + 1 :]], high)),
            ("high: not numbers", lambda: Box(low, [*high[:i], bad, *high[i + 1 :]])),
            ("low: not below high", lambda: Box(low, swapped)),
            ("low: not a vector", lambda: Box(nested, high)),
            ("high: not a vector", lambda: Box(low, nested)),
            ("low: of no numbers", lambda: Box([], [])),
            ("high: width overflows", lambda: Box(-1.7e308, 1.7e308, len(low))),
            ("dimension: missing", lambda: Box(-1, 1)),
            ("dimension: malformed", lambda: Box(-1, 1, size)),
            ("dimension: another than the bounds'", lambda: Box(low, high, len(low) + 1)),
            ("low: another length than high", lambda: Box(low, [*high, 9.0])),
        ]
    )


def _bad_data(rng: random.Random) -> Case:
    space = random_space(rng)
    data = space.to_dict()
    name, table = rng.choice(data["variables"])
    what = rng.randrange(8)
    argument = name
    if what == 0:
        table["type"] = rng.choice(["flaot", "Float", None, 1, [], "space"])
    elif what == 1:
        argument = rng.choice(["Low", "hihg", "sigma", "default"])
        table[argument] = 1
    elif what == 2:
        # Without options, branches name them, so that the lack of either alone is no mistake; nor is that of log.
        del table[
            rng.choice([key for key in table if key not in ("log", "branches", "branches" in table and "options")])
        ]
    elif what == 3:
        data["variables"].append([name, {"type": "bool"}])
    elif what == 4:
        argument, data["variables"] = "variables", rng.choice([None, 0, "", [], {}, [name], [[name]], [[1, table]]])
    elif what == 5:
        argument, data["type"] = "type", rng.choice(["spaec", None, 1, "float", []])
    elif what == 6:
        argument, data["version"] = "version", 1
    else:
        not_data = rng.choice([None, [], {}, "space", 1, [data], {"variables": data["variables"]}])
        return "data: not a space's dictionary", lambda: space_from_dict(not_data)
    return f"{argument}: malformed data ({what})", lambda: space_from_dict(data)


def _bad_toml(rng: random.Random) -> Case:
    texts = {
        "path_or_text": ["", "x", "[x", "x = 1 1", "[x]\n[x]", "no/such/file.toml", "a\0b.toml", "# empty", None, 1],
        "x": ["x = 1", '[x]\ntype = "float"', "[x]\nlow = 1", '[x]\ntype = "flot"\nlow = 0\nhigh = 1', "x = []"],
        "low": ['[x]\ntype = "float"\nlow = "0"\nhigh = 1', '[x]\ntype = "int"\nlow = 5\nhigh = 2',
                '[x]\ntype = "float"\nlow = nan\nhigh = 1', '[x]\ntype = "int"\nlow = 1979-05-27\nhigh = 1'],
        "options": ['[x]\ntype = "choice"', '[x]\ntype = "choice"\noptions = []',
                    '[x]\ntype = "choice"\noptions = ["a", "a"]', '[x]\ntype = "choice"\noptions = [[1], [2]]'],
        "branches": ['[x]\ntype = "choice"\noptions = ["a"]\nbranches = 1',
                     '[x]\ntype = "choice"\noptions = ["a"]\n[x.branches.b.y]\ntype = "bool"'],
        "y": ['[x]\ntype = "choice"\n[x.branches.a.y]\ntype = "float"', '[x]\ntype = "choice"\n[x.branches.a]\ny = 1'],
    }  # fmt: skip
    argument = rng.choice(list(texts))
    text: Any = rng.choice(texts[argument])
    return f"{argument}: {text!r}", lambda: Space.from_toml(text)


def malformed_points(seed: int, n: int) -> Iterator[Case]:
    """``n`` calls of ``encode``, ``decode``, ``decode_many`` and ``active_mask`` with what does not belong."""
    rng = random.Random(seed)
    for _ in range(n):
        maker = rng.choice([_bad_point, _bad_array, _bad_vector])
        yield maker(rng)


def _vector(rng: random.Random, dimension: int) -> list[float]:
    return [rng.random() for _ in range(dimension)]


def _outside(rng: random.Random, dimension: Any) -> Any:
    """A value that the variable does not have."""
    foreign: list[Any] = [
        object(),
        b"x",
        1j,
        float("nan"),
        {},
        {1},
        Decimal(1),
        np.array([0.5]),
        [[]],
        len,
        "?",
        10**400,
    ]
    if isinstance(dimension, Float | Int):
        beyond: list[Any] = [
            dimension.low - 1e-3 * abs(dimension.low) - 1,
            dimension.high * 2 + 1 if dimension.high > 0 else 1,
        ]
        return rng.choice([*foreign, *beyond, True, None, str(dimension.low)])
    if isinstance(dimension, Permutation):
        items = list(dimension.items)
        return rng.choice(
            [*foreign, items[:-1], [*items, items[0]], [items[0]] * len(items), "abc", None, 5, np.eye(2)]
        )
    return rng.choice([*foreign, -7, "no such option", 0.125])


def _bad_point(rng: random.Random) -> Case:
    space = random_space(rng)
    x = space.decode(_vector(rng, space.dimension))
    name = rng.choice(list(x))
    kind = rng.randrange(4)
    if kind == 0:
        del x[name]
        return f"{name}: missing", lambda: space.encode(x)
    if kind == 1:
        extra: Any = rng.choice(["w", name + "_", 5, None, ("a",)])
        x[extra] = 1.0
        return "x: unknown name", lambda: space.encode(x)
    if kind == 2 and (inactive := [other for other in space.names if other not in x]):
        name = rng.choice(inactive)
        x[name] = 1
        return f"{name}: inactive", lambda: space.encode(x)
    top = rng.choice(list(space.dimensions))
    x[top] = _outside(rng, space.dimensions[top])
    not_a_point = rng.choice([None, 5, "x", [], list(x), tuple(x.items()), object(), np.zeros(3)])
    if rng.random() < 0.2:
        return "x: not a dictionary", lambda: space.encode(not_a_point)
    return f"{top}: {x[top]!r:.60}" if type(x[top]) is not int else f"{top}: an integer", lambda: space.encode(x)


def _bad_array(rng: random.Random) -> Case:
    box = random_box(rng)
    x = box.decode(_vector(rng, box.dimension))
    i = rng.randrange(box.dimension)
    beyond = x.copy()
    beyond[i] = rng.choice([box.low[i] - 1, box.high[i] + 1, np.nan, np.inf, -np.inf])
    foreign: Any = rng.choice(
        [None, 5, "x", [], {}, [1j] * box.dimension, [*x, 0.0], x[None], ["0"] * box.dimension, [[], 0]]
    )
    return rng.choice(
        [
            (f"x[{i}]: out of bounds", lambda: box.encode(beyond)),
            ("x: not such an array", lambda: box.encode(foreign)),
            ("x: not such an array", lambda: box.encode(x > 0)),
        ]
    )


def _bad_vector(rng: random.Random) -> Case:
    space = rng.choice([random_space, random_box])(rng)
    u = np.array(_vector(rng, space.dimension))
    infinite = u.copy()
    infinite[rng.randrange(len(u))] = rng.choice([np.nan, np.inf, -np.inf])
    foreign: Any = rng.choice(
        [
            None,
            0.5,
            "u",
            [],
            {},
            [*u, 0.5],
            u + 0j,
            u > 0,
            u.astype(str),
            u.astype(object),
            [[0.5], 0.5],
            object(),
            b"0",
        ]
    )
    decode = rng.choice([space.decode, space.active_mask])
    return rng.choice(
        [
            ("u: not finite", lambda: decode(infinite)),
            ("u: not such an array", lambda: decode(foreign)),
            ("u: of two axes", lambda: decode(u[None])),
            ("u: not finite", lambda: space.decode_many(np.stack([u, infinite]))),
            ("u: of one axis", lambda: space.decode_many(u)),
            ("u: not such an array", lambda: space.decode_many(foreign)),
        ]
    )
