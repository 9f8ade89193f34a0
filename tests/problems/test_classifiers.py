"""Classifiers and their data: sizes, seeds, and that they can be learned."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.problems import classifiers


@pytest.mark.parametrize(
    ("network", "shape", "size"),
    [
        (classifiers.mlp(), (8, 8, 1), 1_210),
        (classifiers.conv_net(), (8, 8, 1), 1_210),
        (classifiers.resnet20(), (32, 32, 3), 269_722),
        (classifiers.resnet20(width=4, channels=1, groups=2), (8, 8, 1), 17_254),
    ],
)
def test_parameters_and_logits(network: classifiers.Classifier, shape: tuple[int, ...], size: int) -> None:
    params = jax.eval_shape(network.init, bb.key(0))
    assert sum(p.size for p in jax.tree.leaves(params)) == size
    assert jax.eval_shape(network.apply, params, jax.ShapeDtypeStruct((5, *shape), jnp.float32)).shape == (5, 10)


def test_data_are_those_of_their_seed_and_apart() -> None:
    data = classifiers.digits(3)
    assert data.x.shape == (1437, 8, 8, 1) and data.test_x.shape == (360, 8, 8, 1)
    assert abs(float(data.x.mean())) < 1e-6
    for make in (classifiers.digits, classifiers.synthetic_images):
        first, again, other = make(0), make(0), make(1)
        np.testing.assert_array_equal(first.x, again.x)
        assert not np.array_equal(first.x, other.x)
    drawn = classifiers.synthetic_images(0, count=50, size=16, channels=2)
    assert drawn.x.shape == (40, 16, 16, 2) and drawn.test_x.shape == (10, 16, 16, 2)
    with pytest.raises(bb.SettingError, match="count must be at least 10"):
        classifiers.synthetic_images(count=3)


def test_loss_is_the_mean_cross_entropy() -> None:
    network = classifiers.mlp((64, 10))
    params = network.init(bb.key(0))
    data = classifiers.digits(0)
    x, y = data.test_x, data.test_y
    logits = np.asarray(network.apply(params, x), np.float64)
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(360), np.asarray(y)])
    assert float(network.loss(params, x, y)) == pytest.approx(expected, rel=1e-5)
    assert float(network.accuracy(params, x, y)) == pytest.approx(np.mean(logits.argmax(axis=1) == np.asarray(y)))
    with pytest.raises(bb.SettingError, match="groups must divide width 6, got 4"):
        classifiers.resnet20(width=6)
