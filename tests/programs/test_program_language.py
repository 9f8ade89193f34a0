"""The language: what is well typed, read and printed; and what a step computes, in NumPy and JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.errors import SettingError
from blackbox.programs import ADAMW, FUNCTIONS, GRADIENT, LION, MOMENTUM, Draws, Program, descend, mutate, parse, start
from blackbox.programs import step as take_step
from blackbox.programs.for_optax import transformation
from blackbox.programs.functions import result_type

KNOWN = (GRADIENT, MOMENTUM, ADAMW, LION)


def walk(seed: int, mutations: int, first: Program = ADAMW) -> list[Program]:
    """A program and its descendants, each a mutation of the former."""
    programs = [first]
    for i in range(mutations):
        programs.append(mutate(programs[-1], Draws(bb.key(seed), i)))
    return programs


def trajectory(program: Program, w: Any, gradients: Any, lr: Any = 0.01) -> Any:
    """Weights after each step."""
    memory, found = start(program, w), []
    for g in gradients:
        update, memory = take_step(program, w, g, memory, lr)
        with np.errstate(all="ignore"):
            w = w - update
        found.append(w)
    return found


def test_programs_are_printed_and_read_back() -> None:
    assert str(LION) == (
        "def train(w, g, m, lr):\n"
        "    update = interp(g, m, 0.9)\n"
        "    update = sign(update)\n"
        "    m = interp(g, m, 0.99)\n"
        "    x1 = w * 0.01\n"
        "    update = update + x1\n"
        "    update = update * lr\n"
        "    return update, m"
    )
    for program in (*KNOWN, *walk(0, 60)):
        assert parse(str(program)) == parse(program.code) == program


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m = g * 1.0", "update must be an array after the last statement, and it has no value"),
        ("update = norm(g)", "update must be an array after the last statement, and it is a scalar"),
        ("update = g * lr\nm = lr * 1.0", "m must be an array after the last statement, and it is a scalar"),
        ("update = x1 * g", "statement 1, mul: x1 has no value yet; these have: w, g, lr, m, v, b, c"),
        ("update = relu(g)", "statement 1, relu: functions are abs, sign"),
        ("update = interp(g, m)", "interp: takes 3 inputs, got 2"),
        ("update = clip(g, m)", r"clip: takes \(any, scalar\), got \(array, array\)"),
        ("update = g * 1e999", "constants must be finite, got inf"),
        ("update = sign(g) * lr", "an input is a variable or a number, got sign"),
        ("update = g ** 2", r"a statement is `name = function\(inputs\)` or `name = a \+ b`, got update = g \*\* 2"),
        ("update = (", "was never closed"),
    ],
)
def test_what_is_no_program_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        parse(text)


def test_the_type_that_follows_is_the_shape_that_comes() -> None:
    array, scalar = np.linspace(0.1, 0.9, 12).reshape(3, 4), np.array([[0.2], [0.4], [0.6]])
    for function in FUNCTIONS.values():
        for array_first in (True, False):
            kinds = tuple(
                slot if slot != "any" else "array" if array_first and i == 0 else "scalar"
                for i, slot in enumerate(function.slots)
            )
            inputs = [array if kind == "array" else scalar for kind in kinds]
            expected = array if result_type(function, kinds) == "array" else scalar
            assert function.apply(np, *inputs).shape == expected.shape, function.name
            swapped = function.apply(np, *inputs[::-1]) if function.commutative else function.apply(np, *inputs)
            assert_array_equal(swapped, function.apply(np, *inputs))


@pytest.mark.parametrize(
    ("program", "peer"),
    [
        (LION, lambda lr: optax.lion(lr, 0.9, 0.99, weight_decay=0.01)),
        (ADAMW, lambda lr: optax.adamw(lr, weight_decay=0.01)),
        (MOMENTUM, lambda lr: optax.sgd(lr, momentum=0.9)),
    ],
)
def test_known_optimizers_step_as_those_of_optax(program: Program, peer: Any) -> None:
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(3, 2)), "float32"), "b": jnp.asarray(rng.normal(size=4), "float32")}
    schedule = optax.linear_schedule(0.02, 0.0, 25)
    found, expected = params, params
    ours, theirs = transformation(program, schedule), peer(schedule)
    ours_state, theirs_state = ours.init(params), theirs.init(params)
    for _ in range(20):
        g = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), "float32"), params)
        updates, ours_state = ours.update(g, ours_state, found)
        found = optax.apply_updates(found, updates)
        updates, theirs_state = theirs.update(g, theirs_state, expected)
        expected = optax.apply_updates(expected, updates)
    for name in params:
        assert_allclose(found[name], expected[name], atol=1e-6)
    rate = transformation(program, 0.5)
    updates, _ = rate.update(params, rate.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)


def test_numpy_and_jax_agree_also_compiled() -> None:
    rng = np.random.default_rng(1)
    w, gradients = rng.normal(size=(2, 5)).astype("float32"), rng.normal(size=(6, 2, 5)).astype("float32")
    for program in (*KNOWN, *walk(3, 24)[::3]):
        plain = trajectory(program, w, gradients)[-1]
        assert plain.dtype == np.float32
        compiled = jax.jit(lambda w, p=program: descend(p, lambda _, t: jnp.asarray(gradients)[t], w, lr=0.01, steps=6))
        assert_allclose(compiled(jnp.asarray(w)), plain, rtol=2e-4, atol=2e-4)


def test_runs_on_leading_axes_are_as_they_are_alone() -> None:
    rng = np.random.default_rng(2)
    w, gradients, lr = rng.normal(size=(3, 2, 5)), rng.normal(size=(8, 3, 2, 5)), np.array([0.1, 0.2, 0.3])
    for program in (*KNOWN, *walk(5, 60)[::6]):
        together = trajectory(program, w, gradients, lr[:, None, None])[-1]
        for i in range(3):
            for j in range(2):
                alone = trajectory(program, w[i, j], gradients[:, i, j], lr[i])[-1]
                assert_allclose(together[i, j], alone, rtol=1e-9, atol=1e-12)


def test_descent_reads_schedules_and_gradients_by_the_number_of_the_step() -> None:
    gradients = np.arange(1.0, 5.0)[:, None]
    end = descend(GRADIENT, lambda w, t: gradients[t], np.zeros(1), lr=lambda t: 0.1 * (4 - t), steps=4)
    assert_allclose(end, -(0.4 * 1 + 0.3 * 2 + 0.2 * 3 + 0.1 * 4))


def test_what_overflows_ends_in_nan_without_a_warning() -> None:
    end = descend(parse("x1 = log(g)\nupdate = x1 / m"), lambda w, t: w - 3, np.ones(2), lr=0.1, steps=3)
    assert not np.isfinite(end).any()
