"""Weights that are perturbed where they lie, restored in every bit, and trained, with a block of noise beside them.

Subtracting what was added does not restore a float: the sum was rounded. So all weights of a leaf are first rounded to
multiples of one number, the leaf's grid, a power of two that is 2^-24 of a bound for all that they become in a step (in
float32; about half a unit in the last place of the largest weight). What is added to them is rounded to the grid as
well, and sums and differences of such numbers are exact.

The noise is that of :class:`blackbox.virtual.NoisePopulation`, made again from its key in each pass. All passes over a
leaf that perturb it are one compiled program, so that they add the same bits. Updates are rounded to the grid up or
down at random, so that their mean is right however small they are.

Where only some weights of a leaf may move, the last place says which: an even multiple of the grid moves, by even
multiples, and an odd one does not. So a mask takes no memory and is the same for all passes of a step.

Leaves of low rank are not perturbed at all: their products are taken apart (:mod:`blackbox.perturbed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.arrays import described
from blackbox.errors import TellError
from blackbox.kernels.noise import centered_noise, fold
from blackbox.kernels.spec import UNIT, VALUES_PER_BLOCK, blocks_of
from blackbox.perturbed import LowRank, perturbed

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, UInt32

    from blackbox.kernels.spec import Kind
    from blackbox.virtual import NoisePopulation, Structure

BLOCK = 2**18  # weights whose noise is in memory at once
DIGITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}  # binary ones of a number
LOTS = 1  # tells the stream of roundings by lot from that of the leaf's noise
LEAST = 1024  # blocks of noise that are made: less would be made by XLA, in a program that takes long to compile
FARTHEST = 6.0  # beyond all noise of unit variance that there is
Factors = tuple[Any, Any]


def values_in_place(
    population: NoisePopulation,
    loss: Callable[..., Any],
    args: tuple[Any, ...],
    factors: Callable[[int], Sequence[Factors]],
    thresholds: Sequence[Float[Array, ""] | None],
    compiled: bool,
) -> tuple[tuple[Array, ...], tuple[Any, ...], Float[np.ndarray, "n"]]:
    """Fitness of all members of a population, one after the other, in the memory of its center.

    Args:
        population: of mirrored pairs. The arrays of its weights are used up.
        loss: function of a pytree of parameters and of ``args``, which gives a number.
        args: of the loss.
        factors: of a pair's number A and B of each leaf of low rank, whose product has unit variance.
        thresholds: of each leaf the largest magnitude of a weight that moves; None: all do.
        compiled: whether the loss is a JAX program.

    Returns:
        The weights on their grids, the grids (None for leaves of low rank), and fitness.

    Raises:
        BaseException: what the loss raises, with the parameters on their grids as its ``params``.
    """
    structure = population.structure
    keys, sigma = keys_of(population), population.sigma
    weights, grids = list(population.weights), [None] * len(population.weights)
    evaluated = _evaluated if compiled else _evaluated.__wrapped__  # type: ignore[attr-defined]
    dense = [i for i, weight in enumerate(structure.weights) if weight.noise == "dense"]
    if compiled:  # before arrays are used up
        given = (tuple(weights), population.arrays, factors(0), sigma, args)
        require_value(_evaluated.eval_shape(loss, structure, *given))
    for i in dense:
        reach = FARTHEST * structure.weights[i].multiplier * sigma
        weights[i], grids[i] = on_grid(weights[i], reach, thresholds[i])

    def shift(pair: int, side: float) -> None:
        for i in dense:
            step = sigma * structure.weights[i].multiplier
            weights[i] = shifted(
                weights[i], grids[i], keys[i], jnp.uint32(pair), step, side, population.kind, thresholds[i] is not None
            )

    values = []
    for pair in range(len(population) // 2):
        narrow = factors(pair)
        for sign, side in ((1.0, 1.0), (-1.0, -2.0)):
            shift(pair, side)
            try:
                value = evaluated(loss, structure, tuple(weights), population.arrays, narrow, sign * sigma, args)
                require_value(value)
                values.append(float(value))  # waits for it
            except BaseException as error:
                shift(pair, -sign)
                raised = _with_params(error, structure.join(weights, population.arrays))
                if raised is error:
                    raise
                raise raised from error
        shift(pair, 1.0)
    return tuple(weights), tuple(grids), np.array(values)


def _with_params(error: BaseException, params: Any) -> BaseException:
    """The exception with the parameters before the step; another one if it takes no attribute."""
    note = "The parameters before this step are the exception's params; the state's are used up."
    try:
        error.params = params  # type: ignore[attr-defined]
        error.add_note(note)
    except Exception:
        other = TellError(f"loss raised {error!r}. {note}")
        other.params = params  # type: ignore[attr-defined]
        return other
    return error


def require_value(value: Any) -> None:
    """Raise TellError unless ``value`` is one real number."""
    if isinstance(value, Real):
        return
    dtype = getattr(value, "dtype", None)
    if getattr(value, "shape", None) != () or np.dtype(dtype).kind not in "biufV":  # V: bfloat16
        raise TellError(f"loss must give one real number, got {described(value)}")


def trained_leaves(
    population: NoisePopulation,
    weights: Sequence[Array],
    grids: Sequence[Array | None],
    rates: Float[Array, "pairs"],
    decay: Float[Array, ""],
    factors: Iterator[Factors],
    thresholds: Sequence[Float[Array, ""] | None],
) -> tuple[Array, ...]:
    """The weights less the sum of all pairs' noise times their rates, where they lie.

    Args:
        population: whose noise it is; its weights are not looked at.
        weights: those of :func:`values_in_place`, whose arrays are used up.
        grids: likewise.
        rates: of the pairs.
        decay: what part of itself each leaf of two axes or more loses.
        factors: of each leaf of low rank A and B of all pairs, whose products have unit variance.
        thresholds: as there.
    """
    keys = keys_of(population)
    leaves = zip(
        weights, grids, population.structure.weights, keys, decays(population.structure, decay), thresholds, strict=True
    )
    moved = []
    for w, grid, weight, key, shrink, threshold in leaves:
        scaled = rates * weight.multiplier
        if weight.noise == "dense":
            masked = threshold is not None
            moved.append(trained(w, grid, key, fold(key, LOTS), scaled, shrink, population.kind, masked))
        else:
            a, b = next(factors)
            a = a * scaled.reshape(-1, *[1] * (a.ndim - 1))
            moved.append(trained_by_factors(w, fold(key, LOTS), a, b, shrink, weight.stacked))
    return tuple(moved)


def keys_of(population: NoisePopulation) -> list[UInt32[np.ndarray, "2"]]:
    """The key of each leaf's stream. In NumPy: a program for some hundred keys would take 100 MB to compile."""
    key, generation = np.asarray(population.key), int(population.generation)
    return [fold(fold(key, *weight.words), generation) for weight in population.structure.weights]


