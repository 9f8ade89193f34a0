"""Results after changes of single entries: those of the whole program, at the cost of what comes after the change."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import blackbox as bb
from blackbox.perturbed.sweep import Program
from blackbox.virtual import CoordinatePopulation

RNG = np.random.default_rng(0)


def made(*shape: int) -> Any:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


X, IMAGES, GROUPS = made(5, 6), made(3, 7, 6, 2), made(2, 4, 3)


def convolved(x: Any, w: Any, stride: int = 1, padding: Any = "SAME", **kwargs: Any) -> Any:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=numbers, **kwargs)


def pooled(x: Any, kind: Any, start: float) -> Any:
    return jax.lax.reduce_window(x, start, kind, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


@jax.custom_vjp
def doubled(x: Any) -> Any:
    return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))

CASES: dict[str, tuple[Any, Any]] = {
    "mlp": (lambda p: jnp.tanh(X @ p["w"] + p["b"]) @ p["v"], {"w": made(6, 8), "b": made(8), "v": made(8, 3)}),
    "transposed": (lambda p: jax.nn.gelu(p["w"] @ X.T).T @ p["v"].T, {"w": made(8, 6), "v": made(3, 8)}),
    "products of one weight": (lambda p: X @ p["w"] @ p["w"].T, {"w": made(6, 4)}),
    "heads": (
        lambda p: jnp.einsum("bhk,hkd->bd", jnp.einsum("bd,dhk->bhk", X, p["q"]), p["o"]),
        {"q": made(6, 2, 3), "o": made(2, 3, 6)},
    ),
    "batched product": (lambda p: jnp.einsum("gbi,gij->gbj", GROUPS, p["w"]) ** 2, {"w": made(2, 3, 4)}),
    "softmax": (lambda p: jax.nn.log_softmax(X @ p["w"]), {"w": made(6, 4)}),
    "silu": (lambda p: jax.nn.silu(X @ p["w"] * p["g"]) @ p["v"], {"w": made(6, 4), "g": made(4), "v": made(4, 2)}),
    "convolutions": (
        lambda p: convolved(jax.nn.relu(convolved(IMAGES, p["k"]) + p["b"]), p["l"], 2),
        {"k": made(3, 3, 2, 4), "b": made(4), "l": made(3, 3, 4, 5)},
    ),
    "strides and dilation": (
        lambda p: convolved(convolved(IMAGES, p["k"], 2, ((2, 1), (0, 3)), rhs_dilation=(2, 1)), p["l"], 1, "VALID"),
        {"k": made(3, 2, 2, 4), "l": made(2, 2, 4, 3)},
    ),
    "channels first": (
        lambda p: jax.lax.conv_general_dilated(
            jax.nn.relu(jax.lax.conv_general_dilated(IMAGES.transpose(0, 3, 1, 2), p["k"], (1, 2), "SAME")), p["l"],
            (1, 1), "VALID",
        ),
        {"k": made(4, 2, 3, 3), "l": made(3, 4, 2, 2)},
    ),
    "grouped convolution": (lambda p: convolved(IMAGES, p["k"], feature_group_count=2), {"k": made(3, 3, 1, 4)}),
    "pooling": (
        lambda p: (
            pooled(convolved(IMAGES, p["k"]), jax.lax.add, 0.0)
            + pooled(convolved(IMAGES, p["k"]), jax.lax.max, -jnp.inf)
        ).mean(axis=(1, 2)) @ p["w"],
        {"k": made(3, 3, 2, 4), "w": made(4, 3)},
    ),
    "flattened": (
        lambda p: jax.nn.relu(convolved(IMAGES, p["k"])).reshape(3, -1) @ p["w"],
        {"k": made(3, 3, 2, 4), "w": made(168, 2)},
    ),
    "embedding": (lambda p: jnp.tanh(p["e"][jnp.array([1, 3, 1])]) @ p["w"], {"e": made(5, 4), "w": made(4, 2)}),
    "standardized": (
        lambda p: X @ ((p["w"] - p["w"].mean()) / p["w"].std() + p["s"]), {"w": made(6, 4), "s": made()}
    ),
    "scan": (
        lambda p: jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), X, p["w"])[0], {"w": made(3, 6, 6)}
    ),
    "calls": (
        lambda p: jax.jit(jax.checkpoint(lambda w: doubled(jnp.where(X @ w > 0, X @ w, 0))))(p["w"]), {"w": made(6, 4)}
    ),
    "one function twice": (
        lambda p: jax.jit(jax.nn.relu)(jax.jit(jax.nn.relu)(X @ p["w"]) @ p["v"]), {"w": made(6, 4), "v": made(4, 4)}
    ),
    "unused and returned": (lambda p: {"w": p["w"], "sum": p["w"].sum(0), "x": X}, {"w": made(6, 4), "z": made(2)}),
    "half precision": (lambda p: (X.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16)).sum(), {"w": made(6, 4)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_change_gives_what_the_whole_program_gives(name: str) -> None:
    f, params = CASES[name]
    size = sum(x.size for x in jax.tree.leaves(params))
    coordinates = np.arange(size)
    steps = np.random.default_rng(1).normal(size=size).astype(np.float32)
    population = CoordinatePopulation.around(params, coordinates, steps)
    assert population.counts is not None and sum(population.counts) == size
    flat, unravel = ravel_pytree(params)
    members = jax.vmap(lambda i, s: unravel(flat.at[i].add(s)))(coordinates, steps)
    found, expected = bb.evaluate(f, population), jax.vmap(f)(members)
    tolerance = 2e-2 if name == "half precision" else 2e-5
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        np.testing.assert_allclose(
            np.float32(x), np.float32(y), rtol=tolerance, atol=tolerance * float(jnp.abs(y).max())
        )


def test_chunks_orders_and_arguments() -> None:
    f, params = CASES["mlp"]
    size = sum(x.size for x in jax.tree.leaves(params))
    population = CoordinatePopulation.around(params, np.arange(size), np.full(size, 0.5))

    def loss(p: Any, y: Any, scale: float) -> Any:
        return scale * jnp.mean((f(p) - y) ** 2)

    whole = np.asarray(bb.evaluate(loss, population, 1.0, 2.0))
    for chunk in (1, 7, 1000):
        np.testing.assert_allclose(bb.evaluate(loss, population, 1.0, 2.0, chunk=chunk), whole, rtol=1e-6)
    order = np.random.default_rng(0).permutation(size)
    assert population.take(order).counts is None
    np.testing.assert_allclose(bb.evaluate(loss, population.take(order), 1.0, 2.0), whole[order], rtol=1e-4)
    own = bb.evaluate(loss, population, np.arange(size), 2.0, in_axes=(0, None))
    np.testing.assert_allclose(own[1], loss(population[1], 1, 2.0), rtol=1e-5)
    half = population.take(np.arange(size // 2))
    assert half.counts is not None
    np.testing.assert_allclose(bb.evaluate(loss, half, 1.0, 2.0), whole[: size // 2], rtol=1e-6)


def flops(program: Program, number: int, argument: Any) -> float:
    """Floating-point operations of one entry's change, by XLA's own count."""
    values = jax.eval_shape(program.run, *argument)
    equations = program.after(number)
    changed = jax.jit(lambda values, i, s: program.changed(number, equations, values, (i, s)))
    cost = changed.lower(values, 0, np.float32(1)).compile().cost_analysis()
    return float(cost["flops"])


@pytest.mark.parametrize("layers", [4, 8])
def test_a_sweep_costs_less_than_half(layers: int) -> None:
    width, batch = 32, 64
    x = made(batch, width)
    params = tuple(made(width, width) for _ in range(layers))

    def f(*weights: Any) -> Any:
        h = x
        for w in weights:
            h = jax.nn.relu(h @ w)
        return h.sum()

    program = Program(f, *params)
    whole = layers * 2 * batch * width * width
    spent = [flops(program, number, params) for number in range(layers)]
    assert spent == sorted(spent, reverse=True)
    assert spent[-1] < whole / (10 * layers)  # a column of the last layer
    # Products after the next one are made in full: of 4 layers 2, 1, 0 and 0.
    products = sum(max(0, layers - 2 - number) for number in range(layers)) / layers
    assert sum(spent) / layers < (products / layers + 0.1) * whole
    assert products / layers < 0.5


def test_what_leads_to_no_result_is_not_run() -> None:
    program = Program(lambda w, v: (jnp.sin(w).sum(), jnp.cos(v).sum())[1], made(3), made(3))
    assert not program.after(0)
    assert [eqn.primitive.name for eqn in program.after(1)] == ["cos", "reduce_sum"]
    assert program.bytes == math.prod((4, 3 + 1 + 3 + 1))
