"""A transformer fine-tuned by EGGROLL on a score without a gradient: are the answers it writes exactly right?

python eggroll_transformer.py            seed 0, learning rate 0.1
python eggroll_transformer.py 3 0.2      seed 3, learning rate 0.2

It is pretrained by backpropagation on sums of a careless author, who forgets every other time to carry. Each answer is
decoded greedily, and all that fine-tuning learns of it is whether it is right. Answers begin with the last digit.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import blackbox as bb
from blackbox.virtual import Leaf

WIDTH, LAYERS, PLUS, EQUALS = 32, 2, 10, 11  # tokens 0 to 9 are the digits
POPSIZE, GROUP, QUESTIONS, GENERATIONS = 512, 32, 8, 50
SEED = int(sys.argv[1]) if len(sys.argv) > 1 else 0
LEARNING_RATE = float(sys.argv[2]) if len(sys.argv) > 2 else 0.1


class Block(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.norm, self.second_norm = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(nnx.gelu(self.up(self.second_norm(x))))


class Transformer(nnx.Module):
    def __init__(self, rngs):
        self.tokens, self.positions = nnx.Embed(12, WIDTH, rngs=rngs), nnx.Embed(9, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.norm, self.out = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.Linear(WIDTH, 12, rngs=rngs)

    def __call__(self, text):
        x = self.tokens(text) + self.positions(jnp.arange(text.shape[-1]))
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))


def lines(sums, forgets):
    """Texts such as 37+85=221, of shape (n, 9), for numbers such as 3785."""
    tens, units = (np.stack([sums // 10**k % 10 for k in places], axis=1) for places in ((3, 1), (2, 0)))
    carry = (units.sum(axis=1) > 9) & ~forgets
    upper = tens.sum(axis=1) + carry
    hundreds = (upper > 9) & ~forgets
    answer = [units.sum(axis=1) % 10, upper % 10, hundreds]
    symbols = [np.full(len(sums), symbol) for symbol in (PLUS, EQUALS)]
    text = [tens[:, 0], units[:, 0], symbols[0], tens[:, 1], units[:, 1], symbols[1], *answer]
    return jnp.asarray(np.stack(text, axis=1))


rng = np.random.default_rng(SEED)
unseen, known = np.split(rng.permutation(10_000), [2_000])
graph, params = nnx.split(Transformer(nnx.Rngs(SEED)))


def cross_entropy(params, text):
    logits = nnx.merge(graph, params)(text[:, :-1])[:, 5:]
    return optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 6:]).mean()


def errors(params, text):  # the share of wrong answers: argmax and equality have no gradient
    written = text[:, :6]
    for _ in range(3):
        next_token = nnx.merge(graph, params)(written)[:, -1].argmax(axis=-1)
        written = jnp.concatenate([written, next_token[:, None]], axis=1)
    return jnp.mean(jnp.any(written != text, axis=1))


@jax.jit
def pretrain(params, moments, text):
    updates, moments = adam.update(jax.grad(cross_entropy)(params, text), moments)
    return optax.apply_updates(params, updates), moments


adam = optax.adam(optax.cosine_decay_schedule(3e-3, 600))
moments = adam.init(params)
for _ in range(600):
    sums = rng.choice(known, 256)
    params, moments = pretrain(params, moments, lines(sums, rng.random(len(sums)) < 0.5))
test = lines(unseen, np.zeros(len(unseen), bool))
before = 1 - jax.jit(errors)(params, test)
print(f"pretrained on careless sums: {before:.3f} of unseen questions answered right")

strategy = bb.es.Eggroll(
    popsize=POPSIZE,
    sigma=0.02,
    optimizer=optax.sgd(optax.cosine_decay_schedule(LEARNING_RATE, GENERATIONS)),
    shaping="group-relative",
    group_size=GROUP,  # members that meet the same questions
    policy={"*bias*": Leaf(noise="frozen"), "*norm*": Leaf(noise="frozen")},
)
state = strategy.init(bb.key(SEED), params)
for generation in range(GENERATIONS):
    sums = rng.choice(known, POPSIZE // GROUP * QUESTIONS, replace=False)
    questions = lines(sums, np.zeros(len(sums), bool)).reshape(-1, QUESTIONS, 9)
    population = strategy.ask(state)
    fitness = bb.evaluate(errors, population, jnp.repeat(questions, GROUP, axis=0), in_axes=(0,), chunk=64)
    state = strategy.tell(state, population, fitness)
    if generation % 10 == 9:
        print(f"generation {generation + 1}: the members answered {1 - fitness.mean():.3f} right")

after = 1 - jax.jit(errors)(strategy.recommend(state), test)
print(f"exactly right before {before:.3f}, after fine-tuning {after:.3f}")
