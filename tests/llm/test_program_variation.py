"""Programs without a model: when two are the same, how children are made, how constants are tuned, what is plain."""

from __future__ import annotations

import ast
import itertools
import math

import numpy as np
import pytest

import blackbox as bb
from blackbox.draws import Draws
from blackbox.errors import SettingError
from blackbox.llm.program import Primitives, digest, impure, regions, signature, similarity, tune_constants, vary
from blackbox.llm.program.constants import constants, with_constants
from blackbox.llm.program.sites import size, unbound
from blackbox.llm.program.variation import OPERATORS
from blackbox.problems.bin_packing import BEST_FIT

TEMPLATE = "import numpy as np\n\n\ndef f(x, y):\n    # EVOLVE-BLOCK-START\n{}\n    # EVOLVE-BLOCK-END\n"


def program(*lines: str) -> str:
    return TEMPLATE.format("\n".join(f"    {line}" for line in lines))


LONGER = program(
    "a = x * 2.5", "b = np.where(a > y, a, 0.5 - y)", "if x > 1.0:", "    b = b + 1.0", "c = -b", "return c / 3.0"
)


# ---- identity


def test_digests_forget_names_of_locals_layout_and_docstrings() -> None:
    same = [
        program("a = x * 2.0", "return a - y"),
        program("value = x * 2.0  # twice", "", "return (value - y)"),
        program("a = x*2.0", "return a-y")
        .replace("(x, y)", "(item, bins)")
        .replace("x*", "item*")
        .replace("-y", "-bins"),
        program('"""What it does."""', "a = x * 2.0", "return a - y"),
    ]
    assert len({digest(source) for source in same}) == 1
    different = [
        same[0],
        program("a = x * 2.5", "return a - y"),
        program("a = x * 2", "return a - y"),
        program("a = y * 2.0", "return a - x"),
        program("a = x * 2.0", "return y - a"),
        program("a = x * 2.0", "return a - z"),
        program("a = x * 2.0", "return a - a"),
        "no python (",
        "no python ((",
    ]
    assert len({digest(source) for source in different}) == len(different)
    assert digest(different[0], constants=False) == digest(different[1], constants=False)
    assert digest(different[0], constants=False) != digest(different[3], constants=False)


def test_renaming_never_makes_different_programs_the_same() -> None:
    """All programs of one form over three names are told apart as brute force over renamings of locals does."""
    forms = {}
    for names in itertools.product("abz", repeat=4):
        source = program(f"{names[0]} = x", f"{names[1]} = y", f"return {names[2]} - {names[3]}")
        numbers: dict[str, int] = {}  # names that are assigned, by their order; others are global
        for name in names[:2]:
            numbers.setdefault(name, len(numbers))
        forms[source] = tuple(numbers.get(name, name) for name in names)
    for (one, form), (other, its) in itertools.combinations(forms.items(), 2):
        assert (digest(one) == digest(other)) == (form == its)


def test_similarity_estimates_shared_shingles() -> None:
    base = [f"v{i} = x * {i}.5 + y" for i in range(12)]
    sources = [program(*base[:n], "return v0") for n in (12, 11, 6)]
    values = [similarity(signature(sources[0]), signature(source)) for source in sources]
    assert values[0] == 1.0
    assert values[0] > values[1] > values[2] > 0.2
    assert similarity(signature(sources[0]), signature(program("return np.exp(-x) if y else None"))) < 0.2


# ---- operators


