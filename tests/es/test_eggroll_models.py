"""Models as users have them, unchanged: factored members of equinox, linen and nnx equal formed ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from numpy.testing import assert_allclose

import blackbox as bb
from blackbox.perturbed import Materialized
from blackbox.virtual import Leaf

KEY = jax.random.key(0)
SEQUENCE = jax.random.normal(KEY, (6, 32))
IMAGES = jax.random.normal(KEY, (2, 6, 6, 16))
TOKENS = jnp.arange(12).reshape(2, 6)

Case = tuple[Callable[..., Any], Any, Any]


def squares(x: Any) -> Any:
    return jnp.sum(x * x)


def equinox_mlp() -> Case:
    return lambda m, x: squares(jax.vmap(m)(x)), eqx.nn.MLP(32, 16, 32, 1, key=KEY), SEQUENCE


def equinox_convolution() -> Case:
    layers = [eqx.nn.Conv2d(16, 32, 3, key=KEY), eqx.nn.Lambda(jax.nn.relu), eqx.nn.Conv2d(32, 16, 3, 2, key=KEY)]
    return lambda m, x: squares(jax.vmap(m)(x)), eqx.nn.Sequential(layers), IMAGES.transpose(0, 3, 1, 2)


def equinox_gru() -> Case:
    def states(cell: Any, xs: Any) -> Any:
        return squares(jax.lax.scan(lambda h, x: (cell(x, h), None), jnp.zeros(24), xs)[0])

    return states, eqx.nn.GRUCell(32, 24, key=KEY), SEQUENCE


class EquinoxBlock(eqx.Module):
    """A transformer block over learned positions."""

    positions: jax.Array
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self) -> None:
        keys = jax.random.split(KEY, 3)
        self.positions = jax.random.normal(keys[0], (16, 32))
        self.attention = eqx.nn.MultiheadAttention(2, 32, key=keys[1])
        self.norm = eqx.nn.LayerNorm(32)
        self.mlp = eqx.nn.MLP(32, 32, 64, 1, key=keys[2])

    def __call__(self, x: Any) -> Any:
        x = x + self.positions[: len(x)]
        h = jax.vmap(self.norm)(x)
        return x + jax.vmap(self.mlp)(self.attention(h, h, h))


def equinox_transformer() -> Case:
    return lambda m, x: squares(m(x)), EquinoxBlock(), SEQUENCE


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(16)(jnp.tanh(nn.Dense(32)(x)))


class Transformer(nn.Module):
    """One block over tied embeddings."""

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        embedding = nn.Embed(50, 32)
        x = embedding(tokens)
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(h, h)
        return embedding.attend(x + nn.Dense(32)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(x)))))


class Convolution(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Conv(32, (3, 3), strides=2)(nn.relu(nn.Conv(16, (3, 3))(x)))


class Stack(nn.Module):
    """Three layers with scanned weights."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        def step(module: nn.Module, x: Any, _: Any) -> Any:
            return x + nn.Dense(32)(jnp.tanh(x)), None

        return nn.scan(step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)(self, x, None)[0]


def linen(model: nn.Module, x: Any) -> Case:
    return lambda params, x: squares(model.apply(params, x)), model.init(KEY, x), x


class Attention(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(2, 32, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(32, rngs=rngs)
        self.out = nnx.Linear(32, 32, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + self.out(nnx.gelu(self.attention(self.norm(x))))


def nnx_split(model: nnx.Module, x: Any) -> Case:
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    return lambda params, x: squares(nnx.merge(graph, params, rest)(x)), params, x


def nnx_mlp() -> Case:
    rngs = nnx.Rngs(0)
    return nnx_split(nnx.Sequential(nnx.Linear(32, 32, rngs=rngs), nnx.tanh, nnx.Linear(32, 16, rngs=rngs)), SEQUENCE)


def nnx_convolution() -> Case:
    rngs = nnx.Rngs(0)
    layers = nnx.Conv(16, 16, (3, 3), rngs=rngs), nnx.relu, nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
    return nnx_split(nnx.Sequential(*layers), IMAGES)


def nnx_gru() -> Case:
    graph, params, rest = nnx.split(nnx.GRUCell(32, 24, rngs=nnx.Rngs(0)), nnx.Param, ...)

    def states(params: Any, xs: Any) -> Any:
        cell = nnx.merge(graph, params, rest)
        return squares(jax.lax.scan(lambda h, x: (cell(h, x)[0], None), jnp.zeros(24), xs)[0])

    return states, params, SEQUENCE


CASES: dict[str, tuple[Callable[[], Case], int, Mapping[str, Leaf]]] = {
    "equinox MLP": (equinox_mlp, 2, {}),
    "equinox convolution": (equinox_convolution, 2, {}),
    "equinox GRU": (equinox_gru, 2, {}),
    "linen transformer": (lambda: linen(Transformer(), TOKENS), 7, {}),
    "linen convolution": (lambda: linen(Convolution(), IMAGES), 2, {}),
    "linen GRU": (lambda: linen(nn.RNN(nn.GRUCell(features=24)), SEQUENCE[None]), 6, {}),
    "linen scan, marked as stacked": (lambda: linen(Stack(), SEQUENCE), 1, {"*kernel": Leaf(rank=2, stacked=1)}),
    "linen scan": (lambda: linen(Stack(), SEQUENCE), 1, {}),
    "linen MLP": (lambda: linen(Perceptron(), SEQUENCE), 2, {}),
    "equinox transformer block": (equinox_transformer, 7, {}),
    "nnx MLP": (nnx_mlp, 2, {}),
    "nnx convolution": (nnx_convolution, 2, {}),
    "nnx GRU": (nnx_gru, 2, {}),
    "nnx transformer block": (lambda: nnx_split(Attention(nnx.Rngs(0)), SEQUENCE[None]), 5, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_factored_members_equal_formed_ones(name: str) -> None:
    make, low_rank, policy = CASES[name]
    objective, params, x = make()
    strategy = bb.es.Eggroll(popsize=4, rank=2, sigma=0.1, policy=policy)
    population = strategy.ask(strategy.init(bb.key(1), params))
    assert sum(weight.noise == "low-rank" for weight in population.structure.weights) == low_rank
    with warnings.catch_warnings():
        warnings.simplefilter("error", Materialized)
        fitness = bb.evaluate(objective, population, x)
    assert_allclose(fitness, [objective(population[i], x) for i in range(4)], rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["equinox GRU", "linen transformer", "linen scan, marked as stacked", "nnx transformer block"]
)
def test_later_generations_compile_nothing(name: str) -> None:
    make, _, policy = CASES[name]
    objective, params, x = make()
    strategy = bb.es.Eggroll(popsize=4, sigma=lambda generation: 0.1 / (1 + generation), policy=policy)
    state, compiled = strategy.init(bb.key(1), params), [0]

    def count(event: str, *_: Any, **__: Any) -> None:
        compiled[-1] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for _ in range(4):
            population = strategy.ask(state)
            fitness = bb.evaluate(objective, population, x, chunk=2)
            state = strategy.tell(state, population, fitness)
            compiled.append(0)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert compiled[0] > 0
    assert compiled[2:] == [0, 0, 0], compiled
