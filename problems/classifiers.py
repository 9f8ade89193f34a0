"""Image classifiers as plain functions of a pytree, and the data that they learn from: tasks for training by values.

Normalizations are by groups of channels, not by batches: batch statistics would change with every perturbation of a
weight, so that a difference of values would measure them as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError
from blackbox.kernels.noise import fold, normal
from blackbox.problems.streams import seed_key

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from blackbox.arrays import Key


class Images(NamedTuple):
    """Images with labels, for training and held out."""

    x: Float[Array, "n height width channels"]
    y: Int[Array, "n"]
    test_x: Float[Array, "m height width channels"]
    test_y: Int[Array, "m"]


@dataclass(frozen=True)
class Classifier:
    """A network: ``init(key)`` gives its parameters, ``apply(params, x)`` the logits of images."""

    init: Callable[[Key], Any]
    apply: Callable[[Any, Any], Any]

    def loss(self, params: Any, x: Float[Array, "n ..."], y: Int[Array, "n"]) -> Float[Array, ""]:
        """Mean cross-entropy."""
        logits = jax.nn.log_softmax(self.apply(params, x).astype(jnp.float32))
        return -jnp.mean(jnp.take_along_axis(logits, y[:, None], axis=1))

    def accuracy(self, params: Any, x: Float[Array, "n ..."], y: Int[Array, "n"]) -> Float[Array, ""]:
        """Share of images whose greatest logit is their label's."""
        return jnp.mean(jnp.argmax(self.apply(params, x), axis=1) == y)


