"""The strategy protocol, the ``@algorithm`` decorator and the registry.

A strategy is a frozen dataclass of hyperparameters with four pure functions:

* ``init(key, x0) -> state``
* ``ask(state, first=0) -> population``: members ``first`` to ``first + popsize - 1`` of this generation.
  Members from ``popsize`` on are further samples of the same distribution, for evaluations that run ahead.
* ``tell(state, population, fitness) -> state``: fitness ``(n,)``, lower is better, NaN = failed = worst. Further
  arguments are a method's own, with defaults: descriptors, in quality diversity.
* ``recommend(state) -> x``: what to return to the user.

Optional: ``stop(state)``, a dictionary from reason to a scalar boolean array; ``population_size(d)``, the popsize that
restarts go by, where ``ask`` returns parts of a generation, of a size that may change; ``dimension(state)``, the d that
populations are checked for, where no array of the state is annotated as ending in it, ``Float[Array, "popsize d"]``;
and the class attributes

* ``pure = False``: not an array program;
* ``positional = True``: member ``i`` competes with something of the method's own number ``i mod popsize``, so that
  a generation is told in member order and complete;
* ``virtual = True``: populations are around a pytree of a model's parameters, for :func:`blackbox.evaluate`;
* ``injectable = True``: points from elsewhere, and late results of former generations, may be told as further rows;
* ``generational = True``: it compares the fitness of a generation within that generation only, so that its meaning may
  change in between, as that of penalties which adapt;
* ``objectives``: how many each member has; fitness is of shape ``(n, objectives)`` if they are several;
* ``needs_values = True``: it models the values of fitness, not their order alone;
* ``batched = True``: all of its arrays may have a leading axis of runs, keys ``(runs, 2)``, start points
  ``(runs, d)`` and fitness ``(runs, n)``, and each run is as it is alone, in JAX to rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import math
import re
import sys
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar, dataclass_transform

import numpy as np

from blackbox.arrays import Array, Key, described, dtype_name, namespace
from blackbox.errors import SettingError, TellError

if TYPE_CHECKING:
    from jaxtyping import Float

S = TypeVar("S")
C = TypeVar("C", bound=type)


class Strategy(Protocol[S]):
    """What every method provides; see the module's documentation."""

    def init(self, key: Key, x0: Any) -> S: ...
    def ask(self, state: S, first: int = 0) -> Any: ...
    def tell(self, state: S, population: Any, fitness: Float[Array, "n"]) -> S: ...
    def recommend(self, state: S) -> Any: ...


@dataclass_transform(frozen_default=True, kw_only_default=True)
def algorithm(cls: C) -> C:
    """Make ``cls`` a frozen, keyword-only dataclass whose ``float`` fields are leaves of a JAX pytree.

    Fields of any other type fix shapes or code paths and are static. The class is registered with JAX when an
    instance is made after JAX was imported, so neither import order matters and JAX is never imported here.

    ``init`` and ``tell`` check the arrays that they are given. A start point in NumPy is copied, so that changing it
    afterwards does not change the state; fitness of integers or truth values becomes floats. Settings that are NumPy's
    scalars become numbers of Python, which have no precision of their own; None is refused where it is no setting.
    """
    check = cls.__dict__.get("__post_init__")

    def post_init(self: Any) -> None:
        if "jax" in sys.modules:
            register_with_jax(type(self))
        _settle(self)
        if check is not None:
            check(self)

    init, tell = cls.init, cls.tell  # type: ignore[attr-defined]

    @functools.wraps(init)
    def checked_init(self: Any, key: Key, x0: Any) -> Any:
        if getattr(self, "batched", False) and len(getattr(x0, "shape", ())) == 2:
            _require_keys(key, x0)
            x0 = _own(x0)
        else:
            require_key(key)
            x0 = x0 if getattr(self, "virtual", False) else _start_point(x0)
        return init(self, key, x0)

    dimension = getattr(cls, "dimension", None)
    if not callable(dimension):
        dimension = _annotated_dimension

    @functools.wraps(tell)
    def checked_tell(self: Any, state: Any, population: Any, fitness: Any, *more: Any, **named: Any) -> Any:
        if hasattr(population, "dtype"):
            _require_width(population, dimension(self, state))
        fitness = _told_fitness(population, fitness, getattr(self, "objectives", 1))
        return tell(self, state, population, fitness, *more, **named)

    cls.init, cls.tell = checked_init, checked_tell  # type: ignore[attr-defined]
    cls.__post_init__ = post_init  # type: ignore[attr-defined]
    made: C = dataclasses.dataclass(frozen=True, kw_only=True)(cls)  # type: ignore[assignment]
    return made


