"""Deep GA: selection as in the paper, validated elites, lineages and their sums, and runs that go on."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import blackbox as bb
from blackbox.errors import CheckpointError, SettingError, TellError
from blackbox.ga import DeepGA, OffspringPopulation, compact, rescaled, restore, sensitivity_scale
from blackbox.ga.deep_ga import DeepGAState
from blackbox.problems.control import JaxControl
from blackbox.virtual import Leaf

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32)
SMALL: dict[str, Any] = {"popsize": 12, "truncation": 4, "sigma": 0.05, "n_candidates": 3, "generations": 12}


def params() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "in": jnp.asarray(rng.normal(size=(4, 9)) / 2, jnp.float32),
        "bias": jnp.full(9, 0.25, jnp.float32),
        "out": jnp.asarray(rng.normal(size=(9, 2)) / 3, jnp.float32),
        "steps": jnp.arange(2),
    }


def outputs(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p["in"] + p["bias"]) @ p["out"]


def loss(p: Any) -> jax.Array:
    return jnp.mean((outputs(p, X) - jnp.sin(3 * X[:, :2])) ** 2)


def advanced(strategy: DeepGA, state: DeepGAState, generations: int) -> DeepGAState:
    for _ in range(generations):
        population = strategy.ask(state)
        state = strategy.tell(state, population, bb.evaluate(loss, population))
    return state


def started(strategy: DeepGA, generations: int = 0, seed: int = 0) -> DeepGAState:
    return advanced(strategy, strategy.init(bb.key(seed), params()), generations)


def itself(p: Any) -> Any:
    return p


def assert_same_bits(first: Any, second: Any) -> None:
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def lineages(population: OffspringPopulation) -> set[bytes]:
    return {np.asarray(row).tobytes() for row in population.seeds}


def seeds_of(individuals: Any, rows: Any) -> list[bytes]:
    return [np.asarray(individuals.seeds[row]).tobytes() for row in rows]


# ---- selection


def test_parents_are_the_best_offspring() -> None:
    strategy = DeepGA(**SMALL)
    state = started(strategy, 2)
    population = strategy.ask(state)
    fitness = np.asarray(bb.evaluate(loss, population))
    state = strategy.tell(state, population, fitness)
    order = np.argsort(fitness)
    assert_array_equal(state.kept.seeds[1:], population.seeds[order[:4]])
    children = strategy.ask(state._replace(elite=jnp.asarray(2)))
    parents = {row.tobytes() for row in np.asarray(population.seeds[order[:4]])}
    begin = np.asarray(children.seeds).copy()
    begin[np.arange(12), np.asarray(children.depth) - 1] = 0
    assert {row.tobytes() for row in begin} <= parents


def test_an_elite_that_is_no_parent_takes_the_first_place_and_the_last_goes() -> None:
    strategy = DeepGA(**SMALL | {"popsize": 400, "n_candidates": 7})
    state = started(strategy, 3)
    for elite, expected in ((0, {0, 1, 2, 3}), (3, {1, 2, 3, 4}), (4, {1, 2, 3, 4}), (7, {7, 1, 2, 3})):
        slots = np.asarray(strategy.ask(state._replace(elite=jnp.asarray(elite))).slots)
        found, counts = np.unique(slots, return_counts=True)
        assert {*found.tolist()} == expected
        assert counts.min() > 65  # of 100 each: a chance of 1e-5 with uniform choices


def test_the_best_so_far_is_never_lost_without_noise() -> None:
    strategy = DeepGA(**SMALL | {"sigma": 0.5})
    state, reached = started(strategy), []
    for _ in range(10):
        state = advanced(strategy, state, 1)
        found = loss(strategy.recommend(state))
        assert_allclose(found, state.elite_fitness, rtol=1e-5)
        reached.append(float(state.elite_fitness))
    assert reached == sorted(reached, reverse=True)
    assert reached[-1] < reached[0]


def test_mutations_are_those_of_the_paper() -> None:
    strategy = DeepGA(
        popsize=400, truncation=4, n_candidates=3, sigma=0.05, generations=12, initial={"out": 0.1, "*": 1.0}
    )
    population = strategy.ask(started(strategy))
    stacked = bb.evaluate(itself, population)
    assert_allclose(np.std(stacked["in"]), 1 / 4**0.5, rtol=0.05)  # anew for each, by fan-in
    assert_allclose(np.std(stacked["out"]), 0.1 / 9**0.5, rtol=0.05)
    assert_allclose(np.std(stacked["bias"], axis=0), 0, atol=1e-7)
    state = strategy.tell(started(strategy), population, bb.evaluate(loss, population))
    children = strategy.ask(state)
    parents = bb.evaluate(itself, strategy.individuals(state, state.kept, children.slots))
    steps = jax.tree.map(lambda x, y: x - y, bb.evaluate(itself, children), parents)
    for name in ("in", "bias", "out"):
        assert_allclose(np.std(steps[name]), 0.05, rtol=0.05)
    assert np.all(steps["steps"] == 0)


def test_no_parents_is_random_search() -> None:
    strategy = DeepGA(**SMALL | {"truncation": 0})
    state, best = started(strategy), np.inf
    seen: set[bytes] = set()
    for _ in range(3):
        population = strategy.ask(state)
        assert np.all(np.asarray(population.depth) == 1)
        assert not seen & lineages(population)
        seen |= lineages(population)
        fitness = bb.evaluate(loss, population)
        best = min(best, float(jnp.min(fitness)))
        state = strategy.tell(state, population, fitness)
    assert float(state.elite_fitness) == best


def test_a_schedule_gives_each_mutation_its_own_power() -> None:
    strategy = DeepGA(**SMALL | {"initial": None, "sigma": lambda generation: 0.1 / (1 + generation)})
    population = strategy.ask(started(strategy, 3))
    for sigmas, depth in zip(np.asarray(population.sigmas), np.asarray(population.depth), strict=True):
        assert sigmas[depth - 1] == np.float32(0.1 / 4)
        assert np.all(np.diff(sigmas[:depth]) < 0)
        assert np.all(sigmas[depth:] == 0)


def test_adapted_powers_are_inherited() -> None:
    strategy = DeepGA(**SMALL | {"popsize": 400, "adaptation": 0.2})
    state = started(strategy)
    for generation in range(3):
        population = strategy.ask(state)
        state = strategy.tell(state, population, jnp.arange(400.0))
        if generation == 0:
            assert np.all(np.asarray(population.powers) == 1)
        else:
            parents = population.parents.sigmas[population.slots, generation - 1]
            inherited = np.full(400, 0.05) if generation == 1 else np.asarray(parents)
            ratio = np.log(np.asarray(population.powers) / inherited)
            assert_allclose((ratio.mean(), ratio.std()), (0, 0.2), atol=0.03)


# ---- validation


def test_the_candidates_are_the_best_offspring_and_the_former_elite() -> None:
    strategy = DeepGA(**SMALL)
    with pytest.raises(TellError, match="before a generation is told"):
        strategy.candidates(started(strategy))
    state = started(strategy, 1)
    assert seeds_of(strategy.candidates(state), range(3)) == seeds_of(state.kept, (1, 2, 3))
    state = strategy.tell_candidates(state, strategy.candidates(state), np.array([3.0, 1.0, 2.0]))
    assert int(state.elite) == 2
    elite = seeds_of(state.kept, [2])
    state = advanced(strategy, state, 1)
    assert seeds_of(strategy.candidates(state), range(3)) == [*seeds_of(state.kept, (1, 2)), *elite]


def test_reevaluation_replaces_a_lucky_elite_and_keeps_no_old_score() -> None:
    strategy = DeepGA(**SMALL)
    state = started(strategy)
    lucky = strategy.tell(state, strategy.ask(state), jnp.arange(12.0).at[5].set(-1e6))
    assert float(lucky.elite_fitness) == -1e6
    candidates = strategy.candidates(lucky)
    episodes = np.array([[9.0, 11.0], [1.0, 2.0], [4.0, 5.0]])  # the lucky one comes first
    honest = strategy.tell_candidates(lucky, candidates, episodes)
    assert int(honest.elite) == 2
    assert_same_bits(strategy.recommend(honest), candidates[1])
    # Neither the lucky value nor the mean of the elite holds a later one back.
    later = strategy.tell(honest, strategy.ask(honest), 100 + jnp.arange(12.0))
    assert int(later.elite) == 1
    assert float(later.elite_fitness) == 100
    # Members may be told in any order.
    order = np.array([2, 0, 1])
    assert_same_bits(strategy.tell_candidates(lucky, candidates.take(order), episodes[order]), honest)


def test_recommended_is_the_elite_of_the_generation_whose_candidates_were_best() -> None:
    strategy = DeepGA(**SMALL)
    state = started(strategy)
    recommended = []
    for scores in ([4.0, 4.0, 1.0], [2.0, 2.0, 2.0], [0.0, 9.0, 9.0], [np.nan, -9.0, 0.0]):
        state = advanced(strategy, state, 1)
        state = strategy.tell_candidates(state, strategy.candidates(state), np.array(scores))
        recommended.append(strategy.recommended(state).genome(0))
        if scores[0] == 2.0:
            second = strategy.recommended(state).genome(0)
            assert_same_bits(
                strategy.recommended(state)[0], strategy.individuals(state, state.kept, state.elite[None])[0]
            )
    assert recommended[0] != second
    assert recommended[1:] == [second] * 3
    assert np.isfinite(state.best_mean)


def test_validated_generations_are_programs() -> None:
    strategy = DeepGA(**SMALL)

    def generation(state: DeepGAState, _: None) -> tuple[DeepGAState, None]:
        population = strategy.ask(state)
        state = strategy.tell(state, population, bb.evaluate(loss, population))
        candidates = strategy.candidates(state)
        return strategy.tell_candidates(state, candidates, bb.evaluate(loss, candidates)), None

    state = started(strategy)
    scanned = jax.jit(lambda state: jax.lax.scan(generation, state, None, length=3)[0])(state)
    for _ in range(3):
        state = generation(state, None)[0]
    assert_array_equal(scanned.kept.seeds, state.kept.seeds)
    assert_allclose(scanned.best_mean, state.best_mean, rtol=1e-6)


# ---- lineages and their sums


def test_with_and_without_the_parents_at_hand_runs_are_the_same() -> None:
    cached, alone = (DeepGA(**SMALL, cached=cached) for cached in (True, False))
    states = [started(strategy, 5) for strategy in (cached, alone)]
    assert_same_bits(states[0].kept[:3], states[1].kept[:3])
    assert_same_bits(states[0].elite_fitness, states[1].elite_fitness)
    assert states[1].kept.changes == ()
    populations = [strategy.ask(state) for strategy, state in zip((cached, alone), states, strict=True)]
    for i in range(3):
        assert_same_bits(populations[0][i], populations[1][i])
        assert_same_bits(populations[0].uncached[i], populations[0][i])
    assert_same_bits(cached.recommend(states[0]), alone.recommend(states[1]))


def test_no_member_replays_its_lineage() -> None:
    """A generation's noise is one draw for each member, however long the lineages are."""
    texts = []
    for generations in (37, 401):  # no other axis is as long
        strategy = DeepGA(**SMALL | {"generations": generations})
        population = strategy.ask(started(strategy))
        rows = jax.eval_shape(lambda p: p.changes_of(p.rows), population)
        texts.append(str(jax.make_jaxpr(lambda p: p.changes_of(p.rows))(population)).replace(f",{generations}]", ",L]"))
        assert [x.shape for x in rows] == [(12, 9), (12, 4, 9), (12, 9, 2)]
    assert texts[0] == texts[1]


