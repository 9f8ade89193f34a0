"""What the offline operators compose programs of: typed functions, operators, constants; and random expressions.

Two kinds are enough for programs over numbers and arrays, as NumPy broadcasts: ``n``, a number or an array of them, and
``b``, a truth value or an array of them. Source of typed random expressions: Montana 1995, "Strongly typed genetic
programming".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blackbox.draws import Draws
from blackbox.errors import SettingError
from blackbox.strategy import require_integer, require_number

NUMPY = {
    "np.abs": "n>n", "np.sqrt": "n>n", "np.exp": "n>n", "np.log": "n>n", "np.square": "n>n", "np.tanh": "n>n",
    "np.maximum": "nn>n", "np.minimum": "nn>n", "np.where": "bnn>n", "np.max": "n>n", "np.min": "n>n",
}  # fmt: skip

ARITHMETIC: dict[str, type[ast.operator]] = {
    "+": ast.Add, "-": ast.Sub, "*": ast.Mult, "/": ast.Div, "**": ast.Pow, "%": ast.Mod, "//": ast.FloorDiv,
}  # fmt: skip
COMPARISONS: dict[str, type[ast.cmpop]] = {"<": ast.Lt, "<=": ast.LtE, ">": ast.Gt, ">=": ast.GtE}

_SIGNATURE = re.compile(r"[nb]+>[nb]")


@dataclass(frozen=True, kw_only=True)
class Primitives:
    """What the offline operators may use.

    Args:
        functions: from the name of a function to its kinds, ``"np.where": "bnn>n"``; by default eleven of NumPy's.
        operators: of arithmetic, some of ``+ - * / ** % //``.
        depth: of a random expression, >= 1.
        low, high: constants are log-uniform between them, in units of the problem.

    Raises:
        SettingError: an argument outside its range, or kinds that cannot be read.
    """

    functions: Mapping[str, str] = field(default_factory=lambda: dict(NUMPY))
    operators: tuple[str, ...] = ("+", "-", "*", "/")
    depth: int = 3
    low: float = 0.01
    high: float = 100.0

    def __post_init__(self) -> None:
        for name, kinds in self.functions.items():
            if not _SIGNATURE.fullmatch(kinds):
                raise SettingError(f"functions must have kinds such as 'bnn>n', with n and b; got {name}: {kinds!r}")
        if not self.operators or not set(self.operators) <= ARITHMETIC.keys():
            raise SettingError(f"operators must be some of {' '.join(ARITHMETIC)}; got {self.operators!r}")
        require_integer("depth", self.depth, low=1, optional=False)
        require_number("low", self.low, above=0)
        require_number("high", self.high, above=self.low)

    def kind(self, node: ast.AST, variables: Mapping[str, str]) -> str:
        """``n``, ``b``, or nothing if it is unknown."""
        if isinstance(node, ast.Constant):
            return "b" if isinstance(node.value, bool) else "n" if isinstance(node.value, int | float) else ""
        if isinstance(node, ast.Name):
            return variables.get(node.id, "")
        if isinstance(node, ast.Compare | ast.BoolOp):
            return "b"
        if isinstance(node, ast.UnaryOp):
            return "b" if isinstance(node.op, ast.Not) else self.kind(node.operand, variables)
        if isinstance(node, ast.BinOp):
            sides = self.kind(node.left, variables), self.kind(node.right, variables)
            logical = isinstance(node.op, ast.BitAnd | ast.BitOr | ast.BitXor)
            return "" if "" in sides else "b" if logical and sides == ("b", "b") else "n"
        if isinstance(node, ast.Call):
            return self.functions.get(ast.unparse(node.func), "> ")[-1].strip()
        if isinstance(node, ast.IfExp):
            return self.kind(node.body, variables)
        return ""

    def constant(self, draws: Draws) -> ast.expr:
        """A small whole number, a share, or a number of any size."""
        choice = draws.uniform()
        if choice < 0.4:
            return ast.Constant(float(1 + draws.integer(5)))
        if choice < 0.6:
            return ast.Constant(rounded(draws.uniform()))
        return ast.Constant(rounded(float(self.low * (self.high / self.low) ** draws.uniform())))

    def terminal(self, kind: str, variables: Mapping[str, str], draws: Draws) -> ast.expr:
        """A variable or a constant; a comparison of two, where truth is wanted."""
        names = [name for name, of in variables.items() if of == kind]
        if names and draws.uniform() < (0.65 if kind == "n" else 0.5):
            return ast.Name(draws.choose(names), ast.Load())
        if kind == "n":
            return self.constant(draws)
        left, right = self.terminal("n", variables, draws), self.terminal("n", variables, draws)
        return ast.Compare(left, [COMPARISONS[draws.choose(tuple(COMPARISONS))]()], [right])

    def expression(self, kind: str, variables: Mapping[str, str], draws: Draws, depth: int | None = None) -> ast.expr:
        """A random expression of a kind, at most ``depth`` deep."""
        depth = self.depth if depth is None else depth
        if depth <= 1 or draws.uniform() < 0.15:
            return self.terminal(kind, variables, draws)

        def inner(kind: str) -> ast.expr:
            return self.expression(kind, variables, draws, depth - 1)

        names = [name for name, kinds in self.functions.items() if kinds[-1] == kind]
        if kind == "b" and (not names or draws.uniform() < 0.9):
            if draws.uniform() < 0.85:
                return ast.Compare(inner("n"), [COMPARISONS[draws.choose(tuple(COMPARISONS))]()], [inner("n")])
            return ast.BinOp(inner("b"), draws.choose((ast.BitAnd, ast.BitOr))(), inner("b"))
        name = self.function(names, draws) if kind == "n" else draws.choose(names)
        if not name:
            return ast.BinOp(inner("n"), ARITHMETIC[draws.choose(self.operators)](), inner("n"))
        return call(name, [inner(of) for of in self.functions[name][:-2]])

    def function(self, names: Sequence[str], draws: Draws) -> str:
        """One of some functions, or "" for an operator.

        Operators, functions of numbers alone and those that decide by a truth value are three equally likely groups:
        decisions are what programs gain most by.
        """
        numbers = [name for name in names if "b" not in self.functions[name][:-2]]
        decisions = [name for name in names if "b" in self.functions[name][:-2]]
        group = draws.choose([group for group in ([""], numbers, decisions) if group])
        return draws.choose(group)


def call(name: str, arguments: list[Any]) -> ast.expr:
    """``name(*arguments)`` as a tree; the name may have dots."""
    return ast.Call(ast.parse(name, mode="eval").body, arguments, [])


def rounded(number: float) -> float:
    """``number`` with four significant digits, as people write constants."""
    return float(f"{number:.4g}")
