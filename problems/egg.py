"""EGG: a recurrent language model of bytes in integers alone.

Source: Sarkar et al. 2025, "Evolution Strategies at the Hyperscale" (arXiv:2511.16652), section 6.1 and appendix G.
Weights and activations are int8, sums int32; no operation has a float. Clipping to [-127, 127] is the only
nonlinearity. 16 stands for 1.0 in weights and activations.

=====================  ==============================================================================================
operation              integer rule, ``>>`` being the arithmetic shift
=====================  ==============================================================================================
sat(x)                 clip(x, -127, 127), as int8
matmul                 sum_i u_i W_ij in int32, ``>> 4 + log4(fan-in)``: of unit scale if u and W are
norm                   m = max(1, sum abs(x) >> log2 D), r = 2^16 // m;  sat(x w r >> 16): mean absolute value w
gated recurrent unit   f = sat(u W_f + s U_f + b_f) + 127;  g = sat(u W_g + (f s >> 8) U_g + b_g);  s += f (g - s) >> 8
layer                  x = sat(x + gru(norm(x)));  x = sat(x + sat(sat(norm(x) W_up) W_down))
logits                 sat(norm(x) W_head + b): y / 16 is the logarithm to base 2 of an unnormalized probability
loss of byte t         log2(sum_i 2^(y_i / 16)) - y_t / 16, in units of 1 / 256 bit
=====================  ==============================================================================================

Where these rules differ from the paper's: the norm multiplies by a reciprocal instead of looking 2^24 quotients up;
losses have 16 times the resolution, powers of two are a cubic, and the logarithm interpolates 257 entries instead of
looking 2^28 up; the head has a bias, so that one leaf can learn the bytes' frequencies; a width may be any power of
two; bytes are ASCII.

A weight is an int8 array, or an object with the methods ``accumulate(u)``, ``row(i)`` and ``value()``, in int32: the
candidates of ``blackbox.es.IntegerEggroll`` add their perturbation there, before the shift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.problems.corpus import VOCABULARY

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int, Int8, UInt8

UNIT = 16
BITS = 256
"""Of what a loss counts in: 1 / 256 bit."""

_LOG2 = np.round(BITS * np.log2(1 + np.arange(257) / 256)).astype(np.int32)


def init(seed: int, width: int = 32, layers: int = 1, expansion: int = 4) -> dict[str, Any]:
    """Weights round(16 N(0, 1)), norms 1.0, biases and the head 0: all bytes are equally likely at first.

    Args:
        seed: of NumPy's generator.
        width: of the state and of the residual stream, a power of two.
        layers: recurrent layers.
        expansion: the width of a layer's hidden units over that of its inputs, a power of two; 0 leaves them out.
    """
    for name, value in {"width": width, "expansion": expansion or 1}.items():
        if value < 1 or value & (value - 1):
            raise SettingError(f"{name} must be a power of two, got {value}")
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Int8[Array, "m n"]:
        return jnp.asarray(np.clip(np.round(UNIT * rng.normal(size=shape)), -127, 127), jnp.int8)

    def constant(n: int, value: int) -> Int8[Array, "n"]:
        return jnp.full(n, value, jnp.int8)

    def layer() -> dict[str, Any]:
        gru = {name: normal(width, width) for name in ("w_f", "u_f", "w_g", "u_g")}
        gru |= {name: constant(width, 0) for name in ("b_f", "b_g")}
        out = {"norm": constant(width, UNIT), "gru": gru}
        if expansion:
            hidden = expansion * width
            out |= {"norm_mlp": constant(width, UNIT), "up": normal(width, hidden), "down": normal(hidden, width)}
        return out

    return {
        "embedding": normal(VOCABULARY, width),
        "layers": [layer() for _ in range(layers)],
        "norm": constant(width, UNIT),
        "head": jnp.zeros((width, VOCABULARY), jnp.int8),
        "bias": constant(VOCABULARY, 0),
    }


def start(params: dict[str, Any], n: int) -> Int8[Array, "n layers width"]:
    """The state before ``n`` texts."""
    return jnp.zeros((n, len(params["layers"]), params["norm"].shape[0]), jnp.int8)


def pair_mean(states: Int8[Array, "n layers width"]) -> Int8[Array, "n layers width"]:
    """Both members of each pair (2k, 2k + 1) with the mean of their states, rounded down.

    To the second order it is the state that the center would be in. Where each member went on from its own, the
    difference of a pair's losses would be in part that of former perturbations.
    """
    pairs = states.astype(jnp.int32).reshape(-1, 2, *states.shape[1:])
    mean: Array = ((pairs[:, 0] + pairs[:, 1]) >> 1).astype(jnp.int8)
    return jnp.repeat(mean, 2, axis=0)


def bytes_read(text: UInt8[Array, "n t_plus_1"]) -> Bool[Array, "n/2 vocabulary"]:
    """Which rows of the embedding each pair of members reads, whose texts are the same."""
    read = text[::2, :-1].astype(jnp.int32)
    pairs = jnp.arange(read.shape[0])[:, None]
    return jnp.zeros((read.shape[0], VOCABULARY), jnp.bool_).at[pairs, read].set(True)


def loss(
    params: dict[str, Any], state: Int8[Array, "layers width"], text: UInt8[Array, "t_plus_1"]
) -> tuple[Int[Array, ""], Int8[Array, "layers width"]]:
    """Sum of the losses of bytes 1 to T of ``text``, each given all before, and the state after byte T - 1.

    A byte 0 begins a document: it resets the state.
    """

    def one(carry: tuple[Array, Array], bytes_: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        state, total = carry
        before, after = bytes_
        state, y = step(params, jnp.where(before == 0, 0, state).astype(jnp.int8), before)
        return (state, total + surprise(y, after)), None

    (state, total), _ = jax.lax.scan(one, (state, jnp.zeros((), jnp.int32)), (text[:-1], text[1:]))
    return total, state


def bits_per_byte(params: dict[str, Any], text: UInt8[np.ndarray, "n"], streams: int = 512) -> float:
    """Mean loss of a text, which is cut into ``streams`` parts that are read side by side, each from an empty state."""
    length = (len(text) - 1) // streams
    parts = jnp.asarray(text[np.arange(streams)[:, None] * length + np.arange(length + 1)])
    losses, _ = _of_streams(params, start(params, streams), parts)
    return float(np.asarray(losses, np.int64).sum() / (BITS * streams * length))


def step(
    params: dict[str, Any], state: Int8[Array, "layers width"], byte: UInt8[Array, ""]
) -> tuple[Int8[Array, "layers width"], Int[Array, "vocabulary"]]:
    """The state after a byte, and the logits of the next."""
    x, states = sat(row(params["embedding"], byte)), []
    for layer, s in zip(params["layers"], state, strict=True):
        s = gru(layer["gru"], norm(x, layer["norm"]), s)
        states.append(s)
        x = sat(x.astype(jnp.int32) + s)
        if "up" in layer:
            hidden = sat(matmul(norm(x, layer["norm_mlp"]), layer["up"]))
            x = sat(x.astype(jnp.int32) + sat(matmul(hidden, layer["down"])))
    y = matmul(norm(x, params["norm"]), params["head"]) + value(params["bias"])
    return jnp.stack(states), jnp.clip(y, -127, 127)


def gru(p: dict[str, Any], u: Int8[Array, "d"], state: Int8[Array, "d"]) -> Int8[Array, "d"]:
    """Minimal gated unit: one gate forgets and updates."""
    s = state.astype(jnp.int32)
    f = jnp.clip(_scaled(accumulate(u, p["w_f"]) + accumulate(state, p["u_f"]), u) + value(p["b_f"]), -127, 127) + 127
    past = (f * s >> 8).astype(jnp.int8)
    g = jnp.clip(_scaled(accumulate(u, p["w_g"]) + accumulate(past, p["u_g"]), u) + value(p["b_g"]), -127, 127)
    return (s + (f * (g - s) >> 8)).astype(jnp.int8)


def norm(x: Int8[Array, "d"], w: Any) -> Int8[Array, "d"]:
    """``x`` times ``w``, over the mean absolute value of ``x``."""
    wide = x.astype(jnp.int32)
    mean = jnp.maximum(jnp.sum(jnp.abs(wide), dtype=jnp.int32) >> (x.shape[0].bit_length() - 1), 1)
    return sat(wide * value(w) * ((1 << 16) // mean) >> 16)


def surprise(y: Int[Array, "vocabulary"], byte: UInt8[Array, ""]) -> Int[Array, ""]:
    """Minus the logarithm to base 2 of the byte's probability, in 1 / 256 bit."""
    total = jnp.sum(exp2(y), dtype=jnp.int32)
    return log2(total) - 16 * (y[byte.astype(jnp.int32)] + 128) - 7 * BITS


