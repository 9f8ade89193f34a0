"""Environments and episodes: the physics are gymnasium's, what comes after an end counts nowhere, luck is shared."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.kernels.environments import ENVIRONMENTS
from blackbox.problems.actions import Continuous, Discrete
from blackbox.problems.control import ControlTask, JaxControl
from blackbox.problems.environments import Brax, ClassicControl, Gymnax
from blackbox.problems.episodes import Play, episode_keys, episode_return, held_out_keys, last_observation
from blackbox.problems.normalizer import fresh, merge, moments, normalize, variance
from blackbox.problems.policies import MLP

NAMES = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0")


@dataclass(frozen=True)
class Countdown:
    """Rewards of one until an end that the key draws; then nothing but NaN. Observations lie far from zero."""

    offset: float = 0.0
    steps: int = 12

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def action(self) -> Discrete:
        return Discrete(3)

    def reset(self, key: Any) -> tuple[Any, Any]:
        left = 1 + key[1] % 9
        return (left.astype(jnp.int32), jnp.asarray(0)), self.observe(left, 0)

    def step(self, state: Any, action: Any) -> tuple[Any, Any, Any, Any]:
        left, time = state[0] - 1, state[1] + 1
        return (left, time), self.observe(left, time), jnp.where(left < 0, jnp.nan, 1.0), left <= 0

    def observe(self, left: Any, time: Any) -> Any:
        seen = jnp.stack([self.offset + left, self.offset - 0.5 * time])
        return jnp.where(left < 0, jnp.nan, seen)


def still(params: Any, observation: Any) -> Any:
    return jnp.zeros(3)


# ---- physics


@pytest.mark.parametrize("name", NAMES)
def test_our_environment_plays_whole_episodes_as_gymnasium_does(name: str) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    ours = ClassicControl(name)
    state, seen = ours.reset(jnp.asarray(bb.key(1)))
    game = gymnasium.make(name).unwrapped
    game.reset()
    game.state = np.asarray(state, np.float64)
    center, deviation = np.array(ours.center), np.array(ours.deviation)
    rng, step = np.random.default_rng(0), jax.jit(ours.step)
    for _ in range(40):
        outputs = rng.normal(size=ours.action.outputs).astype(np.float32)
        action = np.asarray(ours.action.of(outputs))
        state, seen, reward, is_over = step(state, action)
        expected, given, terminated, _, _ = game.step(action if isinstance(ours.action, Continuous) else int(action))
        np.testing.assert_allclose(seen * deviation + center, expected, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(float(reward), float(given), rtol=1e-3, atol=1e-3)
        assert bool(is_over) == terminated
        if terminated:
            break


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_returns_are_minus_the_costs_of_the_control_task(name: str) -> None:
    env, task = ClassicControl(name), JaxControl(name)
    policy = MLP((*env.observation_shape, 4, env.action.outputs), last_std=2.0)
    params, keys = policy.init(bb.key(1)), episode_keys(bb.key(0), 0, 3)
    starts = jnp.stack(jax.vmap(lambda key: env.reset(key)[0])(jnp.asarray(keys)), axis=1)
    scale, center, deviation = (np.array(x, np.float32) for x in (ENVIRONMENTS[name].scale, env.center, env.deviation))

    def network(seen: Any) -> Any:
        return policy(params, (seen * scale - center) / deviation)

    costs = jax.jit(jax.vmap(lambda start: task.cost(network, start)))(starts)
    played = jax.jit(lambda: episode_return(env, policy, params, keys))()
    np.testing.assert_allclose(played.returns, -costs, rtol=1e-3)
    assert len(np.unique(costs)) > 1


@pytest.mark.parametrize("name", NAMES)
def test_first_states_are_uniform_within_their_bounds(name: str) -> None:
    states = np.stack(
        jax.vmap(lambda key: ClassicControl(name).reset(key)[0])(jnp.asarray(held_out_keys(bb.key(0), 400)))
    )
    low, high = (np.array(bound)[:, None] for bound in (ENVIRONMENTS[name].low, ENVIRONMENTS[name].high))
    assert ((states >= low) & (states <= high)).all()
    np.testing.assert_allclose(states.mean(axis=1), ((low + high) / 2)[:, 0], atol=0.1 * float((high - low).max()))
    is_moving = (high > low)[:, 0]
    assert ((states.max(axis=1) - states.min(axis=1))[is_moving] > 0.9 * (high - low)[is_moving, 0]).all()


def test_actions_are_named_by_outputs() -> None:
    assert Discrete(3).of(np.array([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])).tolist() == [1, 0]
    bounded = Continuous((-1.0, 0.0), (1.0, 4.0))
    np.testing.assert_allclose(bounded.of(jnp.asarray([[0.0, 0.0], [99.0, -99.0]])), [[0.0, 2.0], [1.0, 0.0]])
    assert (bounded.outputs, Discrete(3).outputs) == (2, 3)


@pytest.mark.parametrize("name", NAMES)
def test_a_population_is_played_at_once_as_its_members_are_alone(name: str) -> None:
    env = ClassicControl(name)
    policy = MLP((*env.observation_shape, 16, 16, env.action.outputs))
    play, keys = Play(env, policy, steps=20), episode_keys(bb.key(0), 3, 2)
    params = policy.init(bb.key(1))
    eggroll, deep_ga = bb.es.Eggroll(popsize=4, sigma=0.2), bb.ga.DeepGA(popsize=4, truncation=2, n_candidates=2)
    for strategy in (eggroll, deep_ga):
        population = strategy.ask(strategy.init(bb.key(2), params))
        at_once = bb.evaluate(play, population, keys)
        alone = bb.evaluate(play, population, keys, chunk=4)
        np.testing.assert_array_equal(at_once.steps, alone.steps)
        np.testing.assert_allclose(at_once.returns, alone.returns, rtol=1e-4, atol=1e-4)
        flat = jax.vmap(lambda layers: jax.flatten_util.ravel_pytree(layers)[0])(population.stacked())
        np.testing.assert_array_equal(bb.evaluate(play, flat, keys).returns, at_once.returns)
        np.testing.assert_allclose(
            policy(flat[0], np.ones(policy.sizes[0])), policy(population[0], np.ones(policy.sizes[0])), rtol=1e-4
        )


def test_only_what_is_the_same_is_played_at_once() -> None:
    """Other policies and environments, normalized observations and behaviours are played member by member."""
    env, keys = ClassicControl("Pendulum-v1"), episode_keys(bb.key(0), 0, 2)
    policy = MLP((3, 4, 1))
    population = jnp.zeros((2, policy.dimension))
    for play, args in (
        (Play(env, lambda params, seen: policy(params, seen)), ()),
        (Play(Countdown(), MLP((2, 3))), ()),
        (Play(env, policy), (fresh((3,)),)),
        (Play(env, policy, behaviour=last_observation), ()),
    ):
        assert play.of_population(population, keys, *args) is NotImplemented
    seen = bb.evaluate(Play(env, policy, steps=5, behaviour=last_observation), population, keys)
    assert seen.behaviour.shape == (2, 2, 3)
    assert bb.evaluate(Play(env, policy, steps=5), population, keys).behaviour is None


# ---- episodes


def test_nothing_after_an_end_counts() -> None:
    """The longest episode is stepped ten times, in which the others give NaN as rewards and observations."""
    keys = np.array([[0, 0], [0, 2], [0, 8]], np.uint32)
    played = episode_return(Countdown(), still, None, keys, normalizer=fresh((2,)), behaviour=last_observation)
    assert played.returns.tolist() == [1.0, 3.0, 9.0]
    assert played.steps.tolist() == [1, 3, 9]
    np.testing.assert_array_equal(played.behaviour, [[0.0, -0.5], [0.0, -1.5], [0.0, -4.5]])
    assert float(played.moments.count) == 13
    assert np.isfinite(played.moments.squares).all()
    short = episode_return(Countdown(), still, None, keys, steps=2, behaviour=lambda state, _: state[1])
    assert (short.returns.tolist(), short.steps.tolist(), short.behaviour.tolist()) == ([1, 2, 2], [1, 2, 2], [1, 2, 2])
    assert short.moments is None
    assert episode_return(Countdown(steps=5), still, None, keys).steps.tolist() == [1, 3, 5]


def test_members_of_a_population_have_what_they_have_alone() -> None:
    """Under vmap a member goes on until the last of all members is done."""
    env, policy = ClassicControl("CartPole-v1"), MLP((4, 6, 2), last_std=1.0)
    normalizer = fresh((4,))._replace(count=np.float32(10), squares=np.full(4, 2.5, np.float32))
    keys = episode_keys(bb.key(0), 0, 2)

    def play(params: Any, keys: Any, normalizer: Any) -> Any:
        return episode_return(env, policy, params, keys, steps=60, normalizer=normalizer)

    strategy = bb.es.Eggroll(popsize=6, sigma=0.5)
    population = strategy.ask(strategy.init(bb.key(0), policy.init(bb.key(1))))
    played = bb.evaluate(play, population, keys, normalizer)
    assert played.returns.shape == played.steps.shape == (6, 2)
    assert played.moments.deviations.shape == (6, 4)
    assert len(np.unique(played.returns)) > 3
    one = jax.jit(play)
    for i in range(6):
        alone = one(population[i], keys, normalizer)
        np.testing.assert_allclose(played.returns[i], alone.returns, atol=1.0)  # a fall a step later, by rounding
        np.testing.assert_allclose(played.moments.count[i], alone.moments.count, atol=2.0)


def test_members_share_luck_and_generations_do_not() -> None:
    key, play = bb.key(7), jax.jit(lambda keys: episode_return(Countdown(), still, None, keys).returns)
    first = [tuple(word) for generation in range(50) for word in episode_keys(key, generation, 20).tolist()]
    unseen = [tuple(word) for word in held_out_keys(key, 100).tolist()]
    assert len({*first, *unseen}) == 1100
    np.testing.assert_array_equal(episode_keys(key, 3, 20), episode_keys(key, 3, 20))
    np.testing.assert_array_equal(episode_keys(key, 3, 20)[:5], episode_keys(key, 3, 5))
    traced = jax.jit(lambda generation: episode_keys(jnp.asarray(key), generation, 20))(3)
    np.testing.assert_array_equal(traced, episode_keys(key, 3, 20))
    assert play(traced).tolist() == play(episode_keys(key, 3, 20)).tolist()
    assert play(traced).tolist() != play(episode_keys(key, 4, 20)).tolist()
    typed = episode_return(
        ClassicControl("CartPole-v1"), MLP((4, 2)), MLP((4, 2)).init(key), jax.random.split(jax.random.key(0), 3)
    )
    assert typed.returns.shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"keys": bb.key(0)}, r"one for each episode; got uint32 of shape \(2,\)"),
        ({"keys": np.zeros((0, 2), np.uint32)}, r"one for each episode; got uint32 of shape \(0, 2\)"),
        ({"steps": 0}, "steps must be an integer >= 1"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], named: str) -> None:
    given = {"keys": np.zeros((1, 2), np.uint32), **arguments}
    with pytest.raises(bb.SettingError, match=named):
        episode_return(Countdown(), still, None, **given)
    with pytest.raises(bb.SettingError, match="episodes must be an integer >= 1"):
        episode_keys(bb.key(0), 0, 0)


# ---- normalization


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_normalizer_has_the_mean_and_variance_of_what_was_acted_on(offset: float) -> None:
    """Over five generations of eight members with three episodes; also far from zero."""
    env, normalizer, seen = Countdown(offset), fresh((2,)), []
    play = jax.jit(
        jax.vmap(
            lambda params, keys, normalizer: episode_return(env, still, params, keys, normalizer=normalizer).moments,
            in_axes=(0, 0, None),
        )
    )
    for generation in range(5):
        keys = episode_keys(bb.key(generation), 0, 24).reshape(8, 3, 2)
        normalizer = merge(normalizer, play(jnp.arange(8), keys, normalizer))
        for left in 1 + keys.reshape(-1, 2)[:, 1] % 9:
            seen += [(offset + int(left) - time, offset - 0.5 * time) for time in range(int(left))]
    assert float(normalizer.count) == len(seen)
    np.testing.assert_allclose(normalizer.mean, np.mean(seen, axis=0), rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(variance(normalizer), np.var(seen, axis=0), rtol=2e-3)
    scaled = normalize(normalizer, np.asarray(seen, np.float32))
    np.testing.assert_allclose(scaled, (seen - np.mean(seen, 0)) / np.std(seen, 0), atol=2e-3)


def test_normalization_changes_nothing_before_it_has_seen_anything_and_is_bounded() -> None:
    x = np.array([[3.0, -800.0]], np.float32)
    np.testing.assert_array_equal(normalize(fresh((2,)), x), x)
    known = fresh((2,))._replace(count=np.float32(4), squares=np.float32([16.0, 0.0]))
    np.testing.assert_array_equal(normalize(known, x), [[1.5, -5.0]])
    nothing = moments(known, x, np.array([False]))
    for before, after in zip(known, merge(known, nothing), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_policy_sees_what_is_normalized_and_moments_what_is_not() -> None:
    known = fresh((2,))._replace(count=np.float32(1), mean=np.float32([1.0, 0.0]), squares=np.float32([4.0, 1.0]))
    seen: list[Any] = []

    def watched(params: Any, observation: Any) -> Any:
        jax.debug.callback(lambda x: seen.append(x.tolist()), observation)
        return jnp.zeros(3)

    played = episode_return(Countdown(), watched, None, np.array([[0, 2]], np.uint32), normalizer=known)
    jax.effects_barrier()
    assert sorted(seen, reverse=True) == [[1.0, 0.0], [0.5, -0.5], [0.0, -1.0]]
    np.testing.assert_array_equal(played.moments.deviations, [2 + 1 + 0, 0 - 0.5 - 1.0])
    np.testing.assert_array_equal(played.moments.squares, [4 + 1 + 0, 0.25 + 1.0])


# ---- policies


def test_network_begins_as_the_source_has_it() -> None:
    policy = MLP((100, 200, 50), std=2.0, last_std=0.1)
    params = policy.init(bb.key(0))
    assert [matrix.shape for matrix, _ in params] == [(100, 200), (200, 50)]
    assert sum(matrix.size + bias.size for matrix, bias in params) == policy.dimension
    for (matrix, bias), std in zip(params, (2.0 / 10, 0.1 / 200**0.5), strict=True):
        assert float(matrix.std()) == pytest.approx(std, rel=0.03)
        assert not bias.any()
    x = jnp.linspace(-1, 1, 100)
    expected = jnp.tanh(x @ params[0][0]) @ params[1][0]
    np.testing.assert_allclose(policy(params, x.reshape(4, 5, 5)), expected, atol=1e-6)
    flat = np.stack([np.concatenate([np.ravel(part) for layer in params for part in layer])] * 3)
    np.testing.assert_allclose(policy.outputs(flat, np.tile(x, (3, 2, 1)))[2, 1], expected, atol=1e-5)
    for sizes in ((4,), [4, 2], (4, 0)):
        with pytest.raises(bb.SettingError, match="sizes"):
            MLP(sizes)  # type: ignore[arg-type]


# ---- environments of others


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_copies_of_gymnasium_play_as_one_does(name: str) -> None:
    pytest.importorskip("gymnasium")
    from blackbox.problems.gymnasium_episodes import Copies

    task, keys = ControlTask(name, hidden=(4,)), episode_keys(bb.key(5), 0, 2)
    population = np.random.default_rng(0).normal(size=(3, task.dimension))
    policy = MLP(task.policy.sizes)
    scale = task.policy.scaled(np.ones(policy.sizes[0]), np.float64, np)
    with Copies(name, 6) as copies:
        played = copies.play(lambda params, seen: policy.outputs(params, seen * scale), population, keys)
        again = copies.play(
            lambda params, seen: policy.outputs(params, seen * scale),
            population,
            keys,
            normalizer=fresh((policy.sizes[0],)),
        )
        short = copies.play(lambda params, seen: policy.outputs(params, seen * scale), population, keys, steps=7)
        with pytest.raises(bb.SettingError, match="6 copies for 2 members with 2 episodes"):
            copies.play(policy.outputs, population[:2], keys)
    for i, member in enumerate(population):
        for j, key in enumerate(keys):
            alone = task.play(member, int(key[0]))
            assert played.returns[i, j] == pytest.approx(alone.rewards.sum(), rel=1e-3)
            assert abs(int(played.steps[i, j]) - len(alone.rewards)) <= 1
            np.testing.assert_allclose(played.behaviour[i, j], alone.observations[-1], rtol=0.05, atol=0.05)
    np.testing.assert_array_equal(again.returns, played.returns)
    assert int(again.moments.count) == played.steps.sum()
    assert (short.steps == 7).all()


def test_gymnasium_environments_that_do_not_fit_are_named() -> None:
    pytest.importorskip("gymnasium")
    from blackbox.problems.gymnasium_episodes import Copies

    with pytest.raises(bb.SettingError, match="env must have arrays as observations; Blackjack-v1 has not"):
        Copies("Blackjack-v1", 2)
    with pytest.raises(bb.SettingError, match="copies must be an integer >= 1"):
        Copies("CartPole-v1", 0)


def test_an_environment_of_gymnax_is_as_ours() -> None:
    pytest.importorskip("gymnax")
    name = "MountainCarContinuous-v0"
    theirs, ours = Gymnax(name), ClassicControl(name)
    assert (theirs.observation_shape, theirs.action, theirs.steps) == (ours.observation_shape, ours.action, ours.steps)
    state, seen = theirs.reset(jnp.asarray(bb.key(0)))
    inner = tuple(seen)  # the observation is the state
    theirs_step, our_step = jax.jit(theirs.step), jax.jit(ours.step)
    for _ in range(30):
        action = jnp.sign(inner[1])[None]
        state, seen, reward, is_over = theirs_step(state, action)
        inner, expected, given, ends = our_step(inner, action)
        expected = expected * np.array(ours.deviation) + np.array(ours.center)
        np.testing.assert_allclose(seen, expected, rtol=1e-3, atol=1e-4)
        assert float(reward) == pytest.approx(float(given), abs=1e-3)
        assert bool(is_over) == bool(ends)


def test_an_environment_of_gymnax_draws_its_luck_from_the_key() -> None:
    pytest.importorskip("gymnax")
    env = Gymnax("Catch-bsuite")
    assert env.action == Discrete(3)
    policy = MLP((int(np.prod(env.observation_shape)), 3))
    play = jax.jit(lambda keys: episode_return(env, policy, policy.init(bb.key(0)), keys))
    played, again = play(episode_keys(bb.key(0), 0, 16)), play(episode_keys(bb.key(0), 0, 16))
    np.testing.assert_array_equal(played.returns, again.returns)
    assert set(played.returns.tolist()) == {-1.0, 1.0}
    with pytest.raises(bb.SettingError, match="env must be an environment of gymnax; got 'Chess'"):
        Gymnax("Chess")


def test_unknown_environments_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(bb.SettingError, match="env must be one of CartPole-v1"):
        ClassicControl("Walker")
    for module, kind in (("gymnax", Gymnax), ("brax", Brax)):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(bb.MissingExtra, match=rf"blackbox-engine\[{module}\]"):
            kind("ant")


@pytest.mark.filterwarnings("ignore")  # brax's own, and those of what it imports
def test_environments_of_brax_are_played() -> None:
    pytest.importorskip("brax.envs")
    env = Brax("inverted_pendulum", backend="positional", steps=20)
    assert (env.observation_shape, env.action) == ((4,), Continuous((-1.0,), (1.0,)))
    policy = MLP((4, 1))
    played = jax.jit(lambda params: episode_return(env, policy, params, episode_keys(bb.key(0), 0, 2)))(
        policy.init(bb.key(0))
    )
    assert (played.returns == played.steps).all()
    with pytest.raises(bb.SettingError, match="'octopus'"):
        Brax("octopus")
