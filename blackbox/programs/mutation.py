"""Mutations of programs: a statement is inserted, deleted or modified, and what comes out is a program.

Source: Chen et al. 2023 (arXiv:2302.06675), section 2.2 and appendix, each edit with probability 1/3:

    insert   a random function of random inputs at a random place
    delete   a random statement
    modify   of a random statement one input, or its function for another with as many inputs

A random input is a variable that has a value at that place, or a constant drawn from N(0, 1); a constant that is
modified is multiplied by 2^a, a ~ N(0, 1). An edit that leaves no well typed program is drawn again.

The paper does not say how outputs and constants are chosen: here an output is a new variable, any that exists, or one
of the inputs, with equal probability; an input is a constant once in four times, three in four where only a scalar
fits; and of modified constants one in four becomes a random input.
"""

from __future__ import annotations

from blackbox.draws import Draws
from blackbox.errors import SettingError
from blackbox.programs.functions import FUNCTIONS, Slot, Type
from blackbox.programs.language import INPUTS, MEMORY, UPDATE, Operand, Program, Statement, types_before

_TRIES = 1000

Statements = tuple[Statement, ...]


def mutate(program: Program, draws: Draws, *, longest: int = 24, memory: int = 2) -> Program:
    """A program that differs in one statement; in an extreme case, where no edit out of many fits, the program itself.

    Args:
        program: the parent.
        draws: where chance comes from; it goes on.
        longest: statements that a program may have.
        memory: how many of m, v, b and c may be brought in.
    """
    for _ in range(_TRIES):
        edit = draws.choose((_inserted, _deleted, _modified))
        statements = edit(program.statements, draws, MEMORY[:memory])
        if statements == program.statements or len(statements) > max(longest, len(program.statements)):
            continue
        try:
            return Program(statements)
        except SettingError:
            continue
    return program


def _inserted(statements: Statements, draws: Draws, memory: tuple[str, ...]) -> Statements:
    place = draws.integer(len(statements) + 1)
    known = _known(statements, place, memory)
    function = FUNCTIONS[draws.choose(tuple(FUNCTIONS))]
    inputs = tuple(_input(slot, known, draws) for slot in function.slots)
    taken = {output for output, _, _ in statements}
    new = next(name for i in range(1, len(taken) + 2) if (name := f"x{i}") not in taken)
    output = draws.choose((new, draws.choose((*known, UPDATE)), _replaced(inputs, draws) or new))
    return (*statements[:place], Statement(output, function.name, inputs), *statements[place:])


def _replaced(inputs: tuple[Operand, ...], draws: Draws) -> str | None:
    """One of the variables among the inputs."""
    names = [x for x in inputs if isinstance(x, str)]
    return draws.choose(names) if names else None


def _deleted(statements: Statements, draws: Draws, memory: tuple[str, ...]) -> Statements:
    place = draws.integer(len(statements))
    return statements[:place] + statements[place + 1 :]


def _modified(statements: Statements, draws: Draws, memory: tuple[str, ...]) -> Statements:
    place = draws.integer(len(statements))
    output, name, inputs = statements[place]
    part = draws.integer(len(inputs) + 1)
    if part == len(inputs):
        name = draws.choose([other for other, f in FUNCTIONS.items() if len(f.slots) == len(inputs)])
    else:
        old = inputs[part]
        if isinstance(old, float) and draws.uniform() < 0.75:
            new: Operand = old * 2 ** draws.normal()
        else:
            new = _input(FUNCTIONS[name].slots[part], _known(statements, place, memory), draws)
        inputs = (*inputs[:part], new, *inputs[part + 1 :])
    return (*statements[:place], Statement(output, name, inputs), *statements[place + 1 :])


def _known(statements: Statements, place: int, memory: tuple[str, ...]) -> dict[str, Type]:
    """The variables that may be read before the statement at that place: memory, if allowed or in use, and others."""
    known = types_before(statements[:place])[-1]
    used = {name for output, _, inputs in statements for name in (output, *inputs)}
    return {name: kind for name, kind in known.items() if name not in MEMORY or name in memory or name in used}


def _input(slot: Slot, known: dict[str, Type], draws: Draws) -> Operand:
    share = {"scalar": 0.75, "any": 0.25, "array": 0.0}[slot]
    if draws.uniform() < share:
        return draws.normal()
    return draws.choose([name for name, kind in known.items() if slot in ("any", kind)] or list(INPUTS))