def register_with_jax(cls: type) -> None:
    """Make the ``@algorithm`` class ``cls`` a pytree; does nothing the second time."""
    if cls in _registered or not dataclasses.is_dataclass(cls):
        return
    import jax

    numeric = (float, float | None, "float", "float | None")
    leaves = [f.name for f in dataclasses.fields(cls) if f.type in numeric]
    static = [f.name for f in dataclasses.fields(cls) if f.name not in leaves]

    def flatten(strategy: Any) -> tuple[Any, Any]:
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(strategy, name)) for name in leaves]
        return keyed, tuple(getattr(strategy, name) for name in static)

    def unflatten(aux: Any, children: Any) -> Any:
        # Not through the constructor: JAX puts placeholders into trees, which no check would pass.
        strategy = object.__new__(cls)
        for name, value in zip(leaves + static, [*children, *aux], strict=True):
            object.__setattr__(strategy, name, value)
        return strategy

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    _registered.add(cls)


_registered: set[type] = set()


_PLAIN = re.compile(r"float|int|str|bool|Literal\[.*\]")  # annotations of settings that None is none of


def _settle(strategy: Any) -> None:
    """Make settings that are NumPy's scalars Python's; raise :class:`SettingError` for None where it is no setting."""
    for field in dataclasses.fields(strategy):
        if not field.init:
            continue
        value = getattr(strategy, field.name)
        kind = getattr(field.type, "__name__", str(field.type))
        if isinstance(value, np.generic):
            number = float(value) if isinstance(value, np.floating) else value.item()  # a longdouble's item is itself
            object.__setattr__(strategy, field.name, number)
        elif value is None and field.default is not None and _PLAIN.fullmatch(kind):
            default = "" if field.default is dataclasses.MISSING else f", by default {field.default!r}"
            raise SettingError(f"{field.name} must be of type {kind}{default}; got None")


def _annotated_dimension(_: Any, state: Any) -> int | None:
    """The length of points, by the first array of ``state`` whose annotation ends in d; None if there is none."""
    kind = type(state)
    if kind not in _widths:
        _widths[kind] = _name_of_width(state)
    shape = getattr(getattr(state, _widths[kind], None), "shape", ())
    return shape[-1] if shape else None


_widths: dict[type, str] = {}


def _name_of_width(state: Any) -> str:
    """The attribute that is annotated as ``Float[Array, "n d"]``; or nothing."""
    for kind in type(state).__mro__:
        try:
            annotations = inspect.get_annotations(kind)
        except NameError:  # they are evaluated only now, with names that exist for type checkers alone
            annotations = {}
        for name, annotation in annotations.items():
            if hasattr(getattr(state, name, None), "shape") and re.search(r"[\"' ]d[\"']\]", str(annotation)):
                return name
    return ""


def _require_width(population: Any, d: int | None) -> None:
    """Raise :class:`TellError` unless the rows of ``population`` are points of ``d`` coordinates."""
    if d is not None and (len(population.shape) < 2 or population.shape[-1] != d):
        raise TellError(f"population must have rows of {d} numbers, as x0; got {described(population)}")


def require_key(key: Key) -> None:
    """Raise :class:`SettingError` unless ``key`` is two 32-bit words."""
    if getattr(key, "shape", None) != (2,) or dtype_name(key) != "uint32":
        raise SettingError(f"key must be two uint32 words, as made by bb.key(seed); got {described(key)}")


def _require_keys(keys: Key, x0: Any) -> None:
    """Raise :class:`SettingError` unless there is a key for each of the start points."""
    if getattr(keys, "shape", None) != (x0.shape[0], 2) or dtype_name(keys) != "uint32":
        raise SettingError(f"key must be one of bb.key for each of {x0.shape[0]} runs; got {described(keys)}")
    if min(x0.shape) < 1 or not namespace(x0).isdtype(x0.dtype, "real floating"):
        raise SettingError(f"x0 must be floating-point numbers of shape (runs, d), d >= 1; got {described(x0)}")


def _start_point(x0: Any) -> Any:
    """``x0`` as it enters a state; trees of parameters pass."""
    if not hasattr(x0, "dtype"):
        return x0
    if len(x0.shape) != 1 or x0.shape[0] < 1 or not namespace(x0).isdtype(x0.dtype, "real floating"):
        raise SettingError(f"x0 must be floating-point numbers of shape (d,) with d >= 1; got {described(x0)}")
    return _own(x0)


