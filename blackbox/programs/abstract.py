"""Abstract execution: what a program computes, apart from how it is written.

Source: Chen et al. 2023 (arXiv:2302.06675), section 2.2: statements that do not matter are dropped, errors are found
without running anything, and a hash of the rest is the key of a cache, since most mutations change nothing.

The program is executed on names of values instead of values. A value is an input, a constant, or a function of values,
so that equal ones are one, whatever variables hold them, and

    functions of constants alone are constants, if finite
    the inputs of functions that commute are ordered
    x * 1, x / 1, x - 0, maximum(x, x), minimum(x, x) are x; so is abs, sign or clip of what is one already

which holds for every float, NaN and infinity included; what would only hold up to rounding is not done. The update, the
memory that it is computed from, the memory that this is computed from, and so on, are live; all else is dropped.

Which memory is which does not show in what a program does, and two that always hold the same are one. Both follow from
refining a partition, as for automata: all memory begins in one class, of zeros, and each round tells apart what is
computed from values that have been told apart. With at most 4 names in a program, those of two programs are settled
after 8 rounds.

Cost: O(statements) hashes, 8 times.
"""

from __future__ import annotations

import math
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from blackbox.programs.canonical import Value, ordered, written
from blackbox.programs.functions import FUNCTIONS
from blackbox.programs.language import INPUTS, MEMORY, UPDATE, Program

_ROUNDS = 2 * len(MEMORY)


class Analysis(NamedTuple):
    """What abstract execution finds."""

    program: Program
    """The canonical form, the same for all programs that are found to compute the same."""
    key: str
    """Its digest."""
    depends_on: frozenset[str]
    """Of w, g and lr those that the update depends on, in this step or through memory."""


@lru_cache(maxsize=4096)
def analysis(program: Program) -> Analysis:
    """The canonical form of a program, its digest, and what the update depends on."""
    values, last = _values(program)
    live = _live(values, last)
    labels = _labels(values, last, live)
    program = written(values, last, labels)
    memory = [labels[i] for i in live if values[i] in MEMORY]
    if len(set(memory)) < len(memory):  # what was computed from both may have become simpler
        return analysis(program)
    return Analysis(
        program=program,
        key=blake2b(program.code.encode(), digest_size=16).hexdigest(),
        depends_on=frozenset(str(values[i]) for i in live if values[i] in INPUTS),
    )


def _values(program: Program) -> tuple[list[Value], dict[str, int]]:
    """All values, each after those that it is computed from, and the number of each variable's last one."""
    values: list[Value] = []
    numbers: dict[Value, int] = {}

    def number(value: Value) -> int:
        if value not in numbers:
            numbers[value] = len(values)
            values.append(value)
        return numbers[value]

    last = {name: number(name) for name in (*INPUTS, *MEMORY)}
    for output, name, operands in program.statements:
        inputs = tuple(last[x] if isinstance(x, str) else number(x) for x in operands)
        same = _same(name, inputs, values)
        last[output] = number(_folded(name, inputs, values)) if same is None else same
    return values, last


def _folded(name: str, inputs: tuple[int, ...], values: list[Value]) -> Value:
    """A function of constants as a constant."""
    given = []
    for i in inputs:
        value = values[i]
        if not isinstance(value, float):
            return name, inputs
        given.append(np.float64(value))
    with np.errstate(all="ignore"):
        constant = float(FUNCTIONS[name].apply(np, *given))
    return constant if math.isfinite(constant) else (name, inputs)


def _same(name: str, inputs: tuple[int, ...], values: list[Value]) -> int | None:
    """The input that the function gives unchanged, if it does."""
    given = [values[i] for i in inputs]
    first = given[0]
    match name:
        case "mul" if 1.0 in given:
            return inputs[given.index(1.0) - 1]
        case "div" if given[1] == 1.0:
            return inputs[0]
        case "sub" if given[1] == 0.0:
            return inputs[0]
        case "maximum" | "minimum" if inputs[0] == inputs[1]:
            return inputs[0]
        case "abs" if isinstance(first, tuple) and first[0] in ("abs", "square", "exp", "norm"):
            return inputs[0]
        case "sign" | "clip" if isinstance(first, tuple) and first[0] == name and first[1][1:] == inputs[1:]:
            return inputs[0]
    return None


def _live(values: list[Value], last: dict[str, int]) -> list[int]:
    """The numbers of the values that the update needs, in this step or a later one, in order."""
    live: set[int] = set()
    due = [last[UPDATE]]
    while due:
        i = due.pop()
        if i not in live:
            live.add(i)
            value = values[i]
            if isinstance(value, tuple):
                due += value[1]
            elif value in MEMORY:
                due.append(last[value])
    return sorted(live)


def _labels(values: list[Value], last: dict[str, int], live: list[int]) -> dict[int, str]:
    """For each live value a label, the same for values that are always the same, in this program and others."""
    memory = {name: "" for name in MEMORY if last.get(name) in live}
    labels: dict[int, str] = {}
    for _ in range(_ROUNDS):
        labels = {}
        for i in live:
            value = values[i]
            if isinstance(value, tuple):
                words = value[0], *(labels[j] for j in ordered(value, values, labels))
            else:
                words = ("memory", memory[value]) if value in MEMORY else ("", repr(value))
            labels[i] = blake2b(" ".join(words).encode(), digest_size=12).hexdigest()
        memory = {name: labels[last[name]] for name in memory}
    return labels
