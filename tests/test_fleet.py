"""The fleet of Ray workers: exactness, deaths, drift, hangs; and its parts without Ray."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray_cluster import RAYS_OWN, local_ray
from shifted_sphere import sphere

import blackbox as bb
from blackbox import fleet as fleet_module
from blackbox import replica as replica_module
from blackbox.fleet import Fleet, Share
from blackbox.replica import Replica, digest, fitness_of

pytestmark = RAYS_OWN


def start(popsize: int = 12) -> tuple[Any, Any]:
    strategy = bb.es.SNES(popsize=popsize)
    return strategy, strategy.init(bb.key(1), np.zeros(5))


def alone(strategy: Any, state: Any, objective: Callable[[Any], float], generations: int) -> Any:
    """The state after some generations of the plain loop."""
    for _ in range(generations):
        population = strategy.ask(state)
        state = strategy.tell(state, population, np.array([objective(x) for x in population]))
    return state


# ---- without Ray


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 3), st.integers(1, 5), st.randoms(use_true_random=False))
def test_each_member_is_finished_once_whatever_dies(
    members: int, batch: int, retries: int, workers: int, chance: random.Random
) -> None:
    share = Share(members, batch, retries)
    busy: list[tuple[int, ...]] = []
    given: Counter[int] = Counter()
    finished: Counter[int] = Counter()
    deadly = {i for i in range(members) if chance.random() < 0.2}
    while not share.complete:
        while len(busy) < workers and (ids := share.take()):
            assert len(ids) <= batch
            given.update(ids)
            busy.append(ids)
        ids = busy.pop(chance.randrange(len(busy)))
        if deadly & set(ids):
            share.lost(ids, "died")
        else:
            finished.update(ids)
            share.done(ids, [(float(i), "") for i in ids])
    assert not busy and not share.take()
    assert set(finished) == set(range(members)) - set(share.failures) and set(finished.values()) <= {1}
    assert max(given.values()) <= retries + 1
    if retries:  # who shared a batch with a deadly one is not given up for it
        assert set(share.failures) == deadly and set(share.failures.values()) <= {"died"}
    assert np.array_equal(np.flatnonzero(np.isnan(share.fitness)), sorted(share.failures))
    assert all(share.fitness[i] == i for i in finished)


def test_what_hangs_alone_is_not_given_out_again() -> None:
    share = Share(3, 3, retries=5)
    share.lost(share.take(), "slow", hung=True)
    assert share.take() == (0,)
    share.lost((0,), "slow", hung=True)
    assert share.failures == {0: "slow"} and share.take() == (1,)


def test_replicas_follow_by_fitness_alone() -> None:
    strategy, state = start()
    here, there = (Replica((strategy, sphere), 0, state) for _ in range(2))
    for generation in range(3):
        outcomes = here.evaluate(generation, range(6), ()) + there.evaluate(generation, range(6, 12), ())
        fitness = np.array([value for value, _ in outcomes])
        assert here.tell(fitness) == there.tell(fitness)
    assert digest(3, here.state) == digest(3, alone(strategy, state, sphere, 3)) == here.presence()[0]
    with pytest.raises(bb.WorkerError, match="generation 2 was asked for, this is generation 3"):
        here.evaluate(2, [0], ())


def test_workers_repeat_the_steps_of_gradient_estimates() -> None:
    import optax

    def objective(params: Any, shift: float) -> float:
        return float(np.sum(np.asarray(params["w"], float) ** 2)) + shift

    params = {"w": jnp.asarray([[0.5, -1.0, 2.0]]), "classes": jnp.arange(2)}
    strategy = bb.zo.ZO(bb.zo.CGE(central=False), optax.sgd(0.1))
    expected = strategy.init(bb.key(0), params)
    worker = Replica((strategy, objective), 0, expected)
    for generation in range(2):
        population = strategy.ask(expected)
        fitness = np.array([objective(population[i], 0.5) for i in range(4)])
        expected = strategy.tell(expected, population, jnp.asarray(fitness))
        assert worker.evaluate(generation, range(4), (0.5,)) == [(value, "") for value in fitness]
        assert worker.tell(fitness)[0] == digest(generation + 1, expected)
    assert not np.array_equal(expected.params["w"], params["w"])


def test_digest_sees_every_bit_and_only_values(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"b": (np.arange(6.0).reshape(2, 3), None), "a": [np.float32(1), 3], "f": sphere}
    same = {"f": sphere, "a": [np.float32(1), 3], "b": (np.asfortranarray(state["b"][0]), None)}
    assert digest(0, state) == digest(0, same)
    assert digest(0, jnp.ones(3, jnp.bfloat16)) != digest(0, jnp.ones(3, jnp.float16))
    flipped = state["b"][0].copy()
    flipped[1, 2] = np.nextafter(flipped[1, 2], 9)
    others = [{**state, "b": (flipped, None)}, {**state, "a": [np.float32(1), 4]}, {**state, "a": [np.float64(1), 3]}]
    digests = {digest(0, state), digest(1, state), *(digest(0, other) for other in others)}
    assert len(digests) == 5
    monkeypatch.setattr(replica_module, "_leaves", replica_module._numpy_leaves)  # as in a process without JAX
    assert digest(0, state) in digests and digest(0, same) in digests


def test_fitness_is_one_real_number() -> None:
    for value in (2, 2.0, np.float32(2), np.array(2), jnp.float32(2), jnp.bfloat16(2), np.int8(2)):
        assert fitness_of(value) == 2.0 and type(fitness_of(value)) is float
    for value in (None, True, np.True_, "2", 2j, np.ones(1), jnp.ones(2), [2.0]):
        with pytest.raises(bb.TellError, match=rf"one real number, got .*{type(value).__name__}"):
            fitness_of(value)


def test_without_ray_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(bb.MissingExtra, match=r"pip install 'blackbox-engine\[ray\]'"):
        Fleet(*start(), sphere, workers=1)


# ---- with Ray


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with local_ray(Path(__file__).parent, num_cpus=3) as ray:
        yield ray


def settle(fleet: Fleet[Any]) -> None:
    """Wait until all workers are there and in step; a generation may be over before the last has started."""
    while any(worker.call is not None for worker in fleet._workers):
        fleet._collect()


def held(ray: Any, fleet: Fleet[Any]) -> set[str]:
    """Digests of what driver and workers hold."""
    settle(fleet)
    return {fleet._digest, *(ray.get(worker.actor.presence.remote())[0] for worker in fleet._workers)}


def test_state_has_the_bits_of_the_plain_loop(ray: Any) -> None:
    strategy, state = start()

    def objective(x: Any, shift: float) -> float:
        if x[0] > 0.5:
            raise ValueError("outside")
        return sphere(x) + shift

    expected = state
    with Fleet(strategy, state, objective, workers=2, batch=2) as fleet:
        for generation in range(5):
            fitness = fleet.evaluate(float(generation))
            population = strategy.ask(expected)
            plain = np.array([np.nan if x[0] > 0.5 else objective(x, generation) for x in population])
            np.testing.assert_array_equal(fitness, plain)
            assert set(fleet.failures) == set(np.flatnonzero(np.isnan(plain)))
            assert all("ValueError: outside" in reason for reason in fleet.failures.values())
            expected = strategy.tell(expected, population, plain)
            assert digest(0, fleet.tell(fitness)) == digest(0, expected)
        assert np.isnan(plain).any() and not np.isnan(plain).all()
        assert len(held(ray, fleet)) == 1
        for wrong in (np.zeros(11), np.zeros((1, 12)), ["a"] * 12, 1.0):
            with pytest.raises(bb.TellError, match="one for each of 12 members"):
                fleet.tell(wrong)
        assert digest(0, fleet.state) == digest(0, expected)
    with pytest.raises(bb.WorkerError, match="closed"):
        fleet.evaluate()


def test_virtual_population_of_a_network(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Low-rank members, an objective in NumPy, Adam's moments in the state: parameters never leave the driver twice."""
    import optax

    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(20, 17)), jnp.float32), "b": jnp.zeros(17)}
    batch = rng.normal(size=(4, 20)).astype(np.float32)
    strategy = bb.es.Eggroll(popsize=8, sigma=0.1, optimizer=optax.adam(0.1))

    def objective(params: Any, x: np.ndarray) -> float:
        return float(np.mean(np.tanh(x @ np.asarray(params["w"]) + np.asarray(params["b"]))))

    expected = state = strategy.init(bb.key(0), params)
    for _ in range(2):
        population = strategy.ask(expected)
        fitness = jnp.asarray([objective(population[i], batch) for i in range(8)])
        expected = strategy.tell(expected, population, fitness)
    with Fleet(strategy, state, objective, workers=2) as fleet:
        settle(fleet)
        put: dict[str, int] = Counter()
        monkeypatch.setattr(fleet, "_put", lambda thing, name: put.update([name]) or Fleet._put(fleet, thing, name))
        for _ in range(2):
            fleet.tell(fleet.evaluate(batch))
            settle(fleet)
        assert put == {"args": 2}
        assert digest(0, fleet.state) == digest(0, expected)
        assert len(held(ray, fleet)) == 1


