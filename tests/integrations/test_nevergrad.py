"""Optimizers for nevergrad: nevergrad's own tests that apply, and what is promised beyond them."""

from __future__ import annotations

import inspect
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_kind import every_kind

import blackbox as bb

pytest.importorskip("nevergrad")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nevergrad as ng
    from nevergrad.optimization import test_optimizerlib as own_tests
    from nevergrad.optimization import test_suggest as own_suggestion_tests

    from blackbox.integrations.nevergrad import BlackboxOptimizer, Parametrized, to_parametrization

REGISTRY = ng.optimizers.registry
NAMES = [name for name in REGISTRY if name.startswith("Blackbox")]
SLOW = ("Blackbox:ego", "Blackbox:turbo")
pytestmark = pytest.mark.filterwarnings("ignore")  # nevergrad's


def mixed() -> Any:
    return ng.p.Instrumentation(
        ng.p.Array(shape=(2,)).set_bounds(-1, 1),
        lr=ng.p.Log(lower=1e-4, upper=1.0),
        layers=ng.p.Scalar(lower=1, upper=6).set_integer_casting(),
        kind=ng.p.Choice(["a", "b", "c"]),
    )


def mixed_loss(x: Any, lr: float, layers: int, kind: str) -> float:
    return float(np.sum((x - 0.3) ** 2) + abs(np.log10(lr / 0.01)) + abs(layers - 3) + (kind != "b"))


def seeded(name: str, parametrization: Any, budget: int, seed: int = 0, workers: int = 1) -> Any:
    optimizer = REGISTRY[name](parametrization, budget=budget, num_workers=workers)
    optimizer.parametrization.random_state = np.random.RandomState(seed)  # after it was made, as nevergrad's users do
    return optimizer


def test_all_methods_of_flat_spaces_are_registered() -> None:
    flat = {name for name, method in bb.methods().items() if "virtual" not in method.tags}
    assert set(NAMES) == {"Blackbox"} | {f"Blackbox:{name}" for name in flat}


@pytest.mark.parametrize("name", NAMES)
def test_nevergrads_check_of_optimizers(name: str) -> None:
    verify = name not in (*SLOW, "Blackbox:random", "Blackbox:sobol", "Blackbox:ns-es")  # which seeks novelty
    own_tests.check_optimizer(REGISTRY[name], 40 if name in SLOW else 300, verify_value=verify)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "check",
    [
        own_tests.test_optim_pickle,
        own_tests.test_parametrization_offset,
        own_tests.test_mo_with_nan,
        own_suggestion_tests.test_optimizers_suggest,
    ],
)
def test_nevergrads_own_tests(check: Any, name: str) -> None:
    np.random.seed(0)
    inspect.unwrap(check)(name)


@pytest.mark.parametrize("name", ["Blackbox", "Blackbox:cat-cma", "Blackbox:nelder-mead"])
def test_random_constraints_and_several_losses(name: str) -> None:
    inspect.unwrap(own_tests.test_mo_constrained)(name)
    optimizer = seeded(name, ng.p.Array(shape=(2,)), 60, seed=12)
    chance = np.random.default_rng(0)
    optimizer.parametrization.register_cheap_constraint(lambda _: bool(chance.random() > 0.8))
    optimizer.minimize(lambda x: [float(np.sum((x - 1) ** 2)), float(np.sum((x + 1) ** 2))])
    optimizer.tell(optimizer.parametrization.spawn_child(new_value=np.ones(2)), [0.0, 8.0])
    assert optimizer.num_tell == 61 <= optimizer._running.evaluations  # what breaks a constraint is told, too
    assert optimizer.pareto_front()


def test_better_than_nevergrads_choice_on_a_mixed_space() -> None:
    def median(name: str) -> float:
        found = [seeded(name, mixed(), 60, seed).minimize(mixed_loss) for seed in range(3)]
        return float(np.median([mixed_loss(*r.args, **r.kwargs) for r in found]))

    assert median("Blackbox") < 0.1 < median("NGOpt")


