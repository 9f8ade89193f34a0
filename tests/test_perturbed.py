"""Low-rank weights: each rule gives what the formed sum gives, and says so where there is none."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from numpy.testing import assert_allclose

from blackbox.perturbed import LowRank, Materialized, perturbed, perturbed_matmul
from blackbox.virtual import Quantized

X = jnp.asarray(np.random.default_rng(1).normal(size=(7, 5)), jnp.float32)
IMAGES = jnp.asarray(np.random.default_rng(2).normal(size=(2, 8, 8, 3)), jnp.float32)
NHWC = ("NHWC", "HWIO", "NHWC")


def weight(shape: tuple[int, ...], axes: str, rank: int = 2, dtype: Any = jnp.float32) -> LowRank:
    rng = np.random.default_rng(0)
    stacked = len(shape) - len(axes)
    own = {kind: tuple(n for n, axis in zip(shape[stacked:], axes, strict=True) if axis == kind) for kind in "ab"}

    def draw(*size: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=size), jnp.float32)

    lead = shape[:stacked]
    return LowRank(draw(*shape).astype(dtype), draw(*lead, *own["a"], rank), draw(*lead, *own["b"], rank), axes)


@jax.custom_vjp
def own_backward(w: jax.Array) -> jax.Array:
    return X @ w


own_backward.defvjp(lambda w: (X @ w, None), lambda _, g: (X.T @ g,))


@jax.custom_jvp
def own_tangent(w: jax.Array) -> jax.Array:
    return jax.nn.relu(X @ w)


own_tangent.defjvp(lambda p, t: (own_tangent(*p), own_tangent(*t)))


def scanned(w: jax.Array) -> jax.Array:
    return lax.scan(lambda c, w: (jnp.tanh(c @ w), c.sum()), X, w, reverse=True)[0]


CASES: dict[str, tuple[Callable[..., Any], tuple[int, ...], str]] = {
    "right": (lambda w: X @ w, (5, 3), "ab"),
    "left": (lambda w: w @ X, (3, 7), "ab"),
    "transposed": (lambda w: X @ w.T, (3, 5), "ab"),
    "other factor first": (lambda w: X @ w, (5, 3), "ba"),
    "heads": (lambda w: jnp.einsum("bd,dhk->bhk", X, w), (5, 2, 4), "abb"),
    "heads back": (lambda w: jnp.einsum("bhk,hkd->bd", X.reshape(7, 5, 1), w), (5, 1, 4), "aab"),
    "contracts axes of both factors": (lambda w: jnp.einsum("bd,dhb->h", X, w), (5, 2, 7), "abb"),
    "experts, routed": (lambda w: jnp.einsum("be,eij->bij", X, w), (5, 2, 4), "ab"),
    "experts, batched": (lambda w: jnp.einsum("ebi,eij->ebj", jnp.ones((3, 6, 2)), w), (3, 2, 4), "ab"),
    "experts, vmap": (lambda w: jax.vmap(lambda w: jnp.ones((6, 2)) @ w)(w), (3, 2, 4), "ab"),
    "embedding": (lambda w: w[jnp.array([[1, 2], [0, 3]])], (5, 3), "ab"),
    "embedding, take": (lambda w: jnp.take(w, jnp.array([4, 0]), axis=0), (5, 3), "ab"),
    "embedding, heads": (lambda w: w[jnp.array([1, 2])], (5, 3, 2), "abb"),
    "embedding, tied": (lambda w: w[jnp.array([1, 2])] @ w.T, (5, 3), "ab"),
    "embedding, rows that do not exist": (
        lambda w: [w.at[jnp.array([1, 9])].get(mode="fill", fill_value=v) for v in (0.0, 2.0)], (5, 3), "ab"),
    "embedding, vmap": (lambda w: jax.vmap(lambda i: w[i] * 1.0)(jnp.array([4, 0])), (5, 3), "ab"),
    "columns": (lambda w: w[:, jnp.array([2, 0])], (5, 3), "ab"),
    "returned": (lambda w: {"w": w.T, "x": X @ w}, (5, 3), "ab"),
    "one of a stack": (lambda w: X[:, :3] @ w[2], (4, 3, 2), "ab"),
    "reshape to heads": (lambda w: jnp.einsum("bd,dhk->bhk", X, w.reshape(5, 2, 3)), (5, 6), "ab"),
    "reshape of heads": (lambda w: X @ w.reshape(5, 6), (5, 2, 3), "abb"),
    "split": (lambda w: [X @ v for v in jnp.split(w, 3, axis=1)], (5, 6), "ab"),
    "slice": (lambda w: X[:, :2] @ w[1:3, ::2], (5, 6), "ab"),
    "dynamic slice": (lambda w: X[:, :2] @ lax.dynamic_slice(w, (1, 2), (2, 3)), (5, 6), "ab"),
    "positions": (lambda w: X[:, None] + w, (4, 5), "ab"),
    "positions, some": (lambda w: w[:7] + X, (9, 5), "ab"),
    "new axis": (lambda w: X @ w[None][0], (5, 3), "ab"),
    "convolution, HWIO": (lambda w: lax.conv_general_dilated(IMAGES, w, (1, 1), "SAME", dimension_numbers=NHWC),
                          (3, 3, 3, 4), "aaab"),
    "convolution, OIHW": (lambda w: lax.conv_general_dilated(IMAGES.transpose(0, 3, 1, 2), w, (2, 2), "VALID"),
                          (4, 3, 3, 3), "abbb"),
    "scan, stacked": (scanned, (4, 5, 5), "ab"),
    "scan, not marked as stacked": (scanned, (4, 5, 5), "aab"),
    "scan, constant": (lambda w: lax.scan(lambda c, _: (jnp.tanh(c @ w), None), X, None, length=3)[0], (5, 5), "ab"),
    "fori": (lambda w: lax.fori_loop(0, 3, lambda _, c: jnp.tanh(c @ w), X), (5, 5), "ab"),
    "while": (lambda w: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w)), (0, X))[1],
              (5, 5), "ab"),
    "while, each row as often as it needs": (
        lambda w: jax.vmap(lambda x, n: lax.while_loop(
            lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w)), (0, x))[1])(X, jnp.arange(7)), (5, 5), "ab"),
    "cond": (lambda w: lax.cond(X[0, 0] > 0, lambda w: X @ w, lambda w: -X @ w, w), (5, 5), "ab"),
    "checkpoint": (lambda w: jax.checkpoint(lambda w: jnp.tanh(X @ w))(w), (5, 5), "ab"),
    "custom_vjp": (own_backward, (5, 5), "ab"),
    "custom_jvp": (own_tangent, (5, 5), "ab"),
    "jit": (lambda w: jax.jit(lambda w: X @ w)(w), (5, 5), "ab"),
    "stop_gradient": (lambda w: X @ lax.stop_gradient(w), (5, 5), "ab"),
    "scaled and negated": (lambda w: X @ (-w * 0.5), (5, 5), "ab"),
}  # fmt: skip


def assert_rule_gives_the_sum(function: Callable[..., Any], w: LowRank) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Materialized)
        factored = jax.jit(perturbed(function))(w)
    for ours, expected in zip(jax.tree.leaves(factored), jax.tree.leaves(function(w.materialise())), strict=True):
        assert ours.dtype == expected.dtype
        assert_allclose(ours, expected, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("name", CASES)
def test_rule_gives_what_the_sum_gives(name: str) -> None:
    function, shape, axes = CASES[name]
    assert_rule_gives_the_sum(function, weight(shape, axes))


@pytest.mark.parametrize("name", CASES)
def test_rule_holds_for_weights_in_eight_bits(name: str) -> None:
    function, shape, axes = CASES[name]
    exact = weight(shape, axes)
    copy = Quantized.of(exact.w, exact.stacked)
    assert_rule_gives_the_sum(function, LowRank(copy.values, exact.a, exact.b, axes, copy.scale))


@pytest.mark.parametrize(
    "function",
    [
        lambda w: (w + 1).sum(),
        lambda w: w / jnp.linalg.norm(w),
        lambda w: w.ravel(),
        lambda w: w * jnp.arange(15.0).reshape(5, 3),
    ],
)
def test_without_a_rule_the_sum_is_formed_with_a_warning(function: Callable[[Any], Any]) -> None:
    w = weight((5, 3), "ab")
    with pytest.warns(Materialized, match=r"no low-rank rule for the primitive \w+ on a weight of shape \(5, 3\)"):
        factored = perturbed(function)(w)
    assert_allclose(factored, function(w.materialise()), rtol=1e-5)


def test_perturbation_below_the_last_place_of_bfloat16_counts() -> None:
    """1e-3 beside 1 would vanish if the sum were rounded to bfloat16."""
    w = LowRank(jnp.ones((64, 64), jnp.bfloat16), jnp.full((64, 1), 1e-3), jnp.ones((64, 1)), "ab")
    x = jnp.ones((1, 64), jnp.bfloat16)
    wide = perturbed(lambda w: lax.dot_general(x, w, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32))(w)
    assert_allclose(wide, 64 * 1.001, rtol=1e-6)
    assert w.materialise()[0, 0] == 1


def test_float64_weights_keep_their_precision() -> None:
    with jax.enable_x64():
        w = LowRank(jnp.full((3, 3, 4, 8), 1 + 1e-12), jnp.zeros((3, 3, 4, 1), "f"), jnp.zeros((8, 1), "f"), "aaab")
        x = jnp.ones((1, 3, 3, 4))
        out = perturbed(lambda w: lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=NHWC))(w)
        assert_allclose(out, 36 * (1 + 1e-12), rtol=1e-14)
        assert_allclose(w.materialise(), 1 + 1e-12, rtol=1e-15)


def test_one_of_a_stack_by_an_index_of_any_type_of_integer() -> None:
    with jax.enable_x64():
        w = weight((4, 3, 2), "ab")
        for i in (jnp.int8(2), jnp.int32(2), jnp.uint32(2), jnp.int64(2)):
            assert_rule_gives_the_sum(lambda w, i=i: jnp.ones((1, 3), w.dtype) @ w[i], w)


def test_perturbed_matmul() -> None:
    w = weight((5, 3), "ab")
    assert_allclose(perturbed_matmul(X, w), X @ w.materialise(), rtol=1e-5, atol=1e-5)
    assert_allclose(perturbed_matmul(X, w.w), X @ w.w)


def test_members_share_one_product_with_the_weight() -> None:
    """Under vmap over members no array has a member axis and the weight's size."""
    members, d = 6, 32

    def one(a: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
        return perturbed(lambda w: jnp.tanh(x @ w))(LowRank(jnp.ones((d, d)), a, b, "ab"))

    shapes = jnp.zeros((members, d, 1)), jnp.zeros((members, d, 1)), jnp.zeros((members, d))
    text = str(jax.make_jaxpr(jax.vmap(one))(*shapes))
    assert f"{members},{d},{d}" not in text


@pytest.mark.parametrize("divides", [False, True])
def test_a_gain_of_each_member_forms_no_copy_of_the_weight(divides: bool) -> None:
    members, shape = 6, (32, 24)
    value, x = weight(shape, "ab"), jnp.ones((members, 32))
    gains = jnp.linspace(0.5, 2.0, members)

    def scaled(w: Any, gain: Any, x: Any) -> Any:
        return x @ (w / gain if divides else w * gain)

    def one(gain: jax.Array, x: jax.Array) -> jax.Array:
        return perturbed(scaled)(value, gain, x)

    text = str(jax.make_jaxpr(jax.vmap(one))(gains, x))
    assert f"{members},32,24" not in text
    expected = [scaled(value.materialise(), gain, row) for gain, row in zip(gains, x, strict=True)]
    assert_allclose(jax.jit(jax.vmap(one))(gains, x), jnp.stack(expected), rtol=1e-4, atol=1e-4)


# ---- weights that a program changes


@pytest.mark.parametrize(
    "program",
    [
        lambda w, x: x @ jax.lax.fori_loop(0, 3, lambda i, v: v + 0.5, w),
        lambda w, x: x @ jax.lax.scan(lambda v, t: (v - 0.1 * jnp.outer(t, t[:1] @ v[:1]), None), w, x[:, :20])[0],
        lambda w, x: x @ jax.lax.cond(x[0, 0] > 0, lambda v: v, lambda v: v + 1, w),
        lambda w, x: x @ jax.lax.while_loop(lambda c: c[1] < 2, lambda c: (jnp.tanh(c[0]), c[1] + 1), (w, 0))[0],
    ],
    ids=["fori", "scan", "cond", "while"],
)
def test_weights_that_a_loop_or_a_branch_changes_are_formed(program: Any) -> None:
    w = weight((20, 20), "ab")
    x = jnp.asarray(np.random.default_rng(4).normal(size=(5, 20)), jnp.float32)
    with pytest.warns(Materialized):
        out = perturbed(lambda w: program(w, x))(w)
    assert_allclose(out, program(w.materialise(), x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "program",
    [
        lambda w, x: x @ jax.lax.fori_loop(0, 3, lambda i, v: v * 0.5, w),
        lambda w, x: x @ jax.lax.cond(x[0, 0] > 0, lambda v: v, lambda v: -v, w),
        lambda w, x: x @ (w / 4.0),
        lambda w, x: x @ w[::-1],
        lambda w, x: x @ jnp.flip(w, 1),
    ],
    ids=["fori", "cond", "div", "rev", "flip"],
)
def test_weights_that_keep_their_form_stay_factored(program: Any) -> None:
    w = weight((20, 20), "ab")
    x = jnp.asarray(np.random.default_rng(4).normal(size=(5, 20)), jnp.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Materialized)
        out = perturbed(lambda w: program(w, x))(w)
    assert_allclose(out, program(w.materialise(), x), rtol=1e-4, atol=1e-4)


def test_the_product_of_two_weights_warns() -> None:
    w = weight((20, 20), "ab")
    with pytest.warns(Materialized, match="dot_general"):
        out = perturbed(lambda w: w @ w)(w)
    assert_allclose(out, w.materialise() @ w.materialise(), rtol=1e-4, atol=1e-4)