def test_runs_are_longer_than_what_lineages_keep() -> None:
    long, short = (DeepGA(**SMALL | {"generations": generations}) for generations in (12, 3))
    states = [started(strategy, 6) for strategy in (long, short)]
    assert_same_bits(states[0].kept.changes, states[1].kept.changes)
    assert_array_equal(
        states[1].kept.seeds[1], np.asarray(states[0].kept.seeds[1])[int(states[0].kept.depth[1]) - 3 :][:3]
    )
    with pytest.raises(SettingError, match="of which the last 3 are kept; set generations"):
        short.ask(states[1]).genome(0)
    with pytest.raises(SettingError, match="of which 3 are kept"):
        compact(short, states[1])
    alone = DeepGA(**SMALL | {"generations": 2, "cached": False})
    with pytest.raises(TellError, match="ends after 2 generations"):
        started(alone, 3)


def test_populations_without_their_parents_are_small() -> None:
    strategy = DeepGA(**SMALL)
    big = {"w": jnp.zeros((300, 300))}
    population = strategy.ask(strategy.init(bb.key(0), big))
    assert len(pickle.dumps(population.uncached)) - len(pickle.dumps(big)) < 4000
    copy = pickle.loads(pickle.dumps(population.uncached))  # noqa: S301
    assert_same_bits(copy[3], population[3])