@pytest.mark.parametrize("parametrization", [mixed, lambda: ng.p.Array(shape=(3,))])
@pytest.mark.parametrize("name", ["Blackbox", "Blackbox:cat-cma", "Blackbox:nelder-mead", "Blackbox:l-shade"])
def test_a_seed_decides_everything_also_through_dump_and_load(name: str, parametrization: Any, tmp_path: Path) -> None:
    """At any moment: with candidates out, in the middle of a generation, and with points from outside."""

    def course(dumps: bool) -> list[Any]:
        optimizer = seeded(name, parametrization(), 60, seed=3, workers=3)
        order, seen, waiting = np.random.default_rng(0), [], []
        for step in range(60):
            while len(waiting) < 3:
                waiting.append(optimizer.ask())
                seen.append(waiting[-1].get_standardized_data(reference=optimizer.parametrization).tolist())
            if dumps and step % 4 == 3:
                optimizer._waiting_elsewhere = waiting  # candidates go with their optimizer
                optimizer.dump(tmp_path / "optimizer.pickle")
                optimizer = REGISTRY[name].load(tmp_path / "optimizer.pickle")
                waiting = optimizer._waiting_elsewhere
            candidate = waiting.pop(int(order.integers(3)))
            value = np.sum(candidate.get_standardized_data(reference=optimizer.parametrization) ** 2)
            optimizer.tell(candidate, math.nan if step % 9 == 5 else float(value))
            if step == 20:
                outside = optimizer.parametrization.spawn_child()
                optimizer.tell(outside, 0.5)
        return seen

    first = course(dumps=False)
    assert course(dumps=False) == first
    assert course(dumps=True) == first


def test_an_optimizer_can_be_pickled_before_it_has_begun() -> None:
    optimizer = pickle.loads(pickle.dumps(seeded("Blackbox", ng.p.Array(shape=(2,)), 200)))  # noqa: S301
    assert np.abs(optimizer.minimize(lambda x: float(np.sum((x - 0.5) ** 2))).value - 0.5).max() < 1e-2


@pytest.mark.parametrize("name", ["Blackbox", "Blackbox:cma-es", "Blackbox:quadratic"])
def test_constraint_violations(name: str) -> None:
    """The sphere's best feasible point is (0.5, 0.5); quadratic falls back on nevergrad's penalties."""
    optimizer = seeded(name, ng.p.Array(shape=(2,)).set_bounds(-2, 2), 300)
    found = optimizer.minimize(
        lambda x: float(np.sum(x**2)), constraint_violation=[lambda x: 1 - x[0] - x[1], lambda x: x[0] - 5]
    )
    assert found.value.sum() >= 1
    assert np.sum(found.value**2) < (0.55 if name != "Blackbox:quadratic" else 0.8)


def test_cheap_constraints_are_kept_by_all_candidates() -> None:
    parametrization = ng.p.Array(shape=(2,)).set_bounds(-1, 1)
    parametrization.register_cheap_constraint(on_the_right)
    optimizer = seeded("Blackbox:cma-es", parametrization, 200)
    values = []
    for _ in range(200):
        candidate = optimizer.ask()
        values.append(candidate.value)
        optimizer.tell(candidate, float(np.sum(candidate.value**2)))
    assert all(on_the_right(value) for value in values)
    assert np.sum(optimizer.recommend().value ** 2) < 0.05


def on_the_right(x: Any) -> bool:
    return bool(x[0] > 0.2)


def test_noisy_functions_get_the_recommendation_of_the_method() -> None:
    parametrization = ng.p.Array(shape=(3,)).set_bounds(-1, 1)
    parametrization.function.deterministic = False
    optimizer, noise = seeded("Blackbox:cma-es", parametrization, 600), np.random.default_rng(0)
    found = optimizer.minimize(lambda x: float(np.sum((x - 0.3) ** 2) + 0.3 * noise.normal())).value
    assert np.sum((found - 0.3) ** 2) < 0.1
    assert not any(np.allclose(found, value.parameter.value) for value in optimizer.archive.values())


def test_workers_and_executors() -> None:
    optimizer = seeded("Blackbox:cma-es", ng.p.Array(shape=(4,)), 400, workers=6)
    candidates = [optimizer.ask() for _ in range(30)]
    assert len({candidate.value.tobytes() for candidate in candidates}) == 30
    assert np.abs(optimizer.minimize(lambda x: float(np.sum((x - 1) ** 2))).value - 1).max() < 0.05