def digits(seed: int = 0) -> Images:
    """The 1,797 digits of scikit-learn, 8 x 8 pixels, of which a fifth is held out; centered and of unit deviation."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    x, test, y, test_y = train_test_split(pixels, labels, test_size=0.2, random_state=seed, stratify=labels)
    mean, deviation = x.mean(axis=0), x.std()
    x, test = (jnp.asarray((part - mean) / deviation, jnp.float32).reshape(-1, 8, 8, 1) for part in (x, test))
    return Images(x, jnp.asarray(y), test, jnp.asarray(test_y))


def synthetic_images(seed: int = 0, *, count: int = 2000, size: int = 32, channels: int = 3) -> Images:
    """Images of ten classes in the form of CIFAR-10: a smooth pattern of the class, shifted at random, and noise.

    A fifth of ``count`` is held out.
    """
    key, like = seed_key(seed), np.zeros((), np.float32)
    if count < 10 or size < 4:
        raise SettingError(f"count must be at least 10 and size at least 4, got {count} and {size}")
    coarse = normal(fold(key, 0), 0, (10, 4, 4, channels), like=like)
    patterns = np.asarray(jax.image.resize(coarse, (10, size, size, channels), "cubic"))
    rng = np.random.default_rng(np.asarray(fold(key, 1)))
    y = rng.integers(0, 10, count)
    shifts = rng.integers(-size // 8, size // 8 + 1, (count, 2))
    x = np.stack([np.roll(patterns[label], shift, (0, 1)) for label, shift in zip(y, shifts, strict=True)])
    x = x + normal(fold(key, 2), 0, x.shape, like=like)
    held = count // 5
    return Images(*(jnp.asarray(part) for part in (x[held:], y[held:], x[:held], y[:held])))


def mlp(sizes: tuple[int, ...] = (64, 16, 10)) -> Classifier:
    """Layers with ReLU between them, of the given widths."""

    def init(key: Key) -> Any:
        return [_dense(fold(key, i), n, m) for i, (n, m) in enumerate(itertools.pairwise(sizes))]

    def apply(params: Any, x: Any) -> Any:
        h = x.reshape(x.shape[0], -1)
        for i, layer in enumerate(params):
            h = (jax.nn.relu(h) if i else h) @ layer["w"] + layer["b"]
        return h

    return Classifier(init, apply)


def conv_net(width: int = 12, size: int = 8, channels: int = 1, classes: int = 10) -> Classifier:
    """A convolution of 3 x 3, ReLU, mean pooling and a dense layer: 1,210 parameters for 12 channels and digits."""
    pooled = (size - 2) // 2

    def init(key: Key) -> Any:
        return {
            "conv": {"w": _kernel(fold(key, 0), channels, width), "b": jnp.zeros(width)},
            "dense": _dense(fold(key, 1), pooled * pooled * width, classes),
        }

    def apply(params: Any, x: Any) -> Any:
        h = jax.nn.relu(_convolved(params["conv"]["w"], x, padding="VALID") + params["conv"]["b"])
        h = jax.lax.reduce_window(h, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        return h.reshape(h.shape[0], -1) @ params["dense"]["w"] + params["dense"]["b"]

    return Classifier(init, apply)


def resnet20(width: int = 16, channels: int = 3, classes: int = 10, groups: int = 4) -> Classifier:
    """ResNet-20 for small images (He et al. 2016, arXiv:1512.03385, section 4.2) with group normalization.

    Three stages of three blocks of two convolutions each, of ``width``, ``2 width`` and ``4 width`` channels;
    shortcuts that change the shape are strided and padded with zeros (option A). 270,000 parameters for width 16.
    """
    if width % groups:
        raise SettingError(f"groups must divide width {width}, got {groups}")
    blocks = [(width * 2**stage, 2 if stage and not block else 1) for stage in range(3) for block in range(3)]

    def init(key: Key) -> Any:
        params: dict[str, Any] = {"stem": {"w": _kernel(fold(key, 0), channels, width), "norm": _norm(width)}}
        before = width
        for i, (wide, _) in enumerate(blocks):
            params[f"block{i}"] = {
                "first": _kernel(fold(key, 1, i), before, wide),
                "first_norm": _norm(wide),
                "second": _kernel(fold(key, 2, i), wide, wide),
                "second_norm": _norm(wide),
            }
            before = wide
        params["dense"] = _dense(fold(key, 3), before, classes)
        return params

    def apply(params: Any, x: Any) -> Any:
        h = jax.nn.relu(_normalized(params["stem"]["norm"], _convolved(params["stem"]["w"], x), groups))
        for i, (wide, stride) in enumerate(blocks):
            own = params[f"block{i}"]
            y = jax.nn.relu(_normalized(own["first_norm"], _convolved(own["first"], h, stride), groups))
            y = _normalized(own["second_norm"], _convolved(own["second"], y), groups)
            shortcut = h[:, ::stride, ::stride]
            h = jax.nn.relu(y + jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, wide - shortcut.shape[-1]))))
        return h.mean(axis=(1, 2)) @ params["dense"]["w"] + params["dense"]["b"]

    return Classifier(init, apply)


def _dense(key: Key, inputs: int, outputs: int) -> dict[str, Any]:
    w = normal(key, 0, (inputs, outputs), like=jnp.zeros((), jnp.float32)) * (2 / inputs) ** 0.5
    return {"w": w, "b": jnp.zeros(outputs)}


def _kernel(key: Key, inputs: int, outputs: int) -> Array:
    return normal(key, 0, (3, 3, inputs, outputs), like=jnp.zeros((), jnp.float32)) * (2 / (9 * inputs)) ** 0.5


def _norm(width: int) -> dict[str, Any]:
    return {"scale": jnp.ones(width), "shift": jnp.zeros(width)}


def _convolved(w: Any, x: Any, stride: int = 1, padding: str = "SAME") -> Any:
    return jax.lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _normalized(params: Any, x: Any, groups: int) -> Any:
    """Wu & He 2018, "Group normalization" (arXiv:1803.08494)."""
    h = x.reshape(*x.shape[:-1], groups, -1)
    axes = (*range(1, x.ndim - 1), x.ndim)
    mean = h.mean(axis=axes, keepdims=True)
    h = (h - mean) * jax.lax.rsqrt(jnp.square(h - mean).mean(axis=axes, keepdims=True) + 1e-5)
    return h.reshape(x.shape) * params["scale"] + params["shift"]
