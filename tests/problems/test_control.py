"""Classic control: our episodes are gymnasium's, and the JAX programs step as gymnasium does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import pytest

from blackbox.errors import SettingError
from blackbox.kernels.environments import ENVIRONMENTS
from blackbox.problems.control import ControlTask, JaxControl

gymnasium = pytest.importorskip("gymnasium")

NAMES = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0")
FALL = np.array([0.24, 0.6, 3.0 * 0.21, 3.0])  # push towards where the pole falls, a little against the drift
BALANCE = np.concatenate([np.stack([-FALL, FALL], axis=1).ravel(), [0.0, 0.0]])


def swing(position: float, velocity: float) -> np.ndarray:
    """A linear policy for MountainCarContinuous: full force along the velocity."""
    return np.array([position, velocity, 0.0])


@pytest.mark.parametrize("name", NAMES)
def test_dimension_counts_the_weights_and_the_box_has_it(name: str) -> None:
    game = gymnasium.make(name)
    inputs = game.observation_space.shape[0]
    outputs = getattr(game.action_space, "n", 1)
    task = ControlTask(name, hidden=(5, 3))
    assert task.dimension == inputs * 5 + 5 + 5 * 3 + 3 + 3 * int(outputs) + int(outputs)
    assert task.box().low.shape == (task.dimension,)


@pytest.mark.parametrize("name", NAMES)
def test_cost_is_minus_the_mean_return_of_fixed_episodes(name: str) -> None:
    task = ControlTask(name, hidden=(4,), episodes=2, seed=5)
    parameters = np.random.default_rng(1).uniform(-5, 5, task.dimension)
    cost = task(parameters)
    assert type(cost) is float
    assert task(parameters) == cost
    assert ControlTask(name, hidden=(4,), episodes=2, seed=5)(parameters) == cost
    assert ControlTask(name, hidden=(4,), episodes=2, seed=6)(parameters) != cost or name == "Acrobot-v1"


@pytest.mark.parametrize("name", NAMES)
def test_play_returns_the_episode_as_gymnasium_plays_it(name: str) -> None:
    task = ControlTask(name, hidden=(4,))
    played = task.play(np.random.default_rng(2).uniform(-5, 5, task.dimension), seed=11)
    game = gymnasium.make(name)
    observation, _ = game.reset(seed=11)
    assert np.array_equal(observation, played.observations[0])
    for step, action in enumerate(played.actions):
        observation, reward, terminated, truncated, _ = game.step(action)
        assert np.array_equal(observation, played.observations[step + 1])
        assert reward == played.rewards[step]
        assert (terminated or truncated) == (step + 1 == len(played.actions))


def test_known_policies_solve_their_tasks() -> None:
    assert ControlTask("CartPole-v1", hidden=())(BALANCE) == -500.0
    assert ControlTask("CartPole-v1", hidden=()).test_score(BALANCE) < -475.0
    assert ControlTask("CartPole-v1", hidden=())(-BALANCE) > -15.0
    assert ControlTask("MountainCarContinuous-v0", hidden=())(swing(0.0, 5.0)) < -90.0
    assert ControlTask("MountainCarContinuous-v0", hidden=())(swing(0.0, 0.0)) == 0.0


def test_held_out_episodes_are_others() -> None:
    task = ControlTask("Pendulum-v1", hidden=(), episodes=50)  # as many as are held out
    parameters = np.zeros(task.dimension)
    assert task(parameters) != task.test_score(parameters)


@pytest.mark.parametrize("kind", [ControlTask, JaxControl])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"env": "Walker"}, "env must be one of CartPole-v1, Pendulum-v1.*; got 'Walker'"),
        ({"hidden": (0,)}, "hidden"),
        ({"hidden": 8}, "hidden"),
        ({"episodes": 0}, "episodes"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.0}, "seed"),
    ],
)
def test_wrong_argument_is_named(kind: Any, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        kind(**{"env": "CartPole-v1", **arguments})


def test_wrong_number_of_weights_is_refused() -> None:
    with pytest.raises(SettingError, match=r"shape \(58,\); got \(3,\)"):
        ControlTask("CartPole-v1")(np.zeros(3))


def test_tasks_travel_to_workers() -> None:
    task = ControlTask("Acrobot-v1", hidden=(3,))
    assert ForkingPickler.loads(bytes(ForkingPickler.dumps(task))) == task


# ---- the JAX programs ----


SPREAD = {
    "CartPole-v1": [3.0, 3.0, 0.3, 3.0],
    "Pendulum-v1": [10.0, 9.0],
    "Acrobot-v1": [np.pi, np.pi, 4.5 * np.pi, 9.5 * np.pi],
    "MountainCarContinuous-v0": [1.3, 0.08],
}


@pytest.mark.parametrize("name", NAMES)
def test_jax_dynamics_agree_with_gymnasium_step_by_step(name: str) -> None:
    """From 500 random states, most of them beyond the limits at which speeds are clipped or an episode ends."""
    jax = pytest.importorskip("jax")
    rng, environment, xp = np.random.default_rng(0), ENVIRONMENTS[name], jax.numpy
    game = gymnasium.make(name).unwrapped
    high = np.array(SPREAD[name])
    states = rng.uniform(-high, high, (500, len(high)))
    is_discrete = environment.force is None
    actions = rng.integers(game.action_space.n, size=500) if is_discrete else rng.uniform(-3, 3, 500)

    def sin_cos(x: Any) -> Any:
        return xp.sin(x), xp.cos(x)

    with jax.enable_x64(True):
        state, rewards, is_over = environment.step(tuple(xp.asarray(states.T)), xp.asarray(actions), xp, sin_cos)
        following, seen = np.stack(state, -1), np.stack(environment.observe(state, xp, sin_cos), -1)
    assert 0 < is_over.sum() < 500 or name == "Pendulum-v1"
    # gymnasium rounds MountainCar's state to float32; speeds of Acrobot's of 30 cancel.
    tolerance = {"rtol": 1e-7, "atol": 1e-7} if name.startswith("Mountain") else {"rtol": 1e-12, "atol": 1e-11}
    for i in range(500):
        game.reset()
        game.state = states[i]
        observation, reward, terminated, _, _ = game.step(actions[i] if is_discrete else actions[i : i + 1])
        np.testing.assert_allclose(following[i], game.state, **tolerance)
        np.testing.assert_allclose(seen[i], observation, rtol=1e-6, atol=1e-6)
        assert rewards[i] == pytest.approx(reward, rel=1e-12)
        assert is_over[i] == terminated


@pytest.mark.parametrize("name", NAMES)
def test_jax_episodes_are_the_same_as_gymnasiums(name: str) -> None:
    jax = pytest.importorskip("jax")
    task, program = ControlTask(name, seed=3), JaxControl(name, seed=3)
    assert (program.dimension, program.box()) == (task.dimension, task.box())
    population = np.random.default_rng(4).uniform(-1, 1, (12, task.dimension))
    with jax.enable_x64(True):
        costs = np.asarray(jax.jit(jax.vmap(program))(population))
    expected = np.array([task(parameters) for parameters in population])
    # gymnasium rounds observations to float32, which may move a fall by a step.
    assert np.median(np.abs(costs - expected)) <= 1e-3
    np.testing.assert_allclose(costs, expected, rtol=0.05)


def test_jax_program_solves_with_the_known_policy_and_keeps_the_dtype() -> None:
    jax = pytest.importorskip("jax")
    cost = jax.jit(JaxControl("CartPole-v1", hidden=()))(jax.numpy.asarray(BALANCE, dtype="float32"))
    assert cost.shape == ()
    assert cost.dtype == jax.numpy.float32
    assert float(cost) == -500.0
    assert math.isfinite(float(JaxControl("Pendulum-v1", hidden=())(jax.numpy.zeros(4))))


@pytest.mark.parametrize("name", NAMES)
def test_any_network_costs_what_the_flat_vector_does_and_each_generation_has_its_episodes(name: str) -> None:
    jax = pytest.importorskip("jax")
    task = JaxControl(name, hidden=(4, 3), episodes=5, seed=1)
    flat = jax.numpy.asarray(np.random.default_rng(0).normal(size=task.dimension), "float32")
    (first, _), (second, _), (last, _) = layers = task.policy.layers(flat)

    def network(x: Any) -> Any:
        tanh, biases = jax.numpy.tanh, [bias for _, bias in layers]
        return tanh(tanh(x @ first + biases[0]) @ second + biases[1]) @ last + biases[2]

    starts = jax.numpy.asarray(task.starts(), "float32")
    assert float(jax.vmap(lambda start: task.cost(network, start))(starts).mean()) == float(task(flat))
    assert float(task.test_score(network)) == float(task.test_score(flat))
    assert not np.isin(task.starts(1)[:, 0], task.starts()[:, 0]).any()
    assert np.array_equal(task.starts(1), task.starts(1))


def test_held_out_episodes_of_the_program_are_those_of_gymnasium() -> None:
    jax = pytest.importorskip("jax")
    task, program = ControlTask("Pendulum-v1", hidden=(4,), seed=1), JaxControl("Pendulum-v1", hidden=(4,), seed=1)
    parameters = np.random.default_rng(0).uniform(-1, 1, task.dimension)
    with jax.enable_x64(True):
        score = float(program.test_score(jax.numpy.asarray(parameters)))
    assert score == pytest.approx(task.test_score(parameters), rel=1e-3)


# ---- populations that share the product with the mean


def _programs(eqn: Any) -> Iterator[Any]:
    """The programs within an equation of a jaxpr."""
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield inner


def _all_equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in _programs(eqn):
            yield from _all_equations(inner)


def test_episodes_of_a_population_are_stepped_without_noise_and_share_the_product() -> None:
    """What EGGROLL costs in a rollout: noise is made once before it, and each step has one product for all members."""
    jax = pytest.importorskip("jax")
    pytest.importorskip("quax")
    import blackbox as bb

    task = JaxControl("CartPole-v1", episodes=4)
    rng = np.random.default_rng(0)
    params = [jax.numpy.asarray(rng.normal(size=shape), "float32") for shape in ((4, 32), (32, 16), (16, 2))]
    starts = jax.numpy.repeat(jax.numpy.asarray(task.starts(), "float32"), 2, axis=0)

    def cost(params: Any, start: Any) -> Any:
        first, second, last = params
        return task.cost(lambda x: jax.numpy.tanh(jax.numpy.tanh(x @ first) @ second) @ last, start)

    strategy = bb.es.Eggroll(popsize=8, sigma=0.1)
    state = strategy.init(bb.key(0), params)

    def evaluated(state: Any) -> Any:
        return bb.evaluate(cost, strategy.ask(state), starts, in_axes=0)

    fitness = jax.jit(evaluated)(state)
    members = [float(cost(strategy.ask(state)[i], starts[i])) for i in range(8)]
    np.testing.assert_allclose(fitness, members, atol=1.0)  # a step more or less, by rounding
    equations = list(_all_equations(jax.make_jaxpr(evaluated)(state).jaxpr))
    assert "xor" in {eqn.primitive.name for eqn in equations}  # the noise
    loops = [list(_all_equations(eqn.params["body_jaxpr"].jaxpr)) for eqn in equations if eqn.primitive.name == "while"]
    (steps,) = [loop for loop in loops if any(eqn.primitive.name == "dot_general" for eqn in loop)]
    assert "xor" not in {eqn.primitive.name for eqn in steps}
    products = [eqn for eqn in steps if eqn.primitive.name == "dot_general"]
    assert sum((32, 16) in {operand.aval.shape for operand in eqn.invars} for eqn in products) == 1