def exp2(y: Int[Array, "*n"]) -> Int[Array, "*n"]:
    """``128 * 2^((y + 128) / 16)`` for y from -128 to 127, by a cubic of the fraction: within 0.5 %."""
    fraction, exponent = (y + 128) & 15, (y + 128) >> 4
    mantissa = 256 + (fraction * (2798 + 73 * fraction + (fraction * fraction >> 1)) >> 8)
    return mantissa << exponent >> 1


def log2(n: Int[Array, "*n"]) -> Int[Array, "*n"]:
    """``256 * log2(n)`` for n from 1 to 2^31 - 1, rounded to an error of at most 1."""
    table = jnp.asarray(_LOG2)
    exponent = 31 - jax.lax.clz(n)
    fraction = jnp.where(exponent >= 14, n >> jnp.maximum(exponent - 14, 0), n << jnp.maximum(14 - exponent, 0))
    index, rest = (fraction >> 6) & 255, fraction & 63
    low = table[index]
    return (exponent << 8) + low + ((table[index + 1] - low) * rest >> 6)


_of_streams = jax.jit(jax.vmap(loss, in_axes=(None, 0, 0)))


# ---- weights, perturbed or not


def sat(x: Int[Array, "*n"]) -> Int8[Array, "*n"]:
    return jnp.clip(x, -127, 127).astype(jnp.int8)


def matmul(u: Int8[Array, "m"], w: Any) -> Int[Array, "n"]:
    return _scaled(accumulate(u, w), u)


def _scaled(total: Int[Array, "n"], u: Int8[Array, "m"]) -> Int[Array, "n"]:
    return total >> (4 + (u.shape[0].bit_length() - 1) // 2)


def accumulate(u: Int8[Array, "m"], w: Any) -> Int[Array, "n"]:
    """``u W`` in int32."""
    if hasattr(w, "accumulate"):
        total: Array = w.accumulate(u)
        return total
    return jax.lax.dot(u, w, preferred_element_type=jnp.int32)


def row(w: Any, i: Int[Array, ""]) -> Int[Array, "n"]:
    found: Array = w.row(i) if hasattr(w, "row") else w[i].astype(jnp.int32)
    return found


def value(w: Any) -> Int[Array, "n"]:
    found: Array = w.value() if hasattr(w, "value") else w.astype(jnp.int32)
    return found