def test_killed_worker_loses_nothing_and_is_replaced(ray: Any, tmp_path: Path) -> None:
    strategy, state = start()

    def objective(x: Any) -> float:
        (tmp_path / f"{x.tobytes().hex()[:32]}-{uuid.uuid4().hex}").touch()
        if len(os.listdir(tmp_path)) > 18:  # in the second generation
            try:
                (tmp_path / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return sphere(x)

    with Fleet(strategy, state, objective, workers=2, batch=3) as fleet:
        fleet.tell(fleet.evaluate())
        with pytest.warns(RuntimeWarning, match=r"worker \d \(process .* died: .*; members .* go to others"):
            fitness = fleet.evaluate()
        assert not np.isnan(fitness).any() and not fleet.failures
        fleet.tell(fitness)
        fleet.tell(fleet.evaluate())
        assert len(held(ray, fleet)) == 1
        assert digest(0, fleet.state) == digest(0, alone(strategy, state, sphere, 3))
    count = Counter(name.split("-")[0] for name in os.listdir(tmp_path) if name != "killed")
    assert len(count) == 36 and max(count.values()) == 2 and 1 <= sum(count.values()) - 36 <= 3


def test_drifted_worker_is_found_and_brought_back(ray: Any) -> None:
    strategy, state = start()

    def corrupt(self: Replica[Any]) -> None:
        self.state = self.state._replace(mean=np.nextafter(self.state.mean, 9))

    with Fleet(strategy, state, sphere, workers=2) as fleet:
        fleet.tell(fleet.evaluate())
        settle(fleet)
        ray.get(fleet._workers[1].actor.__ray_call__.remote(corrupt))
        fleet.tell(np.arange(12.0))
        with pytest.warns(RuntimeWarning, match=r"worker 1 \(process \d+ on .*\) has drifted .* in generation 2"):
            settle(fleet)
        np.testing.assert_array_equal(fleet.evaluate(), [sphere(x) for x in strategy.ask(fleet.state)])
        assert len(held(ray, fleet)) == 1
        fleet.tell(fleet.evaluate())  # without a warning, which would be an error


def test_worker_that_starts_late_is_brought_into_step(ray: Any) -> None:
    strategy, state = start()
    with Fleet(strategy, state, sphere, workers=2) as fleet:
        fleet.tell(np.arange(12.0))  # before any worker has answered
        fleet.tell(np.arange(12.0))
        assert len(held(ray, fleet)) == 1


def test_objective_that_always_kills_stops_the_run(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(fleet_module, "DEATHS", -1)
    (tmp_path / "deadly").touch()

    def objective(x: Any) -> float:
        if (tmp_path / "deadly").exists():
            os._exit(1)
        return sphere(x)

    strategy, state = start()
    with Fleet(strategy, state, objective, workers=1) as fleet:
        with pytest.raises(bb.WorkerError, match=r"2 workers died .*; the last: worker 0"):
            fleet.evaluate()
        (tmp_path / "deadly").unlink()
        np.testing.assert_array_equal(fleet.evaluate(), [sphere(x) for x in strategy.ask(state)])
    assert len(recwarn) == 1


def test_hung_member_is_given_up(ray: Any) -> None:
    strategy, state = start(popsize=6)
    hang = strategy.ask(state)[4, 0]

    def objective(x: Any) -> float:
        if x[0] == hang:
            time.sleep(1000)
        return sphere(x)

    with Fleet(strategy, state, objective, workers=2, timeout=4) as fleet:
        with pytest.warns(RuntimeWarning, match="no result after 4 s"):
            fitness = fleet.evaluate()
        assert list(np.flatnonzero(np.isnan(fitness))) == [4] and fleet.failures == {4: "no result after 4 s"}


def test_generation_without_any_result_is_told(ray: Any) -> None:
    with Fleet(*start(), lambda x: x, workers=1) as fleet:
        with pytest.warns(
            RuntimeWarning, match=r"all 12 members failed; 0: .* must return one real number, got ndarray"
        ):
            assert np.isnan(fleet.evaluate()).all()
        assert len(fleet.failures) == 12


def test_state_that_a_worker_cannot_hold_is_an_error(ray: Any) -> None:
    strategy = bb.es.SNES(popsize=4)
    with jax.enable_x64(True):
        state = strategy.init(bb.key(1), jnp.zeros(2))
        with Fleet(strategy, state, sphere, workers=1) as fleet, pytest.raises(bb.WorkerError, match="jax_enable_x64"):
            fleet.evaluate()


def test_arguments_are_checked(ray: Any) -> None:
    strategy, state = start()
    for wrong in ({"workers": 0}, {"workers": 1, "batch": 0}, {"workers": 1, "retries": -1}, {"workers": None}):
        with pytest.raises(bb.SettingError, match="must be an integer >= "):
            Fleet(strategy, state, sphere, **wrong)
    with pytest.raises(bb.SettingError, match="timeout must be"):
        Fleet(strategy, state, sphere, workers=1, timeout=0)
    with pytest.raises(bb.SettingError, match="objective must be callable"):
        Fleet(strategy, state, 3, workers=1)  # type: ignore[arg-type]
    with pytest.raises(bb.SettingError, match="options"):
        Fleet(strategy, state, sphere, workers=1, options={"cpus": 2})
    lock = threading.Lock()
    with pytest.raises(bb.WorkerError, match="objective cannot be sent"):
        Fleet(strategy, state, lambda x: lock.locked(), workers=1)