@partial(jax.jit, static_argnums=(2, 3, 4))
def factors_of(
    key: UInt32[Array, "2"], pairs: Int[Array, "pairs"], parts: tuple[tuple[int, ...], ...], rank: int, kind: Kind
) -> Factors:
    """A and B of some pairs for a leaf of low rank, whose products have unit variance; one leaf by itself."""
    a, b = parts
    size = math.prod(a)
    (drawn,) = centered_noise(key[None], pairs.astype(jnp.uint32), (size + math.prod(b),), kind)
    unit = UNIT[kind] ** 2 / math.sqrt(rank)
    return drawn[:, :size].reshape(-1, *a) * unit, drawn[:, size:].reshape(-1, *b)


@partial(jax.jit, static_argnums=(0, 1))
def _evaluated(
    loss: Callable[..., Any],
    structure: Structure,
    weights: tuple[Array, ...],
    arrays: tuple[Array, ...],
    narrow: Sequence[Factors],
    step: Float[Array, ""],
    args: tuple[Any, ...],
) -> Any:
    """The loss of one member, whose dense leaves are perturbed already."""
    if not narrow:
        return loss(structure.join(weights, arrays), *args)
    pairs = iter(narrow)
    candidate: list[Any] = []
    for w, weight in zip(weights, structure.weights, strict=True):
        if weight.noise == "low-rank":
            a, b = next(pairs)
            candidate.append(LowRank(w, a * (step * weight.multiplier), b, weight.axes))
        else:
            candidate.append(w)
    return perturbed(lambda candidate: loss(structure.join(candidate, arrays), *args))(candidate)


@partial(jax.jit, donate_argnums=0)
def on_grid(
    w: Float[Array, "..."], reach: Float[Array, ""], threshold: Float[Array, ""] | None = None
) -> tuple[Float[Array, "..."], Float[Array, ""]]:
    """A leaf rounded to its grid, and the grid; weights that are on it already stay what they are.

    Args:
        w: the leaf, whose array is used up.
        reach: what a weight may be moved by.
        threshold: the largest magnitude of weights that move, which become even; None: all do.
    """
    digits = DIGITS[w.dtype.name]
    # A little more than the sum, for the roundings of both.
    bound = _largest(w.reshape(-1)) * (1 + 2.0**-20) + jnp.asarray(reach, w.dtype)
    grid = jnp.ldexp(jnp.ones((), w.dtype), jnp.frexp(bound)[1] - digits)

    def change(block: Array, _: Any) -> Array:
        count = jnp.round(block / grid)
        if threshold is not None:
            even = 2 * jnp.round(count / 2)
            away = jnp.where(count < 0, -1, 1).astype(w.dtype)  # so that it stays above the threshold
            odd = count + jnp.where(_is_even(count), away, 0)
            count = jnp.where(moves(block, threshold), even, odd)
        return jnp.where(count == 0, 0, count * grid)  # a negative zero would come back as a positive one

    return _by_blocks(w.reshape(-1), 0, w.size, BLOCK, change).reshape(w.shape), grid