def _own(x0: Any) -> Any:
    """A copy of what may be changed later."""
    return x0.copy() if isinstance(x0, np.ndarray) else x0


def _told_fitness(population: Any, fitness: Any, objectives: int) -> Any:
    """``fitness`` as floats, one for each member of ``population`` and, if there are several, each objective; a
    virtual one may have several for each."""
    if not hasattr(population, "dtype"):
        if getattr(fitness, "shape", ())[:1] != (len(population),):
            raise TellError(
                f"fitness must be an array with an entry for each of the {len(population)} members, "
                f"got {described(fitness)}"
            )
        return fitness
    rows = tuple(population.shape[: max(1, population.ndim - 1)])
    n = rows[-1]
    due, numbers = (rows, "one number") if objectives == 1 else ((*rows, objectives), f"{objectives} numbers")
    if getattr(fitness, "shape", None) != due or n < 1:
        expected = f"{numbers} for each of the {n} rows of population" if n else "of a population of at least one row"
        raise TellError(f"fitness must be an array, {expected}; got {described(fitness)}")
    if fitness.dtype == population.dtype:
        return fitness
    xp = namespace(fitness)
    if xp.isdtype(fitness.dtype, "real floating"):
        return fitness  # of its own precision, so that close values are still told apart
    if xp.isdtype(fitness.dtype, ("bool", "integral")):
        return xp.astype(fitness, population.dtype)
    raise TellError(f"fitness must be real numbers; got {described(fitness)}")


def require_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    low: float | None = None,
    high: float | None = None,
    infinite: bool = False,
) -> None:
    """Raise :class:`SettingError` unless ``value`` is a real number in the range, finite unless it may be ``infinite``.

    ``None`` (a default to be derived) and arrays, traced or not, pass; NumPy's scalars are numbers.
    """
    if value is None or (hasattr(value, "shape") and not isinstance(value, np.generic)):
        return
    bounds = [f"> {above}"] * (above is not None) + [f">= {low}"] * (low is not None)
    kind = "a number" if infinite else "a finite number"
    allowed = " and ".join([kind, *bounds, *[f"<= {high}"] * (high is not None)])
    fits = (not math.isnan(value) if infinite else math.isfinite(value)) if isinstance(value, Real) else False
    number = fits and not isinstance(value, bool)
    if (
        not number
        or (above is not None and not value > above)
        or (low is not None and value < low)
        or (high is not None and value > high)
    ):
        raise SettingError(f"{name} must be {allowed}, got {value!r}")


def require_integer(name: str, value: Any, *, low: int, even: bool = False, optional: bool = True) -> None:
    """Raise :class:`SettingError` unless ``value`` is an integer of at least ``low``, or None where that is allowed."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low or (even and value % 2):
        raise SettingError(f"{name} must be an{' even' if even else ''} integer >= {low}, got {value!r}")


def require_bool(name: str, value: object) -> None:
    """Raise :class:`SettingError` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise SettingError(f"{name} must be True or False, got {value!r}")