def test_configured_optimizers() -> None:
    configured = BlackboxOptimizer("cma-es", {"popsize": 5, "restarts": "none"})
    assert repr(configured) == "BlackboxOptimizer(method='cma-es', settings={'popsize': 5, 'restarts': 'none'})"
    assert configured(3, budget=10)._running.popsize == 5
    with pytest.raises(bb.SettingError, match="method"):
        BlackboxOptimizer("cma")
    with pytest.raises(bb.SettingError, match="popsise"):
        BlackboxOptimizer("cma-es", {"popsise": 5})


# ---- converters


def everything() -> Any:
    return ng.p.Tuple(
        mixed(),
        ng.p.Log(lower=1, upper=64).set_integer_casting(),
        ng.p.Dict(
            several=ng.p.Choice([1, 2, 3], repetitions=2),
            ordered=ng.p.TransitionChoice([1, 2, 4, 8]),
            unordered=ng.p.TransitionChoice([1, 2, 4], ordered=False),
            nested=ng.p.Choice([ng.p.Dict(g=ng.p.Scalar(lower=0, upper=1)), ng.p.Log(lower=1, upper=2), None]),
            constant="k",
        ),
        ng.p.Array(init=[0.5, 0.2]).set_bounds(0, 1, method="arctan"),
        2 * ng.p.Scalar(lower=0, upper=1) + 1,
        ng.p.Scalar(lower=1, upper=4).set_mutation(exponent=2.0),
    )


def close(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(v == pytest.approx(b[n], abs=1e-9) for n, v in a.items())


def test_points_become_values_and_come_back() -> None:
    parametrization = everything()
    converted, rng = Parametrized(parametrization), np.random.default_rng(0)
    for point in converted.space.decode_many(rng.random((30, converted.space.dimension))):
        assert close(converted.point(converted.candidate(point)), point)
    for _ in range(30):
        sample = parametrization.sample()
        point = converted.point(sample)
        assert converted.space.explain(point) is None
        assert close(converted.point(converted.candidate(point)), point)


def test_variables_have_the_scale_and_the_kind_of_the_parameters() -> None:
    converted = Parametrized(mixed())
    assert converted.space == bb.Space(
        {
            "0[0]": bb.Float(-1, 1),
            "0[1]": bb.Float(-1, 1),
            "lr": bb.Float(*converted_range(converted, "lr"), log=True),
            "layers": bb.Int(1, 6),
            "kind": bb.Choice([0, 1, 2]),
        }
    )
    assert converted_range(converted, "lr") == pytest.approx((1e-4, 1.0))
    assert converted.candidate({"0[0]": 0, "0[1]": 1, "lr": 0.1, "layers": 2, "kind": 1}).kwargs == {
        "lr": pytest.approx(0.1), "layers": 2, "kind": "b",
    }  # fmt: skip


def converted_range(converted: Parametrized, name: str) -> tuple[float, float]:
    variable: Any = converted.space.dimensions[name]
    return variable.low, variable.high


@pytest.mark.parametrize(
    ("parametrization", "message"),
    [
        (lambda: ng.p.Scalar(), "between two bounds"),
        (lambda: ng.p.Array(shape=(2,)).set_bounds(0, None, method="clipping"), "between two bounds"),
        (lambda: ng.p.Tuple(1, "a"), "something to vary"),
        (lambda: ng.p.Choice([ng.p.Scalar(lower=0, upper=1), 2], repetitions=2), "repetitions"),
        (lambda: {"x": 1}, "a parameter of nevergrad"),
    ],
)
def test_what_a_space_cannot_express_is_refused(parametrization: Any, message: str) -> None:
    with pytest.raises(bb.SpaceError, match=message):
        Parametrized(parametrization())


def test_a_space_as_a_parametrization() -> None:
    space = every_kind(1, True, None)
    parametrization = to_parametrization(space)
    for point in space.decode_many(np.random.default_rng(0).random((40, space.dimension))):
        value = parametrization.spawn_child(new_value=point).value
        assert close(value, point)
        assert type(value["c"]) is type(point["c"])
    for _ in range(40):
        assert space.explain(parametrization.sample().value) is None
    found = seeded("OnePlusOne", parametrization, 200).minimize(lambda p: abs(p["x"] - 0.3) + (p["k"] != "rbf")).value
    assert found["k"] == "rbf" and abs(found["x"] - 0.3) < 0.05 and space.contains(found)
    with pytest.raises(bb.SpaceError, match="Float, Int, Bool or Choice"):
        to_parametrization({"p": bb.Permutation(3)})
