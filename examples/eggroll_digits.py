"""A network learns handwritten digits without backpropagation: EGGROLL, forward passes alone.

python eggroll_digits.py         an MLP
python eggroll_digits.py conv    a network with a convolution
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import blackbox as bb

GENERATIONS, SHIFTED = (1200, 0.3) if "conv" in sys.argv else (800, 0.2)
BATCH = 32
pixels, digits = load_digits(return_X_y=True)
images = pixels.reshape(-1, 8, 8, 1).astype(np.float32)
train_x, test_x, train_y, test_y = train_test_split(images, digits, test_size=0.2, random_state=0, stratify=digits)
mean, deviation = train_x.mean(axis=0), train_x.std()
rng = np.random.default_rng(0)


def some_shifted(images):  # by up to one pixel in each direction
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    down, right = np.where(rng.random(len(images)) < SHIFTED, rng.integers(0, 3, (2, len(images))), 1)
    return np.stack([image[i : i + 8, j : j + 8] for image, i, j in zip(padded, down, right, strict=True)])


def layer(*shape):
    w = rng.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5
    return {"w": jnp.asarray(w, jnp.float32), "b": jnp.zeros(shape[-1])}


def dense(layer, x):
    return x.reshape(len(x), -1) @ layer["w"] + layer["b"]


def convolution(layer, x):
    form = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, layer["w"], (1, 1), "VALID", dimension_numbers=form) + layer["b"]


if "conv" in sys.argv:
    first, params = convolution, [layer(5, 5, 1, 32), layer(4 * 4 * 32, 10)]
else:
    first, params = dense, [layer(8 * 8, 256), layer(256, 10)]


def network(params, x):
    return dense(params[1], jax.nn.relu(first(params[0], x)))


def loss(params, x, y):  # of one candidate; nothing in it knows of populations
    return optax.softmax_cross_entropy_with_integer_labels(network(params, x), y).mean()


strategy = bb.es.Eggroll(
    popsize=2048,
    sigma=0.05,
    shaping="centered-ranks",
    optimizer=optax.adam(optax.cosine_decay_schedule(0.008, GENERATIONS)),
)
state = strategy.init(bb.key(0), params)
for generation in range(GENERATIONS):
    batch = rng.choice(len(train_y), BATCH, replace=False)
    x = (some_shifted(train_x[batch]) - mean) / deviation
    population = strategy.ask(state)
    fitness = bb.evaluate(loss, population, jnp.asarray(x), jnp.asarray(train_y[batch]), chunk=64)
    state = strategy.tell(state, population, fitness)
    if generation % 200 == 199:
        print(f"generation {generation + 1}: mean loss of the population {float(fitness.mean()):.3f}")

correct = network(strategy.recommend(state), (test_x - mean) / deviation).argmax(axis=1) == test_y
print(f"test accuracy {float(correct.mean()):.3f} after {GENERATIONS} generations")