def test_frozen_leaves_and_leaves_of_other_scale() -> None:
    strategy = DeepGA(**SMALL, initial=None, policy={"in": Leaf(noise="frozen"), "bias": Leaf(scale=3.0)})
    population = strategy.ask(started(strategy))
    moved = population.noise(0)
    assert np.all(moved["in"] == 0)
    assert np.std(moved["bias"]) > np.std(moved["out"])
    with pytest.raises(SettingError, match="dense noise or none, got low rank for in"):
        DeepGA(policy={"in": Leaf(rank=1)}).init(bb.key(0), params())


# ---- going on


def test_a_killed_run_goes_on_from_some_kilobytes() -> None:
    strategy = DeepGA(popsize=60, truncation=20, sigma=0.05)
    state = started(strategy)
    step = jax.jit(lambda state, fitness: strategy.tell(state, strategy.ask(state), fitness))
    for generation in range(100):
        fitness = np.random.default_rng(generation).permutation(60).astype(np.float32)  # selection by chance
        state = step(state, fitness)
    data = compact(strategy, state)
    assert len(data) < 10_000
    again = restore(strategy, data, params())
    assert_same_bits(again, state)
    assert_same_bits(strategy.ask(again), strategy.ask(state))


@pytest.mark.parametrize("settings", [{}, {"cached": False}])
def test_states_are_restored_in_every_bit(settings: dict[str, Any]) -> None:
    strategy = DeepGA(**SMALL | settings)
    for state in (started(strategy), started(strategy, 3)):
        assert_same_bits(restore(strategy, compact(strategy, state), params()), state)


