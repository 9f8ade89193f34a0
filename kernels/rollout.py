"""Whole episodes of classic control in one call, for a population of small networks.

A member's weights are formed when its episodes are played, from seeds where they have any: the population is nowhere
stored. Episodes end when they end, so that no step is taken in vain.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.arrays import Array, is_cupy, is_jax
from blackbox.errors import SettingError

from . import cuda, dispatch, environments
from .arguments import require_array
from .weights import LowRankWeights, Setting, SummedWeights, arrays_of, checked

if TYPE_CHECKING:
    from jaxtyping import Float, Int32

_MOST_HIDDEN = 8  # layers: what fits into a kernel's argument
_MOST_WEIGHTS = 2**24  # of a network: sixteen of them side by side are a gigabyte


def rollout(
    env: str,
    hidden: tuple[int, ...],
    source: SummedWeights | LowRankWeights | Float[Array, "n d"],
    starts: Float[Array, "episodes state"],
    *,
    steps: int | None = None,
    impl: dispatch.Impl = "auto",
) -> tuple[Float[Array, "n episodes"], Int32[Array, "n episodes"]]:
    """The return and the length of every episode of every member.

    Policies and episodes are those of :class:`blackbox.problems.control.JaxControl` in float32. The reference, compiled
    code and a GPU's grid give the same bits; XLA alone, without compiled code, differs by roundings, which lets an
    episode end earlier or later.

    Args:
        env: "CartPole-v1", "Pendulum-v1", "MountainCarContinuous-v0" or "Acrobot-v1", as in gymnasium 1.x.
        hidden: widths of the policy's hidden layers, eight at most; tanh follows each of them.
        source: weights of the n members, an array or what they are formed of. The flat vector has for each layer the
            matrix (inputs, outputs), row by row, then the biases.
        starts: first states, common to all members. If this or an array of the source is JAX's, or CuPy's, all is
            computed for that library.
        steps: of the longest episode; None: as many as the environment has.
        impl: what computes it, see :func:`blackbox.kernels.explain`. On CPUs "auto" takes compiled code
            wherever it can be had, and "normal_fast" is "normal" everywhere.

    Raises:
        SettingError: an unknown environment, shapes that do not fit, a number outside its range, an ``impl`` that is
            unknown or cannot be had here.
    """
    environment = environments.named(env)
    if not isinstance(hidden, tuple) or len(hidden) > _MOST_HIDDEN or not all(map(_is_count, hidden)):
        raise SettingError(f"hidden must be a tuple of at most {_MOST_HIDDEN} integers >= 1; got {hidden!r}")
    sizes = environment.sizes(hidden)
    if environments.dimension_of(sizes) > _MOST_WEIGHTS:
        raise SettingError(f"hidden must give a network of at most {_MOST_WEIGHTS} weights; got {hidden!r}")
    weights = checked(source, environments.dimension_of(sizes), len(sizes) - 1)
    require_array("starts", starts)
    if len(np.shape(starts)) != 2 or np.shape(starts)[1] != environment.state:
        raise SettingError(f"starts must be of shape (episodes, {environment.state}) for {env}; got {np.shape(starts)}")
    if steps is not None and not (_is_count(steps) and steps < 2**31):
        raise SettingError(f"steps must be an integer from 1 to 2**31 - 1 or None; got {steps!r}")
    given = (starts, *vars(weights).values())
    like = next((x for x in given if is_jax(x)), next((x for x in given if is_cupy(x)), np.zeros(0)))
    chosen: Any
    if is_jax(like):
        chosen = dispatch.in_jax(impl, dispatch.ALWAYS, "rollout")
    else:
        chosen = dispatch.of_arrays(like, impl, dispatch.ALWAYS, "rollout")
    is_copied = is_cupy(like) and chosen is not cuda
    if is_copied:
        weights, starts = replace(weights, **{k: _on_cpu(x) for k, x in vars(weights).items()}), _on_cpu(starts)
    xp: Any = np
    if is_jax(like):
        import jax

        xp = jax.numpy
    elif is_cupy(like) and not is_copied:
        import cupy

        xp = cupy
    arrays, form = arrays_of(weights, xp)
    setting = Setting(env, sizes, steps or environment.steps, form)
    returns, lengths = chosen.rollout(setting, arrays, xp.asarray(starts, dtype=xp.float32))
    if is_copied:
        import cupy

        return cupy.asarray(returns), cupy.asarray(lengths)
    return returns, lengths


def _on_cpu(value: Any) -> Any:
    if not is_cupy(value):
        return value
    import cupy

    return cupy.asnumpy(value)


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1
