"""Spaces of ConfigSpace: every configuration is a point and every point a configuration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import blackbox as bb

pytest.importorskip("ConfigSpace")

import ConfigSpace

from blackbox.integrations.config_space import Configurations, to_config_space


def random_space(rng: np.random.Generator) -> Any:
    """A ConfigurationSpace in which later parameters depend on earlier ones, by all kinds of conditions."""
    space = ConfigSpace.ConfigurationSpace(seed=int(rng.integers(2**31)))
    parents: list[Any] = []
    free: set[str] = set()
    for i in range(7):
        name = f"{'zyxwvut'[i]}"  # not in the order of the alphabet
        parameter = [
            lambda n: ConfigSpace.CategoricalHyperparameter(n, ["a", "b", "c"]),
            lambda n: ConfigSpace.CategoricalHyperparameter(n, [True, False]),
            lambda n: ConfigSpace.OrdinalHyperparameter(n, ["s", "m", "l"]),
            lambda n: ConfigSpace.UniformIntegerHyperparameter(n, 1, 3),
            lambda n: ConfigSpace.UniformFloatHyperparameter(n, 1e-3, 10, log=True),
            lambda n: ConfigSpace.NormalIntegerHyperparameter(n, 5, 2, lower=0, upper=60),
            lambda n: ConfigSpace.Constant(n, "fixed"),
        ][rng.integers(4 if i < 4 else 7)](name)
        space.add(parameter)
        if parents and rng.random() < 0.8:
            chosen = [parents[j] for j in rng.permutation(len(parents))[: rng.integers(1, 3)]]
            literals = [condition(rng, parameter, parent, parent.name in free) for parent in chosen]
            joined = [ConfigSpace.AndConjunction, ConfigSpace.OrConjunction][rng.integers(2)]
            space.add(joined(*literals) if len(literals) > 1 else literals[0])
        else:
            free.add(name)
        if i < 4:
            parents.append(parameter)
    return space


def condition(rng: np.random.Generator, child: Any, parent: Any, is_free: bool) -> Any:
    values = list(getattr(parent, "choices", None) or getattr(parent, "sequence", None) or [1, 2, 3])
    if rng.random() < 0.3:
        return ConfigSpace.InCondition(child, parent, values[:2])
    kinds = [ConfigSpace.EqualsCondition]
    if is_free:  # whether an absent value differs from others, ConfigSpace 1.2 answers in two ways
        kinds.append(ConfigSpace.NotEqualsCondition)
    if not isinstance(parent, ConfigSpace.CategoricalHyperparameter):
        kinds += [ConfigSpace.LessThanCondition, ConfigSpace.GreaterThanCondition]
    return kinds[rng.integers(len(kinds))](child, parent, values[rng.integers(len(values))])


def assert_close(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Equal but for ConfigSpace's rounding of floats."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert value == (pytest.approx(b[name], abs=1e-12) if isinstance(value, float) else b[name])


@pytest.mark.parametrize("seed", range(25))
def test_configurations_are_points_and_points_are_configurations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config_space = random_space(rng)
    converted = Configurations(config_space)
    for configuration in [config_space.get_default_configuration(), *config_space.sample_configuration(30)]:
        try:
            configuration.check_valid_configuration()
        except ValueError:  # ConfigSpace 1.2 samples what it refuses where parents are conditional themselves
            continue
        point = converted.point(configuration)
        assert converted.space.explain(point) is None
        assert_close(dict(converted.configuration(point)), dict(configuration))
    for point in converted.space.decode_many(rng.random((30, converted.space.dimension))):
        configuration = converted.configuration(point)
        configuration.check_valid_configuration()
        assert_close(converted.point(configuration), point)


def test_a_search() -> None:
    config_space = ConfigSpace.ConfigurationSpace(
        {"optimizer": ["adam", "sgd"], "lr": ConfigSpace.Float("lr", (1e-5, 1.0), log=True), "momentum": (0.0, 1.0)}
    )
    config_space.add(ConfigSpace.EqualsCondition(config_space["momentum"], config_space["optimizer"], "sgd"))
    converted = Configurations(config_space)
    assert converted.space == bb.Space(
        {
            "lr": bb.Float(1e-5, 1.0, log=True),
            "optimizer": bb.Choice({"adam": None, "sgd": bb.Space({"momentum": bb.Float(0, 1)})}),
        }
    )

    def loss(point: Any) -> float:
        configuration = converted.configuration(point)
        value = abs(np.log10(configuration["lr"] / 1e-2))
        return float(value + (1 if configuration["optimizer"] == "adam" else (configuration["momentum"] - 0.9) ** 2))

    start = converted.point(config_space.get_default_configuration())
    result = bb.minimize(loss, converted.space, budget=150, seed=0, x0=start)
    assert result.value < 0.1 and converted.configuration(result.x)["optimizer"] == "sgd"


def test_independent_children_of_a_parent_do_not_multiply() -> None:
    config_space = ConfigSpace.ConfigurationSpace(
        {"on": [True, False], **{f"x{i}": ["a", "b", "c"] for i in range(12)}}
    )
    config_space.add(*(ConfigSpace.EqualsCondition(config_space[f"x{i}"], config_space["on"], True) for i in range(12)))
    assert Configurations(config_space).space.dimension == 2 + 12 * 3


def test_what_a_space_cannot_express_is_refused() -> None:
    config_space = ConfigSpace.ConfigurationSpace({"a": ["x", "y"], "b": (0.0, 1.0), "c": (0, 100), "d": (0.0, 1.0)})
    with pytest.raises(bb.SpaceError, match="ConfigurationSpace"):
        Configurations({"a": (0, 1)})
    many = ConfigSpace.ConfigurationSpace({f"p{i}": [str(j) for j in range(9)] for i in range(6)} | {"x": (0.0, 1.0)})
    many.add(
        ConfigSpace.AndConjunction(*(ConfigSpace.EqualsCondition(many["x"], many[f"p{i}"], "0") for i in range(6)))
    )
    with pytest.raises(bb.SpaceError, match="at most 10000 variables"):
        Configurations(many)
    forbidden = ConfigSpace.ConfigurationSpace({"a": ["x", "y"]})
    forbidden.add(ConfigSpace.ForbiddenEqualsClause(forbidden["a"], "y"))
    with pytest.raises(bb.SpaceError, match="free of forbidden clauses"):
        Configurations(forbidden)
    for parent, value in (("b", 0.5), ("c", 50)):
        other = ConfigSpace.ConfigurationSpace({name: config_space[name] for name in config_space})
        other.add(ConfigSpace.LessThanCondition(other["d"], other[parent], value))
        with pytest.raises(bb.SpaceError, match=rf"config_space\['{parent}'\] must be categorical"):
            Configurations(other)


# ---- the other way

leaves = st.one_of(
    st.tuples(st.integers(-50, 50), st.integers(1, 9)).map(lambda t: bb.Float(t[0] / 4, t[0] / 4 + t[1])),
    st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda t: bb.Int(t[0], t[0] + t[1], log=True)),
    st.just(bb.Bool()),
    st.lists(st.text("abc", min_size=1), min_size=1, max_size=4, unique=True).map(bb.Choice),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(leaves, min_size=9, max_size=9), st.integers(0, 2**32 - 1))
def test_points_are_the_configurations_of_the_space_that_is_made(parts: list[Any], seed: int) -> None:
    """Also of nested branches, and of names that several branches share."""
    a, b, c, d, e, f, g, h, i = parts
    inner = bb.Choice({"one": bb.Space({"c": c, "d": d}), "two": bb.Space({"c": c}), "three": None})
    other = bb.Choice({"one": bb.Space({"e": e}), "two": None, "three": bb.Space({"f": f})})
    space = bb.Space(
        {
            "a": a,
            "p": bb.Choice({"x": bb.Space({"b": b, "q": inner}), "y": bb.Space({"q": other, "g": g}), "z": None}),
            "r": bb.Choice({"u": bb.Space({"h": h}), "v": bb.Space({"h": h, "i": i})}),
        }
    )
    config_space = to_config_space(space, seed=seed)
    for point in space.decode_many(np.random.default_rng(seed).random((5, space.dimension))):
        configuration = ConfigSpace.Configuration(config_space, values=point)
        configuration.check_valid_configuration()
        assert_close(dict(configuration), point)
    for configuration in config_space.sample_configuration(5):
        point = {name: value.item() if hasattr(value, "item") else value for name, value in configuration.items()}
        assert space.explain(point) is None


def test_the_way_there_and_back() -> None:
    space = bb.Space(
        {
            "kernel": bb.Choice({"rbf": bb.Space({"gamma": bb.Float(1e-5, 10, log=True)}), "linear": None}),
            "degree": bb.Int(1, 6),
            "shrinking": bb.Choice([True, False]),
        }
    )
    assert Configurations(to_config_space(space)).space.dimensions == space.dimensions


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"p": bb.Permutation(3)}, "a Float, Int, Bool or Choice"),
        (bb.Box(0, 1, 2), "a Space, whose variables have names"),
        ({"x": bb.Float(1e-15, 1.0, log=True)}, "that ConfigSpace takes|13 decimals"),
        ({"x": bb.Float(1.00000000000001, 2.0)}, "13 decimals"),
        (
            {"a": bb.Choice({"x": bb.Space({"n": bb.Int(0, 1)}), "y": bb.Space({"n": bb.Float(0, 1)})})},
            "alike in all branches",
        ),
    ],
)
def test_what_config_space_cannot_express_is_refused(space: Any, message: str) -> None:
    with pytest.raises(bb.SpaceError, match=message):
        to_config_space(space)
