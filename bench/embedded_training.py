"""Trains the embedded model of ``bb.llm``: python bench/embedded_training.py, some 40 minutes of one core.

Maximum likelihood of where solutions of a desired loss are (``bench/embedded_contexts.py``) on random functions
(``bench/embedded_landscapes.py``). A fifth of the rounds begins with runs of evolution strategies alone; then the model
leads seven of ten runs itself, so that it is asked about lists that it leads to. It writes the weights, in half
precision, to blackbox/llm/embedded.safetensors, and prints how EvoLLM's numbers do on further functions of training.
The same seed gives the same weights on the same machine, up to the rounding of its libraries.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from embedded_contexts import POPSIZE, Policy, batch, questions, run
from embedded_landscapes import KINDS, Landscapes

from blackbox.llm import coordinate_transformer as network

ROUND = 150  # steps by the lists of the same runs
SIZES = {  # variables: functions a round, lists a step, share of the steps
    2: (384, 1024, 0.3),
    3: (256, 768, 0.15),
    5: (256, 512, 0.25),
    8: (128, 320, 0.15),
    20: (96, 384, 0.15),
}
RATE = 2e-3
WEIGHTS = Path(__file__).parents[1] / "blackbox" / "llm" / "embedded.safetensors"

forward = jax.jit(lambda parameters, features: network.logits(jnp, parameters, features))


def logits_of(parameters: dict, features: np.ndarray) -> np.ndarray:
    """What the model answers."""
    return np.asarray(forward(parameters, features))


def loss(parameters: dict, features: jax.Array, answers: jax.Array) -> jax.Array:
    """Cross entropy with the answers' bins, smoothed over their neighbours, less its least value."""
    logs = jax.nn.log_softmax(network.logits(jnp, parameters, features))
    at = jnp.clip(answers, 0, network.BINS - 1)[..., None]
    target = jax.nn.softmax(-0.5 * ((jnp.arange(network.BINS) - at) / 0.6) ** 2)
    return jnp.mean(-jnp.sum(target * logs, axis=-1) - jnp.sum(jax.scipy.special.entr(target), axis=-1))


def trained(rng: np.random.Generator, width: int, layers: int, rounds: int) -> dict:
    """The parameters after so many rounds."""
    parameters = jax.tree.map(jnp.asarray, network.initial(rng, width, layers))
    steps = rounds * ROUND
    rate = optax.warmup_cosine_decay_schedule(0.0, RATE, 200, steps, 0.003 * RATE)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=0.01))
    state = optimizer.init(parameters)

    @jax.jit
    def step(parameters, state, features, answers):
        value, gradient = jax.value_and_grad(loss)(parameters, features, answers)
        update, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, update), state, value

    for number in range(rounds):
        share = 0.0 if number < rounds / 5 else 0.7
        asked, values = {}, {d: [] for d in SIZES}
        answers = functools.partial(logits_of, parameters)
        for d, (functions, _, _) in SIZES.items():
            shown = d if d <= 8 else int(rng.choice([5, 8]))
            asked[d] = questions(rng, functions, d, answers, share, shown)
        for d in rng.choice(list(SIZES), ROUND, p=[share for _, _, share in SIZES.values()]).tolist():
            parameters, state, value = step(parameters, state, *batch(asked[d], rng, SIZES[d][1]))
            values[d].append(float(value))
        means = {d: round(float(np.mean(each)), 3) for d, each in values.items() if each}
        print(f"round {number + 1} of {rounds}, {time.process_time():.0f} CPU s: {means}", flush=True)
    return {name: np.asarray(value) for name, value in parameters.items()}


def tried(parameters: dict, cautions: list[float], deltas: list[float], generations: int = 20) -> None:
    """Print mean logarithms of what is left after 20 generations, by 40 functions of each kind."""

    answers = functools.partial(logits_of, parameters)
    rows = [("evolution strategy", False, 1.0, 0.1)]
    rows += [(f"caution {c:g}, delta {delta:g}", True, c, delta) for c in cautions for delta in deltas]
    for name, by_model, caution, delta in rows:
        scores = []
        for d in (2, 5, 10):
            left = []
            for kind in KINDS:
                functions = Landscapes.drawn(np.random.default_rng(77), 40, d, kind)
                least = functions(functions.optimum[:, None])[:, 0]
                policy = Policy.fixed(40, by_model, caution, delta)
                _, best = run(functions, np.random.default_rng(9), answers, policy, generations)
                left.append(np.mean(np.log10(best - least + 1e-10)))
            scores.append(f"{np.mean(left):.2f}")
        print(f"{name}: {', '.join(scores)} in 2, 5 and 10 dimensions, {generations * POPSIZE} evaluations", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    from safetensors.numpy import save_file

    rng = np.random.default_rng(given.seed)
    parameters = trained(rng, given.width, given.layers, given.rounds)
    half = {name: value.astype(np.float16) for name, value in parameters.items()}
    save_file(half, given.out, metadata={"format": "blackbox-coordinate-transformer-1", "seed": str(given.seed)})
    count = sum(math.prod(value.shape) for value in parameters.values())
    print(f"{count} parameters, {given.out.stat().st_size} bytes")
    tried(parameters, [0.15, 0.25, 0.35, 0.5], [0.03, 0.1, 0.3])


if __name__ == "__main__":
    main()
