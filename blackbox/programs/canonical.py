"""Values written as statements again: the canonical form of a program, from its values and their labels.

Statements come in the order in which the update needs them, then what memory needs. Memory is named in the order in
which it is met. A value is computed into the variable that keeps it, unless the former value of that is still needed;
then it is copied at the end, as ``m = x1 * 1.0``.
"""

from __future__ import annotations

from blackbox.programs.functions import FUNCTIONS
from blackbox.programs.language import MEMORY, UPDATE, Program, Statement

Applied = tuple[str, tuple[int, ...]]
"""A function of earlier values, by their numbers."""

Value = Applied | str | float
"""That, an input or memory of the step before, or a constant."""


def ordered(value: Applied, values: list[Value], labels: dict[int, str]) -> list[int]:
    """The inputs of a function, in the order of their labels if it commutes, constants last."""
    name, inputs = value
    if not FUNCTIONS[name].commutative:
        return list(inputs)
    return sorted(inputs, key=lambda i: (isinstance(values[i], float), labels[i]))


def written(values: list[Value], last: dict[str, int], labels: dict[int, str]) -> Program:
    """The canonical form.

    Args:
        values: each after those that it is computed from.
        last: the number of each variable's value at the end of the step.
        labels: of the live values; those with equal labels are one.
    """
    lines, memory = _in_order(values, last, labels)
    one = {label: i for i, label in reversed(labels.items())}
    leaves = {i: str(values[i]) for i in labels if isinstance(values[i], str)}
    leaves |= {one[labels[i]]: name for i, name in zip(memory, MEMORY, strict=False)}
    ends = {name: one[labels[last[str(values[i])]]] for i, name in zip(memory, MEMORY, strict=False)}
    ends = {name: i for name, i in ends.items() if leaves.get(i) != name}  # what is never assigned stays zero
    ends[UPDATE] = one[labels[last[UPDATE]]]

    # Lines by position, with where each value that must be kept is computed; an input that is kept is copied.
    code: list[tuple[str, list[int | float]]] = []
    place: dict[int, int] = {}
    for i, value in lines:
        place[one[labels[i]]] = len(code)
        inputs = [one[labels[j]] for j in ordered(value, values, labels)]
        code.append((value[0], [x if isinstance(x := values[j], float) else j for j in inputs]))
    kept: dict[str, int] = {}
    for name, i in ends.items():
        kept[name] = place.get(i, len(code))
        if i not in place:
            code.append(("mul", [i, 1.0]))

    read: dict[str, int] = {}  # where the former value of a memory is read last
    for position, (_, used) in enumerate(code):
        read |= {leaves[j]: position for j in used if isinstance(j, int) and j in leaves}
    names: dict[int, str] = {}
    for name, position in kept.items():
        if position not in names and position >= read.get(name, 0):
            names[position] = name
    for position in range(len(code)):
        names.setdefault(position, f"x{1 + sum(name.startswith('x') for name in names.values())}")

    def operand(i: int | float) -> str | float:
        return i if isinstance(i, float) else leaves[i] if i in leaves else names[place[i]]

    statements = [Statement(names[n], name, tuple(map(operand, inputs))) for n, (name, inputs) in enumerate(code)]
    copies = [Statement(name, "mul", (names[n], 1.0)) for name, n in kept.items() if names[n] != name]
    return Program((*statements, *copies))


def _in_order(
    values: list[Value], last: dict[str, int], labels: dict[int, str]
) -> tuple[list[tuple[int, Applied]], list[int]]:
    """Of each label one value that is computed, after its inputs, and one that is memory, both as they are met."""
    lines: list[tuple[int, Applied]] = []
    memory: list[int] = []
    met: set[str] = set()

    def visit(i: int) -> None:
        if labels[i] in met:
            return
        met.add(labels[i])
        value = values[i]
        if isinstance(value, tuple):
            for j in ordered(value, values, labels):
                visit(j)
            lines.append((i, value))
        elif value in MEMORY:
            memory.append(i)

    visit(last[UPDATE])
    for i in memory:  # grows while what it needs is visited
        visit(last[str(values[i])])
    return lines, memory
