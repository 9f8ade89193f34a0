"""A language model in int8 learns Python's own sources without a gradient and without a float.

Without an argument 300 updates, half a minute; ``python egg_language_model.py 6000`` takes some minutes and goes on
towards the bigram line.
"""

import sys

import jax
import jax.numpy as jnp

import blackbox as bb
from blackbox.problems import corpus, egg

UPDATES = int(sys.argv[1]) if len(sys.argv) > 1 else 300
POPSIZE, WINDOW = 2048, 16

text = corpus.standard_library()
train = jnp.asarray(text.train)
strategy = bb.es.IntegerEggroll(popsize=POPSIZE, fraction=lambda t: 0.3 * 0.1 ** (t / UPDATES), horizon=UPDATES)
params = egg.init(seed=0, width=16)
begin = jnp.arange(POPSIZE // 2) * (len(train) // (POPSIZE // 2))  # each pair of members reads on from its own place


@jax.jit
def update(state, hidden):
    places = begin[:, None] + state.generation * WINDOW + jnp.arange(WINDOW + 1)
    window = jnp.repeat(train[places % len(train)], 2, axis=0)
    population = strategy.ask(state)
    losses, hidden = bb.evaluate(egg.loss, population, hidden, window, in_axes=0, chunk=256)
    population = population.reading({"embedding": egg.bytes_read(window)})
    return strategy.tell(state, population, losses), egg.pair_mean(hidden)


state, hidden = strategy.init(bb.key(0), params), egg.start(params, POPSIZE)
for step in range(UPDATES):
    state, hidden = update(state, hidden)
    if step % max(1, UPDATES // 5) == 0:
        bits = egg.bits_per_byte(strategy.recommend(state), text.held_out)
        print(f"update {step + 1}: {bits:.3f} bits per byte of held-out text")

bits = egg.bits_per_byte(strategy.recommend(state), text.held_out)
print(f"unigram {corpus.unigram(text):.3f}, bigram {corpus.bigram(text):.3f}, gzip -9 {corpus.gzip_bits(text):.3f}")
print(f"held-out text: {bits:.3f} bits per byte after {UPDATES} updates")
