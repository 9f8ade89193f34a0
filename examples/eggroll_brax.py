"""A pole on a cart in brax, balanced by a network of two layers of 256: EGGROLL, an equinox model as it is."""

import sys

try:
    from brax import envs
except ImportError:
    sys.exit("This example needs brax: pip install brax")

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import blackbox as bb

POPSIZE, GENERATIONS, STEPS = 64, 30, 500
env = envs.get_environment("inverted_pendulum", backend="positional")
widths, keys = (env.observation_size, 256, 256), jax.random.split(jax.random.key(0), 3)
layers = []
for inputs, outputs, key in zip(widths, widths[1:], keys, strict=False):
    layers += [eqx.nn.Linear(inputs, outputs, key=key), eqx.nn.LayerNorm(outputs), eqx.nn.Lambda(jax.nn.relu)]
model = eqx.nn.Sequential([*layers, eqx.nn.Linear(256, env.action_size, key=keys[-1])])


def cost(model, key):  # of one candidate: minus its return in the episode that the key begins
    def is_running(carry):
        time, state, _ = carry
        return (time < STEPS) & (state.done == 0)

    def advance(carry):
        time, state, total = carry
        state = env.step(state, jnp.tanh(model(state.obs)))
        return time + 1, state, total + state.reward

    return -jax.lax.while_loop(is_running, advance, (0, env.reset(key), 0.0))[2]


strategy = bb.es.Eggroll(popsize=POPSIZE, sigma=0.1, shaping="centered-ranks", optimizer=optax.adam(0.1))
state = strategy.init(bb.key(0), model)
for generation in range(GENERATIONS):
    keys = jax.random.split(jax.random.key(generation), POPSIZE // 2)
    population = strategy.ask(state)
    fitness = bb.evaluate(cost, population, jnp.repeat(keys, 2), in_axes=0)  # a pair plays the same episode
    state = strategy.tell(state, population, fitness)
    if generation % 5 == 4:
        print(f"generation {generation + 1}: mean return of the population {-float(fitness.mean()):.0f} of {STEPS}")

policy = strategy.recommend(state)
unseen = -eqx.filter_vmap(cost, in_axes=(None, 0))(policy, jax.random.split(jax.random.key(1000), 32)).mean()
print(f"mean return of the policy: {float(unseen):.0f} of {STEPS} in unseen episodes")
