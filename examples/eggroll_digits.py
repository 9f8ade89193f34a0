"""A network learns handwritten digits without backpropagation: EGGROLL, forward passes alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import blackbox as bb

GENERATIONS, BATCH = 200, 128
pixels, digits = load_digits(return_X_y=True)
inputs = pixels.astype(np.float32) / 16
split = train_test_split(inputs, digits, test_size=0.2, random_state=0, stratify=digits)
train_x, test_x, train_y, test_y = map(jnp.asarray, split)
rng = np.random.default_rng(0)


def layer(inputs, outputs):
    return {"w": jnp.asarray(rng.normal(size=(inputs, outputs)) / inputs**0.5, jnp.float32), "b": jnp.zeros(outputs)}


def network(params, x):
    for part in params[:-1]:
        x = jax.nn.relu(x @ part["w"] + part["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def loss(params, x, y):  # of one candidate; nothing in it knows of populations
    return optax.softmax_cross_entropy_with_integer_labels(network(params, x), y).mean()


strategy = bb.es.Eggroll(
    popsize=512,
    sigma=0.05,
    shaping="centered-ranks",
    optimizer=optax.adam(optax.cosine_decay_schedule(0.02, GENERATIONS)),
)
state = strategy.init(bb.key(0), [layer(64, 256), layer(256, 256), layer(256, 10)])
for generation in range(GENERATIONS):
    batch = rng.choice(len(train_y), BATCH, replace=False)
    population = strategy.ask(state)
    fitness = bb.evaluate(loss, population, train_x[batch], train_y[batch], chunk=64)
    state = strategy.tell(state, population, fitness)
    if generation % 50 == 49:
        print(f"generation {generation + 1}: mean loss of the population {float(fitness.mean()):.3f}")

correct = network(strategy.recommend(state), test_x).argmax(axis=1) == test_y
print(f"test accuracy {float(correct.mean()):.3f} after {GENERATIONS} generations")