def require_one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise :class:`SettingError` unless ``value`` is one of those allowed."""
    if value not in allowed:
        raise SettingError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")


def require_box(low: object, high: object) -> None:
    """Raise :class:`SettingError` unless both are finite numbers and ``low < high``; arrays, traced or not, pass."""
    require_number("low", low)
    require_number("high", high)
    if isinstance(low, Real) and isinstance(high, Real) and not low < high:
        raise SettingError(f"low must be below high = {high!r}, got {low!r}")


def require_order(low_name: str, low: object, name: str, value: object) -> None:
    """Raise :class:`SettingError` if ``value`` is below ``low``; arrays, traced or not, pass."""
    if isinstance(low, Real) and isinstance(value, Real) and value < low:
        raise SettingError(f"{name} must be at least {low_name} = {low!r}, got {value!r}")


class Method(NamedTuple):
    """One line of the registry."""

    name: str
    path: str
    """``module:Class``, imported on use."""
    tags: frozenset[str]
    source: str
    """Where the method is from."""

    def load(self) -> Any:
        """The class."""
        module, _, attribute = self.path.partition(":")
        return getattr(importlib.import_module(module), attribute)


class _Registry:
    """Built-in methods, and those that other packages offer as entry points ``blackbox.strategies``."""

    builtin: ClassVar[dict[str, Method]] = {}

    @classmethod
    def all(cls) -> dict[str, Method]:
        from importlib.metadata import entry_points

        plugins = {
            point.name: Method(point.name, point.value, frozenset({"plugin"}), point.dist.name if point.dist else "")
            for point in entry_points(group="blackbox.strategies")
            if point.name not in cls.builtin
        }
        return {**cls.builtin, **plugins}


def _method(name: str, path: str, tags: str, source: str) -> None:
    _Registry.builtin[name] = Method(name, f"blackbox.{path}", frozenset(tags.split()), source)


_method("cma-es", "es.cma_es:CMAES", "dense pure batch restarts", "Hansen 2016, arXiv:1604.00772")
_method("lq-cma-es", "es.lq_cma_es:LQCMAES", "dense restarts", "Hansen 2019, doi:10.1145/3321707.3321842")
_method("sep-cma-es", "es.sep_cma_es:SepCMAES", "dense pure batch restarts", "Ros & Hansen 2008")
_method("lm-ma-es", "es.lm_ma_es:LMMAES", "dense pure batch restarts", "Loshchilov, Glasmachers & Beyer 2019")
_method("snes", "es.snes:SNES", "dense pure batch restarts", "Wierstra et al. 2014, JMLR 15")
_method("pgpe", "es.pgpe:PGPE", "dense pure batch noisy", "Sehnke et al. 2010; Toklu et al. 2020")
_method("openai-es", "es.open_es:OpenES", "dense pure batch noisy", "Salimans et al. 2017, arXiv:1703.03864")
_method("eggroll", "es.eggroll:Eggroll", "virtual pure batch noisy", "Sarkar et al. 2025, arXiv:2511.16652")
_method(
    "cat-cma",
    "es.cat_cma:CatCMA",
    "dense pure batch discrete restarts",
    "Hamano et al. 2024/2025, CatCMA with margin",
)
_method("deep-ga", "ga.deep_ga:DeepGA", "virtual pure batch noisy", "Such et al. 2017, arXiv:1712.06567")
_method("l-shade", "ga.l_shade:LSHADE", "dense pure batch restarts", "Tanabe & Fukunaga 2014")
_method("nsga-ii", "ga.nsga2:NSGA2", "dense pure batch discrete multi-objective", "Deb et al. 2002")
_method("nsga-iii", "ga.nsga3:NSGA3", "dense pure batch discrete multi-objective", "Deb & Jain 2014")
_method("ga", "ga.genetic_algorithm:GeneticAlgorithm", "dense pure batch", "Holland 1975; Schwefel 1987; Deb 2001")
_method("cbo", "cbo.cbo:CBO", "dense pure batch restarts", "Pinnau et al. 2017; Carrillo et al. 2021")
_method(
    "multi-objective-cbo",
    "cbo.multi_objective:MultiObjectiveCBO",
    "dense pure batch multi-objective",
    "Borghi, Herty & Pareschi 2022, arXiv:2208.01362",
)
_method("memory-cbo", "cbo.memory:MemoryCBO", "dense pure batch restarts", "Grassi & Pareschi 2021; Riedl 2022")
_method("second-order-cbo", "cbo.second_order:SecondOrderCBO", "dense pure batch restarts", "Grassi & Pareschi 2021")
_method("adam-cbo", "cbo.adam:AdamCBO", "dense pure batch", "Chen, Jin & Lyu 2020, arXiv:2012.04827")
_method("polarized-cbo", "cbo.polarized:PolarizedCBO", "dense pure batch restarts", "Bungert, Roith & Wacker 2023")
_method("mirror-cbo", "cbo.mirror:MirrorCBO", "dense pure batch restarts", "Bungert et al. 2025, arXiv:2501.12189")
_method("cbs", "cbo.cbs:CBS", "dense pure batch restarts", "Carrillo, Hoffmann, Stuart & Vaes 2022")
_method("consensus-hopping", "cbo.hopping:ConsensusHopping", "dense pure batch restarts", "Riedl et al. 2023")
_method("map-elites", "qd.map_elites:MAPElites", "dense pure batch", "Mouret & Clune 2015; Vassiliades & Mouret 2018")
_method("cma-me", "qd.cma_me:CMAME", "dense pure batch", "Fontaine et al. 2020, arXiv:1912.02400")
_method("cma-mae", "qd.cma_mae:CMAMAE", "dense pure batch", "Fontaine & Nikolaidis 2023, arXiv:2205.10752")
_method("novelty-search", "qd.novelty:NoveltySearch", "dense pure batch", "Lehman & Stanley 2011; Such et al. 2017")
_method("ns-es", "qd.ns_es:NSES", "dense pure batch", "Conti et al. 2018, arXiv:1712.06560")
_method(
    "dominated-novelty-search",
    "qd.dominated_novelty:DominatedNoveltySearch",
    "dense pure batch",
    "Bahlous-Boldi et al. 2025, arXiv:2502.00593",
)
_method("spsa", "zo.spsa:SPSA", "dense pure batch noisy", "Spall 1992 and 1998")
_method("rge", "zo.random_descent:RandomDescent", "dense pure batch noisy restarts", "Chen et al. 2019, ZO-AdaMM")
_method("cge", "zo.coordinate_descent:CoordinateDescent", "dense pure batch restarts", "Chen et al. 2019, ZO-AdaMM")
_method("mezo", "zo.mezo:MeZO", "virtual pure noisy", "Malladi et al. 2023, arXiv:2305.17333")
_method("nelder-mead", "classic.nelder_mead:NelderMead", "dense pure restarts", "Gao & Han 2012")
_method("quadratic", "classic.quadratic:Quadratic", "dense restarts", "Powell 2006 and 2009, NEWUOA and BOBYQA")
_method("turbo", "model.turbo:Turbo", "dense batch discrete restarts", "Eriksson et al. 2019; Wan et al. 2021")
_method("ego", "model.ego:EGO", "dense discrete", "Jones, Schonlau & Welch 1998; Wan et al. 2021, arXiv:2102.07188")
_method("evollm", "llm.evollm:EvoLLM", "dense batch", "Lange, Tian & Tang 2024, arXiv:2402.18381")
_method("sobol", "classic.sobol:Sobol", "dense pure batch", "Joe & Kuo 2008; Owen 1998")
_method("random", "classic.random_search:RandomSearch", "dense pure batch", "Bergstra & Bengio 2012")


def methods() -> Mapping[str, Method]:
    """All registered methods by name, built in or offered by installed packages."""
    return _Registry.all()


HOSTS = {
    "evosax": "blackbox.hosted.evosax:Evosax",
    "nevergrad": "blackbox.hosted.nevergrad:Nevergrad",
    "pyribs": "blackbox.hosted.pyribs:Pyribs",
    "scipy": "blackbox.hosted.scipy:SciPy",
}
"""Packages whose optimizers are methods ``package:NAME``, and the strategy that runs them."""


def create(name: str, **hyperparameters: Any) -> Any:
    """The strategy registered as ``name`` with the given hyperparameters.

    ``evosax:NAME``, ``nevergrad:NAME``, ``pyribs:NAME`` and ``scipy:NAME`` are the optimizers of those packages.

    Raises:
        SettingError: for an unknown name or hyperparameter, naming the nearest known one.
        MissingExtra: the package of a hosted optimizer is not installed.
    """
    method = find_method(name)
    cls = method.load()
    own = {"name": name.partition(":")[2]} if "hosted" in method.tags else {}
    if dataclasses.is_dataclass(cls):
        fields = [f.name for f in dataclasses.fields(cls) if f.name not in own]
        for argument in hyperparameters:
            if argument not in fields:
                hint = nearest(argument, fields)
                raise SettingError(f"{name} has no hyperparameter {argument!r}; it has {', '.join(fields)}{hint}")
    return cls(**own, **hyperparameters)


def find_method(name: str) -> Method:
    """The method of that name, registered or of a package in :data:`HOSTS`, whose names are not checked here.

    Raises:
        SettingError: an unknown name, with the nearest known one.
    """
    host, colon, _ = name.partition(":")
    if colon and host in HOSTS:
        return Method(name, HOSTS[host], frozenset({"hosted"}), host)
    known = _Registry.builtin if name in _Registry.builtin else methods()
    if name in known:
        return known[name]
    hint = nearest(host, HOSTS) if colon else nearest(name, ["auto", *known])
    hosted = " or ".join(f"{host}:NAME" for host in HOSTS)
    raise SettingError(f"method must be one of auto, {', '.join(sorted(known))}, or {hosted}; got {name!r}{hint}")


def nearest(name: str, known: Any) -> str:
    """A hint ``; did you mean ...?`` or nothing."""
    import difflib

    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
