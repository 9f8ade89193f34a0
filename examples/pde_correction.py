"""A coarse solver of Burgers' equation that nobody can differentiate is corrected by a network, trained through it.

After each step of the solver a small network adds to its result what the coarse grid has lost. It is trained on pairs
of one step, without the solver (Um et al. 2020, arXiv:2007.00016, call that non-interactive); so it has never seen what
its own corrections lead to. Then it is trained through thirty steps of solver and corrections. The solver computes in
fixed point: its rounding has the derivative zero, so that backpropagation would not see past the last step. DeepZero
(Chen et al. 2024, arXiv:2310.02025, section 5) needs values of the error, no more.
"""

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from matplotlib import pyplot as plt

import blackbox as bb

mpl.use("Agg")

CELLS, FINE, VISCOSITY, DT, PRECISION = 32, 256, 0.001, 0.02, 2.0**-10
STEPS, WINDOW, TRAJECTORIES, CHANNELS = 60, 30, 64, 4
rng = np.random.default_rng(0)


def step(u, dt):
    """Finite volumes with Rusanov's flux for u_t + (u^2 / 2)_x = VISCOSITY u_xx on a circle of length 1."""
    right, dx = jnp.roll(u, -1, -1), 1 / u.shape[-1]
    speed = jnp.maximum(jnp.abs(u), jnp.abs(right))
    flux = (u * u + right * right) / 4 - speed * (right - u) / 2 - VISCOSITY * (right - u) / dx
    return u - dt / dx * (flux - jnp.roll(flux, 1, -1))


def solver(u):  # the black box
    return jnp.round(step(u, DT) / PRECISION) * PRECISION


def references():
    """Solutions on the fine grid from waves at random, (STEPS + 1, TRAJECTORIES, FINE)."""
    phase = 2 * np.pi * np.arange(1, 5)[:, None] * (np.arange(FINE) + 0.5) / FINE
    a, b = rng.normal(size=(2, TRAJECTORIES, 4)) / np.arange(1, 5)
    u = a @ np.sin(phase) + b @ np.cos(phase)
    u = jnp.asarray(u / np.abs(u).max(axis=1, keepdims=True), jnp.float32)
    advance = jax.jit(lambda u: jax.lax.fori_loop(0, 40, lambda _, v: step(v, DT / 40), u))
    return jnp.stack([u] + [u := advance(u) for _ in range(STEPS)])


def corrected(params, u):
    """A step of the solver, and two convolutions over five cells that give a flux, so that the mean of u is kept."""
    u = solver(u)
    h = sum(k * jnp.roll(u, i - 2, -1)[..., None, :] for i, k in enumerate(params["first"]))
    h = jnp.tanh(h + params["bias"])
    flux = sum(jnp.roll((k * h).sum(axis=-2), i - 2, -1) for i, k in enumerate(params["second"]))
    return u + 0.1 * (flux - jnp.roll(flux, 1, -1))


def simulated(params, u, steps):
    def advance(u, _):
        u = solver(u) if params is None else corrected(params, u)
        return u, u

    return jax.lax.scan(advance, u, length=steps)[1]


def errors(u, truth):
    return jnp.linalg.norm(u - truth, axis=-1) / jnp.linalg.norm(truth, axis=-1)


def loss(params, truth):  # truth: steps that follow each other, (steps + 1, n, CELLS)
    return 1e4 * jnp.mean(errors(simulated(params, truth[0], len(truth) - 1), truth[1:]) ** 2)


def trained(params, steps, batch, lr, updates, *, by_values):
    """The network after updates on parts of ``steps`` steps of the training trajectories."""
    begins, rows = rng.integers(0, STEPS + 1 - steps, updates), rng.integers(0, TRAJECTORIES, (updates, batch))
    adam = optax.adam(optax.cosine_decay_schedule(lr, updates))
    strategy = bb.zo.ZO(bb.zo.DeepZero(density=0.5), adam)

    def update(state, given):
        begin, chosen = given
        truth = jax.lax.dynamic_slice_in_dim(train, begin, steps + 1)[:, chosen]
        if by_values:
            population = strategy.ask(state)
            return strategy.tell(state, population, bb.evaluate(loss, population, truth)), None
        moves, moments = adam.update(jax.grad(loss)(state[0], truth), state[1])
        return (optax.apply_updates(state[0], moves), moments), None

    state = strategy.init(bb.key(0), params) if by_values else (params, adam.init(params))
    state = jax.jit(lambda state, given: jax.lax.scan(update, state, given)[0])(state, (begins, rows))
    return strategy.recommend(state) if by_values else state[0]


train, solutions = references().reshape(STEPS + 1, TRAJECTORIES, CELLS, -1).mean(axis=-1), references()
test = solutions.reshape(STEPS + 1, TRAJECTORIES, CELLS, -1).mean(axis=-1)
first, second = rng.normal(size=(2, 5, CHANNELS, 1)).astype(np.float32) * (5 * CHANNELS) ** -0.5
initial = {"first": jnp.asarray(2 * first), "bias": jnp.zeros((CHANNELS, 1)), "second": jnp.asarray(0.1 * second)}
outside = trained(initial, 1, 64, 0.03, 4000, by_values=False)
inside = trained(outside, WINDOW, 8, 0.02, 400, by_values=True)
networks = {
    "no correction": None,
    "trained on single steps": outside,
    "then through the solver, by values alone": inside,
}
found = {name: simulated(params, test[0], STEPS) for name, params in networks.items()}
course = {name: np.asarray(errors(u, test[1:])) for name, u in found.items()}
for name, error in course.items():
    print(f"{name}: mean relative error {error.mean():.3f}, after {STEPS} steps {error[-1].mean():.3f}")

figure, (over_time, snapshot) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
shown, at, middles = 5, 60, (np.arange(CELLS) + 0.5) / CELLS
for (name, error), color in zip(course.items(), ("#999999", "#E69F00", "#0072B2"), strict=True):
    over_time.plot(range(1, STEPS + 1), error.mean(axis=1), color=color, lw=2, label=name)
    quartiles = np.quantile(error, (0.25, 0.75), axis=1)
    over_time.fill_between(range(1, STEPS + 1), *quartiles, color=color, alpha=0.18, lw=0)
    snapshot.plot(middles, found[name][at - 1, shown], "o-", ms=4, lw=1.4, color=color)
over_time.axvline(WINDOW, color="black", lw=0.8, ls=":")
over_time.text(WINDOW + 0.7, 0.01, "trained so far", fontsize=9)
fine = (np.arange(FINE) + 0.5) / FINE
snapshot.plot(fine, solutions[at, shown], color="black", lw=1.2, label="reference on the fine grid")
over_time.set(
    ylim=(0, None), title=f"{TRAJECTORIES} held-out initial conditions", xlabel="step", ylabel="relative error"
)
snapshot.set(title=f"one of them after {at} steps", xlabel="$x$", ylabel="$u$")
figure.legend(loc="outside lower center", ncols=4, frameon=False)
figure.savefig("pde_correction.png", dpi=120)
none, outside, inside = (error.mean() for error in course.values())
print(
    f"mean relative error: no correction {none:.3f}, trained without the solver {outside:.3f}, "
    f"through it by values {inside:.3f}; picture: pde_correction.png"
)
