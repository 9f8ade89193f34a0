"""Mutations give programs, and abstract execution keeps what they compute."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.programs import ADAMW, GRADIENT, LION, Draws, Program, analysis, mutate, parse, start
from blackbox.programs import step as take_step

RNG = np.random.default_rng(0)
W, GRADIENTS = RNG.normal(size=(2, 5)), RNG.normal(size=(5, 2, 5))


def walks(seeds: int, mutations: int) -> list[Program]:
    found = []
    for seed in range(seeds):
        program = (ADAMW, LION, GRADIENT)[seed % 3]
        for i in range(mutations):
            program = mutate(program, Draws(bb.key(seed), i), longest=20, memory=1 + seed % 4)
            found.append(program)
    return found


MUTATIONS = 60
PROGRAMS = walks(20, MUTATIONS)


def updates(program: Program) -> np.ndarray:
    w, memory, found = W, start(program, W), []
    for g in GRADIENTS:
        update, memory = take_step(program, w, g, memory, 0.01)
        found.append(update)
        w = w - 0.01 * g  # the same for all: steps in wrong directions would amplify rounding
    return np.stack(found)


def test_mutations_are_programs_of_bounded_length_and_memory() -> None:
    # That a program exists says that it is well typed.
    assert all(len(program.statements) <= 20 for program in PROGRAMS)
    child = mutate(GRADIENT, Draws(bb.key(1)), longest=1, memory=0)
    assert len(child.statements) == 1 and child.memory == () and child != GRADIENT
    assert {memory for program in PROGRAMS for memory in program.memory} == {"m", "v", "b", "c"}


def test_a_mutation_changes_one_statement() -> None:
    kinds = set()
    for i, (program, child) in enumerate(itertools.pairwise(PROGRAMS)):
        if i % MUTATIONS == MUTATIONS - 1:  # the end of a walk
            continue
        a, b = program.statements, child.statements
        assert a != b
        kinds.add(len(b) - len(a))
        shorter, longer = sorted((a, b), key=len)
        if len(a) == len(b):
            assert sum(x != y for x, y in zip(a, b, strict=True)) == 1
        else:
            assert any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
    assert kinds == {-1, 0, 1}


def test_the_same_draws_make_the_same_mutation() -> None:
    assert walks(3, 20) == walks(3, 20)
    assert len({mutate(ADAMW, Draws(bb.key(0), 0, member)) for member in range(40)}) > 30


def test_the_canonical_form_computes_the_same() -> None:
    shorter = 0
    for program in PROGRAMS:
        form = analysis(program).program
        assert_allclose(updates(form), updates(program), rtol=1e-9, atol=1e-12, err_msg=f"{program}\n{form}")
        shorter += len(form.statements) < len(program.statements)
    assert shorter > len(PROGRAMS) / 2


def test_the_canonical_form_is_its_own() -> None:
    for program in PROGRAMS:
        form, key, depends_on = analysis(program)
        assert analysis(form) == (form, key, depends_on)


def test_programs_of_one_key_have_one_form_and_others_another() -> None:
    forms: dict[str, Program] = {}
    for program in PROGRAMS:
        form, key, _ = analysis(program)
        assert forms.setdefault(key, form) == form
    assert len(forms) == len(set(forms.values())) > 200


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("update = g * lr", "update = lr * g"),
        ("update = g * lr", "x1 = exp(w)\nm = interp(x1, m, 0.9)\nv = m * 2.0\nupdate = lr * g"),
        ("update = g * lr", "x1 = 4.0\nupdate = g * lr".replace("4.0", "2.0 * 2.0")),
        ("update = g * 0.25", "x1 = 0.5 * 0.5\nupdate = g * x1"),
        ("update = g * lr", "x1 = g * 1.0\nx2 = x1 / 1.0\nx3 = x2 - 0.0\nx4 = maximum(x3, x3)\nupdate = x4 * lr"),
        ("update = sign(g)", "x1 = sign(g)\nupdate = sign(x1)"),
        ("update = clip(g, lr)", "x1 = clip(g, lr)\nupdate = clip(x1, lr)"),
        ("x1 = square(g)\nupdate = x1 * lr", "x1 = square(g)\nx1 = abs(x1)\nupdate = x1 * lr"),
        # Names of memory, and memory that is the same twice.
        ("m = interp(g, m, 0.9)\nupdate = m * lr", "v = interp(g, v, 0.9)\nupdate = v * lr"),
        (
            "m = interp(g, m, 0.9)\nx1 = m + m\nupdate = x1 * lr",
            "m = interp(g, m, 0.9)\nv = interp(g, v, 0.9)\nx1 = m + v\nupdate = x1 * lr",
        ),
        (
            "x1 = square(g)\nm = interp(g, m, 0.9)\nv = interp(x1, v, 0.99)\nx2 = m * v\nupdate = x2 * lr",
            "x1 = square(g)\nv = interp(g, v, 0.9)\nm = interp(x1, m, 0.99)\nx2 = m * v\nupdate = x2 * lr",
        ),
    ],
)
def test_programs_that_compute_the_same_share_a_key(one: str, other: str) -> None:
    assert analysis(parse(one)) == analysis(parse(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("update = g / lr", "x1 = lr / lr\nx1 = x1 / lr\nupdate = g * x1"),
        ("m = interp(g, m, 0.9)\nupdate = m * lr", "update = interp(g, m, 0.9)\nupdate = update * lr"),
        ("m = interp(g, m, 0.9)\nupdate = m * lr", "m = interp(g, m, 0.99)\nupdate = m * lr"),
        ("update = m * lr\nm = g * 1.0", "update = v * lr\nv = m * 1.0\nm = g * 1.0"),
        # Two memories that are exchanged are not one that is kept.
        ("update = g + m\nm = g * 1.0", "update = g + m\nx1 = v * 1.0\nv = g * 1.0\nm = x1 * 1.0"),
    ],
)
def test_programs_that_compute_something_else_do_not(one: str, other: str) -> None:
    assert analysis(parse(one)).key != analysis(parse(other)).key


def test_exchanged_memory_is_written_in_an_order_that_works() -> None:
    program = parse("x1 = m * 1.0\nx2 = v + g\nm = x2 * 1.0\nv = x1 * 1.0\nupdate = m - v")
    form = analysis(program).program
    assert len(form.memory) == 2
    assert_array_equal(updates(form), updates(program))


def test_of_values_that_are_one_the_later_may_be_needed_first() -> None:
    program = parse(
        "x1 = v + g\nx2 = m + g\nx3 = square(x1)\nx4 = square(x2)\nv = sin(x3)\nm = sin(x4)\nupdate = x4 - m\n"
        "x5 = sin(v)\nupdate = update * x5"
    )
    form = analysis(program).program
    assert form.memory == ("m",)
    assert_array_equal(updates(form), updates(program))


def test_what_the_update_depends_on() -> None:
    assert analysis(LION).depends_on == {"w", "g", "lr"}
    assert analysis(parse("v = interp(g, v, 0.9)\nm = v * 1.0\nupdate = m * 1.0")).depends_on == {"g"}
    assert analysis(parse("x1 = g * 0.0\nm = g * 1.0\nupdate = w * lr")).depends_on == {"w", "lr"}
    assert analysis(parse("update = m * lr")).depends_on == {"lr"}


def test_constants_that_are_no_numbers_stay_functions() -> None:
    form = analysis(parse("x1 = log(-1.0)\nx2 = 1.0 / 0.0\nx3 = x1 + x2\nupdate = g * x3")).program
    assert form == analysis(form).program
    assert np.isnan(updates(form)).all()