def test_what_is_no_state_of_the_run_is_refused() -> None:
    strategy = DeepGA(**SMALL)
    data = compact(strategy, started(strategy, 2))
    for wrong in (data[:-1], data[:40], b"", data[:60] + bytes([data[60] ^ 1]) + data[61:]):
        with pytest.raises(CheckpointError, match="cut off or damaged"):
            restore(strategy, wrong, params())
    with pytest.raises(CheckpointError, match="begins with"):
        restore(strategy, strategy.ask(started(strategy)).genome(0), params())
    with pytest.raises(SettingError, match="noise, initial and scale"):
        restore(dataclasses.replace(strategy, noise="sign"), data, params())
    with pytest.raises(SettingError, match="truncation, n_candidates and generations"):
        restore(dataclasses.replace(strategy, truncation=7), data, params())
    with pytest.raises(SettingError, match="template: in differs"):
        restore(strategy, data, params() | {"in": jnp.zeros((4, 9), jnp.bfloat16)})


# ---- safe mutations


def test_sensitivities_are_the_written_ones() -> None:
    weights = {name: params()[name] for name in ("in", "bias", "out")}
    jacobian = jax.jit(jax.vmap(jax.jacrev(outputs), (None, 0)))(weights, X)
    for method, over in (("sum", lambda j: jnp.sum(j, 0)), ("abs", lambda j: jnp.mean(jnp.abs(j), 0))):
        scale = sensitivity_scale(outputs, params(), X, method=method)  # type: ignore[arg-type]
        for name in ("in", "bias", "out"):
            s = np.sqrt(np.sum(np.square(over(jacobian[name])), axis=0))
            assert_allclose(scale[name], 1 / np.maximum(s, 0.01), rtol=1e-4)
        assert_array_equal(scale["steps"], params()["steps"])
    zeros = sensitivity_scale(lambda p, x: x @ p["a"] * 1e-4, {"a": jnp.ones(4), "b": jnp.ones(3)}, X)
    assert_array_equal(zeros["b"], 1)
    assert np.all(np.asarray(zeros["a"]) == 100)


