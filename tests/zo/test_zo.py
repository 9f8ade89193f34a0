"""ZO: any estimator before any optimizer, as a strategy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import blackbox as bb
import blackbox.testing.virtual
from blackbox import testing
from blackbox.problems import classifiers
from blackbox.testing.virtual import distance, parameters
from blackbox.zo import CGE, RGE, ZO

# Radii and optimizers that do not magnify the roundings of another order or program beyond the exam's tolerance.
STRATEGIES = {
    "cge": ZO(CGE(0.1, queries=60), optax.sgd(0.1)),
    "rge": ZO(RGE(12, mu=0.1), optax.sgd(0.02)),
    "forward": ZO(RGE(15, "sphere", central=False, mu=0.1), optax.sgd(0.02, momentum=0.5)),
}
REPEATING = ("cge", "forward")  # members that leave "first" as it is: of other weights' coordinates, and the center


@pytest.mark.parametrize("check", testing.VIRTUAL_CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", STRATEGIES)
def test_laws(name: str, check: testing.VirtualCheck) -> None:
    if check is not testing.virtual.check_further_members or name not in REPEATING:
        check(STRATEGIES[name], parameters())


@pytest.mark.parametrize("optimizer", [optax.sign_sgd(0.002), optax.amsgrad(0.02)], ids=["signSGD", "AdaMM"])
def test_zeroth_order_forms_of_other_methods(optimizer: optax.GradientTransformation) -> None:
    testing.virtual.check_lower_is_better(ZO(RGE(12, "rademacher"), optimizer), parameters())
    testing.virtual.check_total_on_fitness(ZO(RGE(12, "rademacher"), optimizer), parameters())


def test_a_step_is_the_optimizers_on_the_estimate() -> None:
    params = parameters()
    estimator, optimizer = RGE(8), optax.adam(0.1)
    strategy = ZO(estimator, optimizer)
    state = strategy.init(bb.key(0), params)
    moments = optimizer.init({k: v for k, v in params.items() if k != "classes"})
    for generation in range(3):
        population = strategy.ask(state)
        fitness = bb.evaluate(distance, population)
        gradient = estimator.estimate(estimator.ask(params, bb.key(0), generation), fitness).gradient
        gradient.pop("classes")
        updates, moments = optimizer.update(gradient, moments)
        params = {**params, **{k: params[k] + u for k, u in updates.items()}}
        state = strategy.tell(state, population, fitness)
    for name, x in params.items():
        np.testing.assert_allclose(strategy.recommend(state)[name], x, rtol=1e-5, atol=1e-6)


def test_a_whole_sweep_trains_as_backpropagation_does() -> None:
    network = classifiers.conv_net(4)
    data = classifiers.digits(0)
    x, y = data.x[:64], data.y[:64]
    strategy, params = ZO(CGE(), optax.sgd(0.1)), network.init(bb.key(0))
    state = strategy.init(bb.key(0), params)
    for _ in range(5):
        population = strategy.ask(state)
        state = strategy.tell(state, population, bb.evaluate(network.loss, population, x, y, chunk=64))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(network.loss)(params, x, y))
    for p, q in zip(jax.tree.leaves(strategy.recommend(state)), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(p, q, atol=1e-3)


def test_resnet20_with_images_like_cifars_trains_end_to_end() -> None:
    """At full width, 270,000 parameters: a sparse step by function values alone lowers the loss of its batch."""
    network = classifiers.resnet20()
    data = classifiers.synthetic_images(0, count=40)
    assert data.x.shape[1:] == (32, 32, 3)
    params = network.init(bb.key(0))
    assert sum(p.size for p in jax.tree.leaves(params)) == 269_722
    x, y = data.x[:4], data.y[:4]
    strategy = ZO(RGE(8), optax.sgd(3e-5))
    state = strategy.init(bb.key(0), params)
    for _ in range(2):
        population = strategy.ask(state)
        state = strategy.tell(state, population, bb.evaluate(network.loss, population, x, y, chunk=4))
    assert float(network.loss(strategy.recommend(state), x, y)) < float(network.loss(params, x, y))


def test_bad_arguments() -> None:
    with pytest.raises(bb.SettingError, match="estimator must be one of"):
        ZO(RGE, optax.sgd(0.1))
    with pytest.raises(bb.SettingError, match="optimizer must be one of optax's"):
        ZO(RGE(), 0.1)
    strategy: Any = ZO(RGE(4), optax.sgd(0.1))
    state = strategy.init(bb.key(0), parameters())
    other = strategy.ask(strategy.init(bb.key(0), {"w": jnp.ones(3)}))
    with pytest.raises(bb.TellError, match="parameters are another tree"):
        strategy.tell(state, other, jnp.ones(8))
