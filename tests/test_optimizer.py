"""The shell: what is asked, what may be told and when, and that the course depends on nothing else."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from recorder import D, Injectable, Positional, Recorder, make, sphere, state_digest

from blackbox.errors import BudgetExhausted, SettingError, SpaceError, TellError, UnknownCandidate
from blackbox.es.cma_es import CMAES
from blackbox.optimizer import Candidate, Optimizer
from blackbox.shell.auto import choose_method
from blackbox.space import Bool, Box, Choice, Float, Int, Permutation, Space

# --- asking -----------------------------------------------------------------------------------------------------


def test_candidates_are_native_and_their_ids_are_unique():
    space = Space({"a": Float(1e-3, 10, log=True), "n": Int(1, 5), "b": Bool(), "c": Choice(["x", "y"])})
    optimizer = Optimizer(space, "cma-es", seed=0)
    candidates = [optimizer.ask(), *optimizer.ask(30)]
    assert len({candidate.id for candidate in candidates}) == 31
    for candidate in candidates:
        assert candidate.status == "asked"
        assert candidate.value is None
        assert {name: type(value) for name, value in candidate.x.items()} == {"a": float, "n": int, "b": bool, "c": str}
        assert space.contains(candidate.x)
        assert str(candidate.id) in repr(candidate)


def test_box_candidates_are_arrays():
    candidate = make().ask()
    assert candidate.x.shape == (D,)
    assert candidate.x.dtype == np.float64


def test_a_dictionary_is_a_space_and_the_start_is_its_center():
    optimizer = Optimizer({"x": Float(0, 10), "n": Int(0, 4)}, "cma-es", seed=0)
    assert optimizer.recommend() == {"x": 5.0, "n": 2}
    optimizer = Optimizer({"x": Float(0, 10), "n": Int(0, 4)}, "cma-es", seed=0, x0={"x": 7.5, "n": 1})
    assert optimizer.recommend() == {"x": 7.5, "n": 1}


def test_asking_one_by_one_or_in_batches_gives_the_same_candidates():
    singly, batched = make(), make()
    first = [singly.ask() for _ in range(25)]
    second = [*batched.ask(3), batched.ask(), *batched.ask(21)]
    for a, b in zip(first, second, strict=True):
        assert a.id == b.id
        assert np.array_equal(a.x, b.x)


def test_same_seed_same_course_and_other_seed_another():
    def best(seed):
        optimizer = make(seed=seed)
        for _ in range(60):
            candidate = optimizer.ask()
            optimizer.tell(candidate, sphere(candidate.x))
        return optimizer.best.value

    assert best(5) == best(5)
    assert len({best(seed) for seed in range(20)}) == 20


def test_a_seed_that_was_drawn_repeats_the_run():
    first = make(seed=None)
    second = make(seed=first.seed)
    assert np.array_equal(first.ask().x, second.ask().x)
    assert make(seed=None).seed != first.seed


def test_the_budget_counts_what_is_told_and_what_is_waited_for():
    optimizer = make(budget=10)
    assert optimizer.left == 10
    candidates = optimizer.ask(6)
    optimizer.tell(candidates[:2], [1.0, 2.0])
    assert optimizer.left == 4
    before = state_digest(optimizer)
    with pytest.raises(BudgetExhausted, match=r"n must be at most 4 .* got 5"):
        optimizer.ask(5)
    assert state_digest(optimizer) == before
    optimizer.ask(4)
    with pytest.raises(BudgetExhausted):
        optimizer.ask()
    optimizer.budget = 11
    assert optimizer.ask().id == (0, 10)


def test_forgotten_candidates_are_left_and_asked_for_again():
    optimizer = make(budget=20)
    late = optimizer.ask(8)
    optimizer.tell(late[1:], [1.0] * 7)
    candidates = optimizer.ask(9)
    optimizer.tell(candidates[2], 1.0)
    optimizer.forget([late[0], *candidates[1:5], candidates[2]])
    assert optimizer.left == 20 - 8 - 5
    assert [candidate.id for candidate in optimizer.ask(4)] == [(1, 1), (1, 3), (1, 4), (1, 9)]
    with pytest.raises(UnknownCandidate):
        optimizer.tell(late[0], 1.0)
    before = state_digest(optimizer)
    for wrong in ([candidates[0], make().ask()], [candidates[0], 3], candidates[0]):
        with pytest.raises(TellError, match="candidates"):
            optimizer.forget(wrong)
    assert state_digest(optimizer) == before
    optimizer.tell(candidates[0], 1.0)


@pytest.mark.parametrize("n", [0, -1, 1.0, "2", True, None.__class__])
def test_ask_takes_positive_integers(n):
    with pytest.raises(SettingError, match="n must be"):
        make().ask(n)


# --- generations ------------------------------------------------------------------------------------------------


def test_the_order_and_the_batches_of_tells_do_not_matter():
    """Figure R4."""
    rng = np.random.default_rng(0)
    digests = set()
    for _ in range(200):
        optimizer = make()
        for _ in range(3):
            candidates = optimizer.ask(optimizer.popsize)
            order = rng.permutation(len(candidates))
            cuts = np.sort(rng.integers(0, len(order) + 1, rng.integers(0, 4)))
            for part in np.split(order, cuts):
                batch = [candidates[i] for i in part]
                values = [sphere(c.x) if c.id[1] != 2 else float("nan") for c in batch]
                if len(batch) == 1 and rng.random() < 0.5:
                    optimizer.tell(batch[0], values[0])
                else:
                    optimizer.tell(batch, values)
        digests.add(state_digest(optimizer))
    assert len(digests) == 1
    assert optimizer.generation == 3


def test_a_generation_closes_with_any_popsize_results_sorted_by_member():
    strategy = Recorder()
    optimizer = make(strategy)
    candidates = optimizer.ask(7)
    for i in (6, 1, 5, 0):
        assert optimizer.generation == 0
        optimizer.tell(candidates[i], float(i))
    assert optimizer.generation == 1
    ((population, fitness),) = strategy.log
    assert fitness.tolist() == [0, 1, 5, 6]
    assert np.array_equal(population, np.stack([candidates[i]._row for i in (0, 1, 5, 6)]))


def test_results_told_together_enter_together():
    strategy = Recorder()
    optimizer = make(strategy)
    optimizer.tell(optimizer.ask(11), np.arange(11.0))
    assert [len(fitness) for _, fitness in strategy.log] == [11]


def test_stragglers_do_not_block_and_late_results_count_for_the_best_only():
    strategy = Recorder()
    optimizer = make(strategy)
    slow, *quick = optimizer.ask(5)
    optimizer.tell(quick, [3.0, 2.0, 1.0, 2.0])
    assert optimizer.generation == 1
    optimizer.tell(slow, -5.0)
    assert optimizer.best.id == slow.id
    assert optimizer.evaluations == 5
    optimizer.tell(optimizer.ask(4), [0.0] * 4)
    assert [len(fitness) for _, fitness in strategy.log] == [4, 4]


def test_late_results_and_points_from_outside_join_the_next_tell_of_an_injectable_method():
    strategy = Injectable()
    optimizer = make(strategy)
    slow, *quick = optimizer.ask(5)
    optimizer.tell(quick, [3.0, 2.0, 1.0, 2.0])
    optimizer.tell(slow, -5.0)
    optimizer.tell([0.0, 0.5, 1.0], 7.0)
    optimizer.tell(optimizer.ask(4), [0.0] * 4)
    population, fitness = strategy.log[1]
    assert fitness.tolist() == [0, 0, 0, 0, 7, -5]
    assert np.allclose(population[4], [0.5, 0.75, 1.0])
    assert np.array_equal(population[5], slow._row)
    optimizer.tell(optimizer.ask(4), [0.0] * 4)
    assert len(strategy.log[2][1]) == 4


@pytest.mark.parametrize("last", [3, 7])
def test_a_positional_method_is_told_the_first_member_of_each_slot(last):
    strategy = Positional()
    optimizer = make(strategy)
    candidates = optimizer.ask(10)
    for i in (1, 5, 9, 4, 2, last):  # 4 has the slot of 0
        assert optimizer.generation == 0
        optimizer.tell(candidates[i], float(i))
    ((population, fitness),) = strategy.log
    assert fitness.tolist() == [4, 1, 2, last]
    assert np.array_equal(population, np.stack([candidates[i]._row for i in (4, 1, 2, last)]))


def test_a_sequential_method_waits_for_the_point_that_is_due():
    strategy = Positional(popsize=1)
    optimizer = make(strategy)
    due, *others = optimizer.ask(400)
    optimizer.tell(others[-150:], np.arange(150.0))  # 249 others are still out
    optimizer.tell(others[:50], np.arange(50.0))
    assert optimizer.generation == 0
    optimizer.tell(due, 7.0)
    ((population, fitness),) = strategy.log
    assert fitness.tolist() == [7]
    assert np.array_equal(population, due._row[None])


def test_a_sequential_method_takes_a_point_for_lost_at_last():
    strategy = Positional(popsize=1)
    optimizer = make(strategy)
    _, *others = optimizer.ask(40)
    for candidate in others[:32]:
        optimizer.tell(candidate, 1.0)
        assert optimizer.generation == 0
    optimizer.tell(others[32], 1.0)
    assert optimizer.generation == 1
    assert np.array_equal(strategy.log[0][0], others[0]._row[None])


def test_a_slow_evaluation_does_not_send_nelder_mead_astray():
    """Half of what else is out comes before each due point, and the course is the serial one."""
    serial, parallel = (Optimizer(Box(-1, 1, 2), "nelder-mead", seed=0, restarts="none") for _ in range(2))
    for _ in range(40):
        serial.tell(candidate := serial.ask(), sphere(candidate.x))
        due, *others = parallel.ask(101)
        parallel.tell(others[50:], [sphere(candidate.x) for candidate in others[50:]])
        parallel.tell(due, sphere(due.x))
        assert np.array_equal(serial.recommend(), parallel.recommend())
    assert sphere(serial.recommend()) < 1e-3


def test_nelder_mead_converges_with_evaluations_that_run_ahead():
    optimizer = Optimizer(Box(-1, 1, 2), "nelder-mead", seed=0, restarts="none")
    rng = np.random.default_rng(0)
    waiting = optimizer.ask(3)
    for _ in range(300):
        candidate = waiting.pop(rng.integers(len(waiting)))
        optimizer.tell(candidate, sphere(candidate.x))
        waiting.append(optimizer.ask())
    assert optimizer.best.value < 1e-10


def test_cma_es_converges_with_eight_evaluations_at_once_in_random_order():
    optimizer = make(restarts="none")
    rng = np.random.default_rng(0)
    waiting = optimizer.ask(8)
    for _ in range(900):
        candidate = waiting.pop(rng.integers(len(waiting)))
        optimizer.tell(candidate, sphere(candidate.x))
        waiting.append(optimizer.ask())
    assert optimizer.best.value < 1e-8


def test_maximizing_the_negative_is_the_same_course():
    low, high = make(), make(direction="maximize")
    for _ in range(80):
        a, b = low.ask(), high.ask()
        assert np.array_equal(a.x, b.x)
        low.tell(a, sphere(a.x))
        high.tell(b, -sphere(b.x))
    assert high.best.value == -low.best.value
    assert np.array_equal(high.best.x, low.best.x)


def test_the_best_is_the_first_asked_of_equals_and_a_copy():
    optimizer = make("random", popsize=4)
    candidates = optimizer.ask(4)
    for i in (3, 1, 2, 0):
        optimizer.tell(candidates[i], 1.0)
    assert optimizer.best.id == (0, 0)
    assert np.array_equal(optimizer.best.x, candidates[0].x)
    candidates[0].x[:] = 99
    assert optimizer.best.x.max() <= 1
    assert optimizer.best is optimizer.best


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"method": "cma"}, "method must be one of.*did you mean"),
        ({"method": CMAES}, "method must be"),
        ({"method": 3}, "method must be"),
        ({"method": CMAES(), "popsize": 10}, "popsize"),
        ({"popsize": 1}, "popsize must be"),
        ({"pop": 10}, "no hyperparameter 'pop'.*did you mean 'popsize'"),
        ({"sigma0": -1.0}, "sigma0 must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"seed": True}, "seed must be"),
        ({"seed": 2**64}, "seed must be"),
        ({"budget": 0}, "budget must be"),
        ({"budget": 10.0}, "budget must be"),
        ({"direction": "up"}, "direction must be"),
        ({"restarts": "often"}, "restarts must be"),
        ({"method": "random", "restarts": "same"}, "restarts must be"),
        ({"method": "nelder-mead", "restarts": "ipop"}, "restarts must be.*popsize"),
        ({"nonfinite": "drop"}, "nonfinite must be"),
        ({"if_told": "drop"}, "if_told must be"),
        ({"allow_neg_inf": 1}, "allow_neg_inf must be"),
        ({"durability": "power"}, "durability must be"),
    ],
)
def test_settings_are_checked(arguments, named):
    with pytest.raises(SettingError, match=named):
        make(**arguments)


def test_space_and_start_are_checked():
    with pytest.raises(SpaceError, match="space must be"):
        Optimizer([0, 1], "cma-es")
    with pytest.raises(SpaceError, match="x0 must be"):
        make(x0=[2.0] * D)
    with pytest.raises(SpaceError, match="x0 must be"):
        make(x0={"x": 1})


def test_a_strategy_instance_is_the_method():
    named, given_ready = make(popsize=9, sigma0=0.3), make(CMAES(popsize=9, sigma0=0.3))
    assert np.array_equal(named.ask().x, given_ready.ask().x)
    assert given_ready.method == "cma-es"


@pytest.mark.parametrize(("method", "name"), [("sobol", "popsize"), ("cma-es", "sigma0"), ("l-shade", "evaluations")])
def test_none_is_the_default_of_a_hyperparameter(method, name):
    plain, given = (make(method, budget=40, **arguments) for arguments in ({}, {name: None}))
    for _ in range(40):
        a, b = plain.ask(), given.ask()
        assert np.array_equal(a.x, b.x)
        plain.tell(a, sphere(a.x))
        given.tell(b, sphere(b.x))
    with pytest.raises(SettingError, match="no hyperparameter 'popsiz'"):
        make(method, popsiz=None)


def test_numpy_numbers_and_arrays_are_numbers_and_tuples():
    assert make("cat-cma", layout=[["float"], ["int", np.array([0.5])], ["float"]]).ask()
    optimizer = make(seed=np.uint64(7), budget=np.int64(20), popsize=np.int64(6))
    assert optimizer.seed == 7
    assert optimizer.ask(np.int64(20))


@pytest.mark.parametrize(
    ("space", "budget", "method"),
    [
        (Box(0, 1, 2), None, "lq-cma-es+quadratic"),
        (Box(0, 1, 2), 50, "quadratic"),
        (Box(0, 1, 2), 51, "lq-cma-es+quadratic"),
        (Box(0, 1, 12), 10_000, "lq-cma-es+quadratic"),
        (Box(0, 1, 20), 10_000, "quadratic+lq-cma-es"),
        (Box(0, 1, 21), 10_000, "cma-es"),
        (Box(0, 1, 200), 10_000, "cma-es"),
        (Box(0, 1, 201), None, "lm-ma-es"),
        (Box(0, 1, 1000), 1000, "sep-cma-es"),
        (Box(0, 1, 10), 15, "sobol"),
        (Space({"x": Float(0, 1), "n": Int(1, 5)}), 500, "ego"),
        (Space({"x": Float(0, 1), "n": Int(1, 5)}), 501, "cat-cma"),
        (Space({f"n{i}": Int(1, 5) for i in range(21)}), 200, "cat-cma"),
        (Space({"x": Float(0, 1), "n": Int(1, 10**6), "p": Permutation(4)}), 200, "lq-cma-es+quadratic"),
        (Space({"x": Float(0, 1), "c": Choice(["a", "b"])}), None, "cat-cma"),
        (Space({"x": Float(0, 1)}), 30, "lq-cma-es+quadratic"),
    ],
)
def test_auto_is_a_documented_rule(space, budget, method):
    choice = choose_method(space, budget)
    assert choice.method == method
    assert f"``{method}``" in choose_method.__doc__


def test_auto_follows_how_many_evaluations_there_are_at_once():
    assert Optimizer(Box(0, 1, 4), parallel=4, seed=0).method == "lq-cma-es+quadratic"
    assert Optimizer(Box(0, 1, 4), parallel=5, seed=0).method == "cma-es"
    assert Optimizer(Box(0, 1, 4), parallel=math.inf, seed=0).method == "cma-es"
    for parallel in (0, 2.5, -1, True, "2", math.nan):
        with pytest.raises(SettingError, match=r"parallel must be an integer >= 1 or math\.inf; got"):
            Optimizer(Box(0, 1, 4), parallel=parallel)


def test_explain_says_what_and_why():
    text = Optimizer({"x": Float(0, 1), "y": Float(0, 1)}, budget=55, seed=3).explain()
    for part in (
        "lq-cma-es+quadratic",
        "turn of lq-cma-es, after 0 and 0",
        "2 continuous coordinates",
        "rough",
        "budget: 55",
        "seed: 3",
    ):
        assert part in text


# --- many at once -------------------------------------------------------------------------------------------------


def test_threads_may_ask_and_tell():
    optimizer = make(budget=600)
    failures = []

    def work():
        try:
            while True:
                candidate = optimizer.ask()
                optimizer.tell(candidate, sphere(candidate.x))
        except BudgetExhausted:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert optimizer.evaluations == 600
    assert optimizer.left == 0
    assert optimizer.best.value < 1e-2


def test_memory_does_not_grow_with_tells():
    """Figure R14: 10,000 tells grow by less than 50 MB / 100."""
    optimizer = make("random")

    def tell(n):
        for _ in range(n):
            optimizer.tell(optimizer.ask(), 1.0)

    tell(3000)  # caches of noise fill up
    tracemalloc.start()
    tell(100)
    before = tracemalloc.get_traced_memory()[0]
    tell(10_000)
    growth = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert growth < 500_000


def test_jax_is_not_imported():
    code = (
        "import sys; from blackbox.optimizer import Optimizer; from blackbox.space import Box\n"
        "o = Optimizer(Box(0, 1, 3), seed=0)\n"
        "for _ in range(20): o.tell(o.ask(), 1.0)\n"
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_candidate_is_exported():
    assert isinstance(make().ask(), Candidate)
