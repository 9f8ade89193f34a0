"""A classifier learns handwritten digits by consensus of a hundred particles: no gradient, forward passes alone.

Each batch of images is seen by ten particles at a time, of which the better ones pull all hundred. The method is that
of Carrillo, Jin, Li & Zhu 2021, the whole training one compiled program.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import blackbox as bb

EPOCHS, PARTICLES, BATCH, IMAGES = 50, 100, 10, 60
pixels, digits = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(pixels, digits, test_size=0.2, random_state=0, stratify=digits)
mean, deviation = train_x.mean(axis=0), train_x.std()
x, y = jnp.asarray((train_x - mean) / deviation, jnp.float32), jnp.asarray(train_y)


def network(parameters, x):
    return x @ parameters[:640].reshape(64, 10) + parameters[640:]


def loss(parameters, x, y):  # of one particle
    return -jnp.mean(jax.nn.log_softmax(network(parameters, x))[jnp.arange(len(y)), y])


strategy = bb.cbo.CBO(
    popsize=PARTICLES, batch=BATCH, update="full", diffusion="anisotropic", sigma0=1.0, drift=0.1, s=0.2,
    truncation=float("inf"), alpha="geometric", growth=1.0, alpha_max=1e30, agreed="kick",
)  # fmt: skip


def epoch(state, given):
    number, batches = given
    cooled = dataclasses.replace(strategy, s=0.2 / jnp.log2(number + 2), alpha0=50 * 2.0**number)

    def step(state, rows):
        population = cooled.ask(state)
        fitness = jax.vmap(loss, in_axes=(0, None, None))(population, x[rows], y[rows])
        return cooled.tell(state, population, fitness), fitness.min()

    return jax.lax.scan(step, state, jnp.repeat(batches, PARTICLES // BATCH, axis=0))


rng, steps = np.random.default_rng(0), len(y) // IMAGES
orders = np.stack([rng.permutation(len(y))[: steps * IMAGES] for _ in range(EPOCHS)])
batches = jnp.asarray(orders.reshape(EPOCHS, steps, IMAGES))
state = strategy.init(bb.key(0), jnp.zeros(650))
state, losses = jax.jit(lambda state: jax.lax.scan(epoch, state, (jnp.arange(float(EPOCHS)), batches)))(state)
for number in range(9, EPOCHS, 10):
    print(f"epoch {number + 1}: loss of the better particles {float(losses[number].mean()):.3f}")

correct = network(state.consensus, (test_x - mean) / deviation).argmax(axis=1) == test_y
print(f"test accuracy {float(correct.mean()):.3f} after {EPOCHS * steps * PARTICLES} evaluations")