def _largest(x: Float[Array, "n"]) -> Float[Array, ""]:
    """The largest magnitude of finite weights, as masks may be infinite; in blocks."""

    def of(start: Array | int, rows: int) -> Array:
        block = jnp.abs(jax.lax.dynamic_slice_in_dim(x, start, rows))
        return jnp.max(jnp.where(block < jnp.inf, block, 0), initial=0)

    whole, rest = divmod(x.size, BLOCK)
    first = of(whole * BLOCK, rest)
    if not whole:
        return first
    return jax.lax.fori_loop(0, whole, lambda i, most: jnp.maximum(most, of(i * BLOCK, BLOCK)), first)


def moves(w: Float[Array, "..."], threshold: Float[Array, ""]) -> Bool[Array, "..."]:
    """Which weights are small enough to move."""
    return jnp.abs(w).astype(jnp.float32) <= threshold


def _is_even(count: Float[Array, "..."]) -> Bool[Array, "..."]:
    return 2 * jnp.floor(count / 2) == count


@partial(jax.jit, static_argnums=(6, 7), donate_argnums=0)
def shifted(
    w: Float[Array, "..."],
    grid: Float[Array, ""],
    key: UInt32[Array, "2"],
    pair: UInt32[Array, ""],
    step: Float[Array, ""],
    side: Float[Array, ""],
    kind: Kind,
    masked: bool,
) -> Float[Array, "..."]:
    """A leaf on its grid plus ``side`` times ``step`` times a pair's noise, the product rounded to the grid."""
    unit = 2 * grid if masked else grid

    def change(block: Array, start: Array | int) -> Array:
        z = _noise_of_block(key, pair, start, block.shape[0], w.size, kind)
        moved = block + side * (jnp.round(step * z / unit) * unit)
        return jnp.where(_is_even(block / grid), moved, block) if masked else moved

    return _by_blocks(w.reshape(-1), 0, w.size, _block_of(w.size, kind), change).reshape(w.shape)


