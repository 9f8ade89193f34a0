"""A network that shows nothing but its scores is fooled: digits are attacked with 500 queries each.

An attacker who can only ask for the scores of an image minimizes Carlini and Wagner's loss by estimated gradients,

    f(delta)  =  max(score_true - max_{i != true} score_i, -kappa)  +  c |delta|^2

coordinate by coordinate with Adam (Chen et al. 2017, arXiv:1708.03999, ZOO), along random directions as in
ZO-AdaMM (Chen et al. 2019, arXiv:1910.06513), and by the signs alone as in ZO-signSGD (Liu et al. 2019).
"""

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import blackbox as bb
from blackbox.problems import classifiers

mpl.use("Agg")

LIMIT, DIRECTIONS, LR, KAPPA, C = 500, 16, 0.03, 0.5, 1.0
pixels, digits = load_digits(return_X_y=True)
parts = train_test_split(np.float32(pixels / 16), digits, test_size=0.2, random_state=0, stratify=digits)
train_x, test_x, train_y, test_y = (jnp.asarray(part) for part in parts)
mean, deviation = train_x.mean(axis=0), train_x.std()
network, adam, rng = classifiers.conv_net(), optax.adam(0.01), np.random.default_rng(0)


def logits(params, x):  # x: pixels from 0 to 1, (n, 64)
    return network.apply(params, ((x - mean) / deviation).reshape(-1, 8, 8, 1))


@jax.jit
def trained(params, batches):  # by backpropagation, as usual: from here on only the scores are seen
    def step(carry, rows):
        params, state = carry
        images, labels = (train_x[rows] - mean) / deviation, train_y[rows]
        gradient = jax.grad(network.loss)(params, images.reshape(-1, 8, 8, 1), labels)
        moves, state = adam.update(gradient, state)
        return (optax.apply_updates(params, moves), state), None

    return jax.lax.scan(step, (params, adam.init(params)), batches)[0][0]


params = trained(network.init(bb.key(0)), rng.integers(0, len(train_x), (400, 64)))
guesses = np.asarray(logits(params, test_x).argmax(axis=1))
chosen = np.concatenate([np.flatnonzero((test_y == digit) & (guesses == digit))[:3] for digit in range(10)])
images, labels = test_x[chosen], test_y[chosen]
print(f"test accuracy {(guesses == test_y).mean():.3f}; {len(images)} images that it gets right are attacked")


def margin(image, label):  # below zero: another class has a greater score
    scores = jax.nn.log_softmax(logits(params, image[None])[0])
    return scores[label] - jnp.max(jnp.where(jnp.arange(10) == label, -jnp.inf, scores))


def objective(delta, image, label):
    return jnp.maximum(margin(jnp.clip(image + delta, 0, 1), label), -KAPPA) + C * jnp.sum(delta**2)


def attack(estimator, optimizer):
    """Perturbations after each step, (images, steps, 64), their margins, and the queries up to each."""
    value_and_grad = bb.zo.value_and_grad(objective, estimator)
    queries = estimator.evaluations(images[0])
    numbers = jnp.arange((LIMIT - 1) // queries)

    def one(image, label, key):
        def step(carry, number):
            delta, state = carry
            _, gradient = value_and_grad(delta, bb.fold(key, number), image, label)
            moves, state = optimizer.update(gradient, state)
            delta = jnp.clip(image + delta + moves, 0, 1) - image
            return (delta, state), (delta, margin(image + delta, label))

        delta = jnp.zeros(64)
        return jax.lax.scan(step, (delta, optimizer.init(delta)), numbers)[1]

    keys = jnp.stack([bb.key(i) for i in range(len(images))])
    # The margin after a step is seen with the next one's first query, which is its center.
    return *jax.jit(jax.vmap(one))(images, labels, keys), np.asarray((numbers + 1) * queries + 1)


methods = {
    "CGE, Adam": (bb.zo.CGE(queries=DIRECTIONS, central=False), optax.adam(LR)),
    "RGE, AdaMM": (bb.zo.RGE(queries=DIRECTIONS, central=False), optax.amsgrad(LR)),
    "RGE, signs": (bb.zo.RGE(queries=DIRECTIONS, central=False), optax.sign_sgd(LR)),
}


def fooled_by_noise(size):
    """The share of images that LIMIT draws of noise fool, each of the length of the image's perturbation."""
    count = 0
    for image, label, length in zip(images, labels, size, strict=True):
        noise = rng.normal(size=(LIMIT, 64))
        for _ in range(20):  # pixels stay between 0 and 1, which shortens it
            noise *= length / np.linalg.norm(np.clip(image + noise, 0, 1) - image, axis=1, keepdims=True)
        count += bool((logits(params, jnp.clip(image + noise, 0, 1)).argmax(axis=1) != label).any())
    return count / len(images)


figure = plt.figure(figsize=(11, 7.2), layout="constrained")
curves, pictures = figure.subfigures(2, 1, height_ratios=(1, 1.15))
over_queries, over_size = curves.subplots(1, 2, sharey=True)
for (name, (estimator, optimizer)), color in zip(methods.items(), ("#0072B2", "#D55E00", "#009E73"), strict=True):
    deltas, margins, queries = (np.asarray(part) for part in attack(estimator, optimizer))
    fooled = margins < 0
    success = fooled.any(axis=1)
    first = np.where(success, queries[fooled.argmax(axis=1)], np.inf)
    sizes = np.where(fooled, np.linalg.norm(deltas, axis=2), np.inf)
    least, best = sizes.min(axis=1), deltas[np.arange(len(deltas)), sizes.argmin(axis=1)]
    by_noise = fooled_by_noise(np.where(success, least, least[success].max()))
    print(
        f"{name}: {success.mean():.0%} fooled, median of {np.median(first):.0f} queries, of length "
        f"{np.median(least):.2f}; {by_noise:.0%} by noise of that length"
    )
    shares = np.arange(len(images) + 1) / len(images)
    for panel, values in ((over_queries, first), (over_size, least)):
        panel.step([0, *np.sort(values)], 100 * shares, where="post", color=color, lw=2, label=name)
over_queries.set(xlabel="queries", ylabel="images fooled, %", xlim=(0, None))
over_size.set(xlabel="length of the shortest perturbation that fools", xlim=(0, None))
over_queries.legend(frameon=False, loc="lower right")

# The pictures are of the last method: the first image of each digit.
wrong = np.asarray(logits(params, images + best).argmax(axis=1))
panels = pictures.subplots(3, 10)
for column, which in enumerate(range(0, len(images), 3)):
    rows = (
        (images[which], "gray_r", 0, 1),
        (best[which], "RdBu_r", -0.5, 0.5),
        (images[which] + best[which], "gray_r", 0, 1),
    )
    for panel, (values, colors, low, high) in zip(panels[:, column], rows, strict=True):
        panel.imshow(np.asarray(values).reshape(8, 8), cmap=colors, vmin=low, vmax=high)
        panel.set(xticks=[], yticks=[])
    panels[0, column].set_title(f"read as {labels[which]}", fontsize=10)
    panels[2, column].set_xlabel(f"read as {wrong[which]}", fontsize=10, color="#D55E00")
for panel, label in zip(panels[:, 0], ("image", "perturbation", "sum"), strict=True):
    panel.set_ylabel(label)
figure.savefig("adversarial_attack.png", dpi=120)
print(
    f"signs of estimated gradients fool {success.mean():.0%} of {len(images)} images, noise of the same length "
    f"{by_noise:.0%}; picture: adversarial_attack.png"
)