def test_children_run_have_no_unbound_names_and_change_nothing_outside() -> None:
    primitives, pool = Primitives(operators=("+", "-", "*", "/", "**")), [program("return x - y"), LONGER]
    made = dict.fromkeys(OPERATORS, 0)
    ran = total = 0
    for i in range(400):
        draws = Draws(bb.key(0), 0, i)
        operator = draws.choose(tuple(OPERATORS))
        parent, donor = draws.choose(pool), draws.choose(pool)
        child = vary(parent, operator, primitives, draws, donor)
        if not child:
            continue
        made[operator] += 1
        total += 1
        assert not impure(child)
        assert not unbound(child)
        (region,), (old,) = regions(child), regions(parent)
        assert child.split("\n")[: region.first] == parent.split("\n")[: old.first]
        assert child.split("\n")[region.last :] == parent.split("\n")[old.last :]
        space: dict[str, object] = {}
        exec(child, space)
        try:
            with np.errstate(all="ignore"):
                space["f"](2.0, np.array([1.0, 2.0, 3.0]))  # type: ignore[operator]
            ran += 1
        except (ValueError, TypeError, ZeroDivisionError, OverflowError, UnboundLocalError):
            pass
        if size(child) < 60:
            pool.append(child)
    assert all(made.values()), made
    assert ran > 0.93 * total


def test_children_are_functions_of_the_draws() -> None:
    for operator in OPERATORS:
        children = {vary(LONGER, operator, Primitives(), Draws(bb.key(3), 1, 2), LONGER) for _ in range(3)}
        assert len(children) == 1
    assert len({vary(LONGER, "subtree", Primitives(), Draws(bb.key(3), 1, i)) for i in range(20)}) > 10