@partial(jax.jit, static_argnums=(6, 7), donate_argnums=0)
def trained(
    w: Float[Array, "..."],
    grid: Float[Array, ""],
    key: UInt32[Array, "2"],
    lots_key: UInt32[Array, "2"],
    rates: Float[Array, "pairs"],
    decay: Float[Array, ""],
    kind: Kind,
    masked: bool,
) -> Float[Array, "..."]:
    """A leaf on its grid less ``sum_p rates_p z_p`` and ``decay`` times itself, on the grid again."""
    unit = 2 * grid if masked else grid

    def change(block: Array, start: Array | int) -> Array:
        def add(pair: Array, total: Array) -> Array:
            z = _noise_of_block(key, pair.astype(jnp.uint32), start, block.shape[0], w.size, kind)
            return total + rates[pair] * z

        step = jax.lax.fori_loop(0, rates.shape[0], add, decay * block)
        lots = _lots(lots_key, start // _block_of(w.size, kind), block.shape[0])
        moved = block - jnp.floor(step / unit + lots) * unit
        moved = jnp.where(jnp.isfinite(block), moved, block)  # infinite weights, such as masks, stay
        return jnp.where(_is_even(block / grid), moved, block) if masked else moved

    return _by_blocks(w.reshape(-1), 0, w.size, _block_of(w.size, kind), change).reshape(w.shape)


@partial(jax.jit, static_argnums=5, donate_argnums=0)
def trained_by_factors(
    w: Float[Array, "..."],
    lots_key: UInt32[Array, "2"],
    a: Float[Array, "pairs ..."],
    b: Float[Array, "pairs ..."],
    decay: Float[Array, ""] | float,
    stacked: int,
) -> Float[Array, "..."]:
    """A leaf less ``sum_p A_p B_p^T`` and ``decay`` times itself, in blocks of rows; see :func:`rounded`."""
    stack, rank = math.prod(w.shape[:stacked]), a.shape[-1]
    m, n = (x[0].size // (stack * rank) for x in (a, b))
    # The ranks of all pairs side by side: one product.
    a, b = (jnp.moveaxis(x.reshape(len(x), stack, -1, rank), 0, -2).reshape(stack, -1, len(x) * rank) for x in (a, b))
    size = max(1, BLOCK // n)

    def one(layer: Array | int, rows: Array) -> Array:
        def change(block: Array, start: Array | int) -> Array:
            own = jax.lax.dynamic_slice_in_dim(a[layer], start, block.shape[0])
            wide = block.astype(jnp.promote_types(block.dtype, jnp.float32))
            moved = wide - jnp.matmul(own, b[layer].T, precision=jax.lax.Precision.HIGHEST) - decay * wide
            moved = jnp.where(jnp.isfinite(wide), moved, wide)
            if DIGITS[block.dtype.name] >= 24:
                return moved
            lots = _lots(lots_key, layer * -(-m // size) + start // size, size * n)
            return rounded(moved, lots[: block.size].reshape(block.shape), block.dtype)

        return _by_blocks(rows, layer * m, m, size, change)

    return jax.lax.fori_loop(0, stack, one, w.reshape(stack * m, n)).reshape(w.shape)


def rounded(x: Float[Array, "..."], lots: Float[Array, "..."], dtype: Any) -> Float[Array, "..."]:
    """Float32 numbers as bfloat16 or float16, up or down by lot so that the mean stays; wider types as they are.

    Args:
        x: the numbers.
        lots: uniform in (0, 1).
        dtype: the result's.
    """
    dtype = jnp.dtype(dtype)
    if DIGITS[dtype.name] >= 24:
        return x.astype(dtype)
    spare = 24 - DIGITS[dtype.name]
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    bits = bits + (lots * 2.0**spare).astype(jnp.uint32) & jnp.uint32(2**32 - 2**spare)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(dtype)


def less(
    w: Float[Array, "..."], total: Float[Array, "..."], decay: Float[Array, ""] | float, key: UInt32[Array, "2"]
) -> Float[Array, "..."]:
    """A leaf less ``total`` and ``decay`` times itself, in its own dtype; see :func:`rounded`."""
    wide = w.astype(jnp.promote_types(w.dtype, jnp.float32))
    moved = jnp.where(jnp.isfinite(wide), wide - (total + decay * wide), wide)
    if DIGITS[w.dtype.name] >= 24:
        return moved
    return rounded(moved, _lots(fold(key, LOTS), 0, w.size).reshape(w.shape), w.dtype)


def _by_blocks(x: Array, first: Array | int, count: int, size: int, change: Callable[[Array, Any], Array]) -> Array:
    """``x`` with some rows changed block by block, in its own memory; ``change`` is given the rows before a block."""

    def one(start: Array | int, rows: int, x: Array) -> Array:
        block = jax.lax.dynamic_slice_in_dim(x, first + start, rows)
        return jax.lax.dynamic_update_slice_in_dim(x, change(block, start), first + start, 0)

    whole = count // size
    if whole:
        x = jax.lax.fori_loop(0, whole, lambda i, x: one(i * size, size, x), x)
    return one(whole * size, count % size, x) if count % size else x


def _block_of(size: int, kind: Kind) -> int:
    """Entries of a block: a divisor of ``size``, so that one program does for all blocks, if there is a large one."""
    unit = VALUES_PER_BLOCK[kind]
    if size <= BLOCK:
        return size
    return next((n for n in range(BLOCK, BLOCK // 8, -unit) if size % n == 0), BLOCK)


def _noise_of_block(
    key: UInt32[Array, "2"], pair: UInt32[Array, ""], start: Array | int, size: int, total: int, kind: Kind
) -> Float[Array, "size"]:
    """Entries ``start`` to ``start + size - 1`` of a pair's ``total`` entries of noise, of unit variance.

    ``start`` is a multiple of the leaf's block. The generator numbers rows, so that rows are taken that divide both.
    """
    values = VALUES_PER_BLOCK[kind]
    each = math.gcd(blocks_of(total, kind), max(1, _block_of(total, kind) // values))
    first = pair * jnp.uint32(blocks_of(total, kind) // each) + jnp.asarray(start // (each * values), jnp.uint32)
    needed = max(-(-size // (each * values)), -(-LEAST // each))
    rows = first + jnp.arange(needed, dtype=jnp.uint32)
    (z,) = centered_noise(key[None], rows, (each * values,), kind)
    return z.reshape(-1)[:size] * UNIT[kind]


def _lots(key: UInt32[Array, "2"], number: Array | int, size: int) -> Float[Array, "size"]:
    """Uniform numbers in (0, 1) for roundings by lot, the first ones of a row of a stream."""
    enough = max(size, LEAST * VALUES_PER_BLOCK["uniform"])
    (u,) = centered_noise(key[None], jnp.asarray(number, jnp.uint32)[None], (enough,), "uniform")
    return u[0, :size] + 0.5


def decays(structure: Structure, decay: Float[Array, ""] | float) -> list[Float[Array, ""] | float]:
    """Weight decay of each leaf: none of vectors, which are biases and gains."""
    return [decay if len(weight.shape) > 1 else 0.0 for weight in structure.weights]
