"""A pendulum is swung up by a network of 17,000 weights: EGGROLL, one episode for each candidate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import blackbox as bb
from blackbox.problems.control import JaxControl

GENERATIONS, POPSIZE = 60, 256
task = JaxControl("Pendulum-v1", episodes=POPSIZE // 2)
rng = np.random.default_rng(0)


def layer(inputs, outputs):
    return jnp.asarray(rng.normal(size=(inputs, outputs)) / inputs**0.5, jnp.float32), jnp.zeros(outputs)


def network(params, x):
    for matrix, bias in params[:-1]:
        x = jax.nn.relu(jax.nn.standardize(x @ matrix + bias))
    return x @ params[-1][0] + params[-1][1]


def cost(params, start):  # of one candidate: minus the return of its episode
    return task.cost(lambda observation: network(params, observation), start)


strategy = bb.es.Eggroll(popsize=POPSIZE, sigma=0.1, shaping="centered-ranks", optimizer=optax.adam(0.03))
state = strategy.init(bb.key(0), [layer(3, 128), layer(128, 128), layer(128, 1)])
for generation in range(GENERATIONS):
    starts = np.repeat(task.starts(generation), 2, axis=0)  # the two sides of a pair play the same episode
    population = strategy.ask(state)
    fitness = bb.evaluate(cost, population, jnp.asarray(starts, jnp.float32), in_axes=0)
    state = strategy.tell(state, population, fitness)
    if generation % 10 == 9:
        print(f"generation {generation + 1}: mean return of the population {-float(fitness.mean()):.0f}")

policy = strategy.recommend(state)
unseen = -float(task.test_score(lambda observation: network(policy, observation)))
print(f"mean return of the policy: {unseen:.0f} in unseen episodes after {GENERATIONS * POPSIZE} episodes")