def test_scaled_mutations_change_the_outputs_of_all_members_alike() -> None:
    scale = sensitivity_scale(outputs, params(), X, method="abs")
    strategy = DeepGA(**SMALL, initial=None, scale=scale)
    plain = dataclasses.replace(strategy, scale=None)
    noise, scaled = (s.ask(started(s)).noise(1) for s in (plain, strategy))
    for name in ("in", "bias", "out"):
        assert_allclose(scaled[name], noise[name] * scale[name], rtol=1e-5)
    population = strategy.ask(started(strategy))
    decoded = bb.ga.decode(population.genome(0), params(), scale=scale)
    assert_allclose(decoded["in"], population[0]["in"], rtol=1e-6)
    with pytest.raises(SettingError, match="scale must be the strategy's"):
        bb.ga.decode(population.genome(0), params())
    with pytest.raises(SettingError, match="goes with initial=None"):
        DeepGA(scale=scale)
    with pytest.raises(SettingError, match=r"scale of in must be of shape \(4, 9\)"):
        DeepGA(initial=None, scale=scale | {"in": jnp.ones(3)}).init(bb.key(0), params())


def test_rescaled_mutations_reach_the_target() -> None:
    strategy = DeepGA(**SMALL)
    state = started(strategy, 1)
    population = rescaled(strategy.ask(state), outputs, X, 0.01)
    parents = strategy.individuals(state, state.kept, population.slots)
    change = bb.evaluate(outputs, population, X) - bb.evaluate(outputs, parents, X)
    assert_allclose(np.mean(np.square(change), axis=(1, 2)), 0.01, rtol=0.02)
    state = strategy.tell(state, population, bb.evaluate(loss, population))
    own = strategy.recommended(state)
    assert_same_bits(bb.ga.decode(own.genome(0), params()), own[0])
    first = strategy.ask(started(strategy))
    assert_array_equal(rescaled(first, outputs, X, 0.01, rounds=1).powers, 1)


# ---- use


def test_cart_pole_is_learned() -> None:
    task = JaxControl("CartPole-v1", hidden=(8,), episodes=1)
    strategy = DeepGA(popsize=32, truncation=8, sigma=0.3, n_candidates=32)  # all: one program for both
    begin = {"in": jnp.zeros((4, 8)), "bias": jnp.zeros(8), "out": jnp.zeros((8, 2))}

    def cost(p: Any, starts: jax.Array) -> jax.Array:
        def network(x: jax.Array) -> jax.Array:
            return jnp.tanh(x @ p["in"] + p["bias"]) @ p["out"]

        return jnp.mean(jax.vmap(lambda start: task.cost(network, start))(starts))

    state = strategy.init(bb.key(0), begin)
    for generation in range(5):
        for purpose in range(2):
            starts = np.concatenate([task.starts(100 * generation + 10 * purpose + i) for i in range(4)])
            population = strategy.candidates(state) if purpose else strategy.ask(state)
            tell = strategy.tell_candidates if purpose else strategy.tell
            state = tell(state, population, bb.evaluate(cost, population, jnp.asarray(starts, jnp.float32)))
    held_out = np.concatenate([task.starts(10_000 + i) for i in range(20)])
    assert float(cost(strategy.recommend(state), jnp.asarray(held_out, jnp.float32))) <= -475


def test_wrong_settings_are_named() -> None:
    for settings, message in (
        ({"popsize": 10}, "truncation must be at most popsize 10, got 20"),
        ({"n_candidates": 1}, "n_candidates must be an integer >= 2"),
        ({"sigma": 0.0}, "sigma must be"),
        ({"initial": 0.0}, "initial must be"),
        ({"noise": "normal_fast"}, "noise must be one of normal, binom8, sign, uniform"),
    ):
        with pytest.raises(SettingError, match=message):
            DeepGA(**settings)
    with pytest.raises(SettingError, match=r"initial: \['head\*'\] match no leaf"):
        DeepGA(initial={"head*": 0.1}).init(bb.key(0), params())
    strategy = DeepGA(**SMALL)
    state = started(strategy)
    population = strategy.ask(state)
    with pytest.raises(TellError, match=r"with n >= 4, got float32 of shape \(3,\)"):
        strategy.tell(state, population.take([0, 1, 2]), jnp.zeros(3))
    other = strategy.ask(strategy.init(bb.key(0), {"w": jnp.ones((2, 2))}))
    with pytest.raises(TellError, match="one of this state's"):
        strategy.tell(state, other, jnp.zeros(12))
    with pytest.raises(TellError, match=r"of shape \(3,\) or \(3, episodes\)"):
        strategy.tell_candidates(started(strategy, 1), strategy.candidates(started(strategy, 1)), np.zeros(2))
