"""Every registered strategy sits the exam of ``blackbox.testing`` on every array library."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

import blackbox as bb
from blackbox import testing

# Step sizes fit the exam's sphere, which lies in the unit cube; everything else is each method's default.
SETTINGS: dict[str, dict[str, Any]] = {
    name: {"sigma0": 0.3} for name in ("cma-es", "sep-cma-es", "lm-ma-es", "snes", "pgpe", "cat-cma")
}
NAMES = sorted(bb.methods())


def build(name: str, **settings: Any) -> Any:
    return bb.create(name, **{**SETTINGS.get(name, {}), **settings})


@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize("library", ["numpy", "array_api_strict"])
@pytest.mark.parametrize("name", NAMES)
def test_law_holds(name: str, library: str, check: testing.Check) -> None:
    check(build(name), testing.start_point(library, 6, "float64"))


@pytest.mark.parametrize("name", NAMES)
def test_laws_hold_in_float32(name: str) -> None:
    testing.check_strategy(build(name), dtype="float32")


@pytest.mark.parametrize("name", NAMES)
def test_laws_hold_with_jax_arrays(name: str) -> None:
    # The laws that need no jit are library-independent text; these three see JAX's own arrays.
    x0 = testing.start_point("jax", 5, "float32")
    testing.check_shape_stable(build(name), x0)
    testing.check_ask_is_pure(build(name), x0)
    testing.check_total_on_fitness(build(name), x0)


@pytest.mark.parametrize("name", NAMES)
def test_scans_and_vmaps(name: str) -> None:
    with jax.enable_x64(True):
        testing.check_scan_and_vmap(build(name), testing.start_point("jax", 5, "float64"))


@pytest.mark.parametrize("name", NAMES)
def test_libraries_agree(name: str) -> None:
    testing.check_libraries_agree(build(name), np.full(6, 0.8))


@pytest.mark.parametrize("d", [1, 2, 33])
@pytest.mark.parametrize("name", NAMES)
def test_unusual_dimensions(name: str, d: int) -> None:
    x0 = np.full(d, 0.8)
    testing.check_shape_stable(build(name), x0)
    testing.check_total_on_fitness(build(name), x0)


@pytest.mark.parametrize("popsize", [4, 5, 7, 32])
@pytest.mark.parametrize("name", NAMES)
def test_unusual_popsizes(name: str, popsize: int) -> None:
    fields = [f.name for f in dataclasses.fields(bb.methods()[name].load())]
    if "popsize" not in fields:
        assert np.asarray(build(name).ask(build(name).init(bb.key(0), np.full(4, 0.8)))).shape[0] >= 1
        return
    try:
        strategy = build(name, popsize=popsize)
    except bb.SettingError as error:
        assert popsize % 2 == 1, error
        assert "popsize" in str(error) and "even" in str(error)
        return
    testing.check_shape_stable(strategy, np.full(5, 0.8))
    testing.check_total_on_fitness(strategy, np.full(5, 0.8))


def test_exam_catches_a_strategy_that_prefers_high_fitness() -> None:
    @dataclasses.dataclass(frozen=True)
    class Backwards:
        inner: Any

        def init(self, key: Any, x0: Any) -> Any:
            return self.inner.init(key, x0)

        def ask(self, state: Any, first: int = 0) -> Any:
            return self.inner.ask(state, first)

        def tell(self, state: Any, population: Any, fitness: Any) -> Any:
            return self.inner.tell(state, population, -fitness)

        def recommend(self, state: Any) -> Any:
            return self.inner.recommend(state)

    with pytest.raises(AssertionError, match="lower is better"):
        testing.check_strategy(Backwards(build("cma-es")))