def test_random_expressions_are_of_their_kind_and_depth() -> None:
    primitives = Primitives(functions={"np.where": "bnn>n", "np.isfinite": "n>b"}, depth=4)
    variables = {"x": "n", "mask": "b"}

    def depth(node: ast.AST) -> int:
        inner = [depth(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return 1 + max(inner, default=0)

    for i, kind in itertools.product(range(150), "nb"):
        made = primitives.expression(kind, variables, Draws(bb.key(1), 0, i))
        assert primitives.kind(made, variables) == kind
        assert depth(made) <= 6  # a comparison of two terminals counts as one
    with pytest.raises(SettingError, match="functions must have kinds"):
        Primitives(functions={"np.abs": "float"})
    with pytest.raises(SettingError, match=r"operators must be some of \+"):
        Primitives(operators=("^",))


def test_regions_may_hold_functions_or_nothing_that_can_be_changed() -> None:
    whole = "import numpy as np\n# EVOLVE-BLOCK-START\ndef f(x):\n    y = x + 1.0\n    return y\n# EVOLVE-BLOCK-END\n"
    children = {vary(whole, "subtree", Primitives(), Draws(bb.key(0), 0, i)) for i in range(10)} - {""}
    assert len(children) > 5
    assert all("def f(x):" in child for child in children)
    for nothing in ("# EVOLVE-BLOCK-START\nA = 3\n# EVOLVE-BLOCK-END", program("pass"), program("return [x]")):
        for operator in OPERATORS:
            child = vary(nothing, operator, Primitives(), Draws(bb.key(0), 0, 0), LONGER)
            assert child == "" or ast.parse(child)


# ---- constants


def test_constants_are_the_decimal_literals_of_the_regions() -> None:
    source = program("a = x * 2.5 ** -1.5", "return a[0] + 1 + -0.25").replace("\n\n\ndef", "\nLIMIT = 9.5\n\n\ndef")
    assert sorted(constants(source)) == [0.25, 1.5, 2.5]
    assert constants(with_constants(source, constants(source))) == constants(source)
    changed = with_constants(source, [-value for value in constants(source)])
    assert "LIMIT = 9.5" in changed
    assert "(-2.5) **" in changed
    assert constants(with_constants(source, [1.23456, 2.0, 3.0]))[0] == 1.235


def test_tuning_finds_the_constants_of_a_known_function() -> None:
    source = program("return 1.0 * x + 2.0")

    def evaluate(sources: list[str]) -> list[tuple[float, ...]]:
        rows = np.array([constants(one) for one in sources])
        calls.append(len(sources))
        return [tuple(row) for row in np.abs(rows - [0.3, 5.0])]

    calls: list[int] = []
    tuned = tune_constants(evaluate, source, (0.7, 3.0), bb.key(1), evaluations=207)  # type: ignore[arg-type]
    assert len(tuned.tried) == sum(calls) == 200
    assert constants(tuned.source) == pytest.approx((0.3, 5.0), abs=0.1)
    assert math.fsum(tuned.scores) < 0.15
    assert tuned == tune_constants(evaluate, source, (0.7, 3.0), bb.key(1), evaluations=207)  # type: ignore[arg-type]


def test_tuning_keeps_what_it_cannot_improve() -> None:
    source = program("return 1.0 * x")
    failed = tune_constants(lambda sources: [(math.nan,)] * len(sources), source, (1.0,), bb.key(0))
    assert failed[:2] == (source, (1.0,))
    assert len(failed.tried) == 48
    assert tune_constants(lambda sources: [], program("return x"), (1.0,), bb.key(0)) == (program("return x"), (), ())


# ---- plain programs


@pytest.mark.parametrize(
    "lines",
    [
        ["import os", "return x"],
        ["from numpy import linalg", "return x"],
        ["return x.__class__"],
        ["return np.load(x)"],
        ["return np.lib.format"],
        ["return np.ndarray.tofile(y, x)"],
        ["return y.tofile(x)"],
        ["return (lambda: x)()"],
        ["return [v for v in y]"],
        ["for i in y:", "    pass", "return x"],
        ["while True:", "    pass"],
        ["return open(x)"],
        ["return eval(x)"],
        ["return f(x, y)"],
        ["return __builtins__"],
        ["return getattr(x, y)"],
        ["return f'{x}'"],
        ["global z", "return x"],
        ["try:", "    return x", "except Exception:", "    return y"],
        ["return np.add(x, y, out=y)"],
        ["np = x", "return np.tofile"],
        ["abs = x", "return abs(y)"],
        ["math = x", "return x"],
        ["del x", "return y"],
        ["return (yield x)"],
        ["np.abs = x", "return x"],
        ["return x if x else b'1'"],
        ["return np.ndarray((3,))"],
        ["return np.ndarray"],
        ["z = np.ndarray", "return z"],
        ["z: np.ndarray((3,)) = x", "return z"],
        ["return np.empty(3)"],
        ["return np.empty_like(x)"],
        ["return float('1')"],
        ["return '%r' % (x,)"],
        ["return np.add(x, y, y)"],
        ["return np.exp(x, y)"],
        ["return y.clip(0, 1, y)"],
        ["return y.sum(0, None, y)"],
        ["return np.add(*x)"],
        ["z = open", "return x"],
        ["def np(z):", "    return z", "return x"],
        ["def g(z=[0]):", "    return z", "return x"],
    ],
)  # fmt: skip
def test_what_is_not_listed_is_not_plain(lines: list[str]) -> None:
    assert impure(program(*lines))


def test_programs_of_numbers_and_arrays_are_plain() -> None:
    assert not impure(BEST_FIT)
    assert not impure(LONGER)
    rich = program(
        "import math", "a: float = np.max(y) - x", "b = y[1:] / max(a, 1e-9)", "b[0] += math.log(2)",
        "if a > 1 and not x < 2:", "    b = np.diff(y, prepend=0.0)", "return np.where((y > a) & (y < 9), b, y.mean())",
    )  # fmt: skip
    assert not impure(rich)
    assert impure("def f(").startswith("it is no Python")
    assert not impure("import numpy as np\nC = -1.5\ndef f(x: np.ndarray, k=2) -> np.ndarray:\n    return C * x")
    assert "module's variables" in impure("import numpy as np\nkept = np.arange(3)\ndef f(x):\n    return x")
    assert "outside of functions" in impure("if 1:\n    pass\ndef f(x):\n    return x")
    assert impure("@np.vectorize\ndef f(x):\n    return x")
