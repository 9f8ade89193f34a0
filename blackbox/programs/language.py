"""Programs: optimizers as straight-line code over typed variables, read and printed as Python.

Source: Chen et al. 2023, "Symbolic discovery of optimization algorithms" (arXiv:2302.06675), section 2.1. A program is
a list of statements ``output = function(inputs)`` that is run once for each step of training:

    w, g, lr     weights, gradient and learning rate of this step
    m, v, b, c   memory: arrays that keep their value from one step to the next, zero before the first
    update       what is taken from the weights: w <- w - update
    x1, x2, ...  any other name is of this step alone

An input is a variable that has a value or a constant. Variables may be assigned again, w, g and lr too, for the rest of
the step. At the end ``update`` and memory must be arrays of the weights' shape. Which type a variable has follows from
the statements before (:mod:`blackbox.programs.functions`), so a program that exists is well typed.

Here m, v, b and c are the paper's variables v1, v2, ..., and which of them a program has shows in its text.
"""

from __future__ import annotations

import ast
import math
import textwrap
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from blackbox.errors import SettingError
from blackbox.programs.functions import FUNCTIONS, Type, result_type

INPUTS: dict[str, Type] = {"w": "array", "g": "array", "lr": "scalar"}
MEMORY = ("m", "v", "b", "c")
UPDATE = "update"

Operand = str | float
"""A variable's name, or a constant."""


class Statement(NamedTuple):
    """``output = function(inputs)``."""

    output: str
    function: str
    inputs: tuple[Operand, ...]

    def __str__(self) -> str:
        words = [x if isinstance(x, str) else repr(x) for x in self.inputs]
        infix = FUNCTIONS[self.function].infix
        made = f" {infix} ".join(words) if infix else f"{self.function}({', '.join(words)})"
        return f"{self.output} = {made}"


@dataclass(frozen=True)
class Program:
    """An optimizer; ``str`` gives it as Python code.

    Args:
        statements: in the order of execution.

    Raises:
        SettingError: an unknown function, a variable without a value, an input of the wrong type, or no array as update
            or memory in the end.
    """

    statements: tuple[Statement, ...]

    def __post_init__(self) -> None:
        last = types_before(self.statements)[-1]
        for name in (UPDATE, *MEMORY):
            if last.get(name) != "array":
                found = "has no value" if name not in last else "is a scalar"
                raise SettingError(f"program: {name} must be an array after the last statement, and it {found}")

    @cached_property
    def memory(self) -> tuple[str, ...]:
        """The names of the memory that it has, in the order of m, v, b, c."""
        named = {name for output, _, inputs in self.statements for name in (output, *inputs)}
        return tuple(name for name in MEMORY if name in named)

    @property
    def code(self) -> str:
        """The statements, one a line."""
        return "\n".join(map(str, self.statements))

    def __str__(self) -> str:
        head = f"def train({', '.join(['w', 'g', *self.memory, 'lr'])}):"
        return f"{head}\n{textwrap.indent(self.code, '    ')}\n    return {', '.join([UPDATE, *self.memory])}"


def types_before(statements: tuple[Statement, ...]) -> list[dict[str, Type]]:
    """The types of the variables that have a value before each statement, and after the last.

    Raises:
        SettingError: see :class:`Program`.
    """
    known: dict[str, Type] = {**INPUTS, **dict.fromkeys(MEMORY, "array")}
    found = [known]
    for number, statement in enumerate(statements, 1):
        place = f"program, statement {number}, {statement.function}"
        function = FUNCTIONS.get(statement.function)
        if function is None:
            raise SettingError(f"{place}: functions are {', '.join(FUNCTIONS)}")
        if len(statement.inputs) != len(function.slots):
            raise SettingError(f"{place}: takes {len(function.slots)} inputs, got {len(statement.inputs)}")
        given: list[Type] = []
        for x in statement.inputs:
            if isinstance(x, str) and x not in known:
                raise SettingError(f"{place}: {x} has no value yet; these have: {', '.join(known)}")
            if not isinstance(x, str) and not math.isfinite(x):
                raise SettingError(f"{place}: constants must be finite, got {x!r}")
            given.append(known[x] if isinstance(x, str) else "scalar")
        made = result_type(function, tuple(given))
        if made is None:
            raise SettingError(f"{place}: takes ({', '.join(function.slots)}), got ({', '.join(given)})")
        known = {**known, statement.output: made}
        found.append(known)
    return found


_OPERATORS: dict[type, str] = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}


def parse(text: str) -> Program:
    """The program that a text says: lines such as ``m = interp(g, m, 0.9)`` or ``update = m * lr``, one function each.

    They may stand in a function, as ``str(program)`` has them; its arguments and what it returns are not read.

    Raises:
        SettingError: the text is no such program.
    """
    try:
        lines = ast.parse(textwrap.dedent(text).strip()).body
    except SyntaxError as error:
        raise SettingError(f"program: {error}") from error
    if len(lines) == 1 and isinstance(lines[0], ast.FunctionDef):
        lines = [line for line in lines[0].body if not isinstance(line, ast.Return)]
    return Program(tuple(map(_statement, lines)))


def _statement(line: ast.stmt) -> Statement:
    match line:
        case ast.Assign(
            targets=[ast.Name(id=output)], value=ast.Call(func=ast.Name(id=name), args=inputs, keywords=[])
        ):
            return Statement(output, name, tuple(map(_operand, inputs)))
        case ast.Assign(targets=[ast.Name(id=output)], value=ast.BinOp(left=left, op=sign, right=right)):
            if type(sign) in _OPERATORS:
                return Statement(output, _OPERATORS[type(sign)], (_operand(left), _operand(right)))
    raise SettingError(f"program: a statement is `name = function(inputs)` or `name = a + b`, got {ast.unparse(line)}")


def _operand(node: ast.expr) -> Operand:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -float(number)
    raise SettingError(f"program: an input is a variable or a number, got {ast.unparse(node)}")
