"""Run by test_eggroll.py with eight virtual devices: what differs between them and one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import blackbox as bb

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("members",))
assert mesh.devices.size == 8
rng = np.random.default_rng(0)
sizes = itertools.pairwise((20, 24, 18))
params = [{"w": jnp.asarray(rng.normal(size=s) / 5, jnp.float32), "b": jnp.zeros(s[1])} for s in sizes]
x = jnp.asarray(rng.normal(size=(3, 20)), jnp.float32)


def loss(params, x, own):
    for layer in params:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return jnp.sum((x - 0.3) ** 2) + own


def train(devices, update_devices, popsize=64, chunk=8, **settings):
    """Fitness of all generations, and the bits of the mean."""
    strategy = bb.es.Eggroll(popsize=popsize, sigma=0.1, optimizer=optax.adam(0.02), mesh=update_devices, **settings)
    state = strategy.init(bb.key(0), params)
    own = jnp.linspace(0, 0.1, popsize)
    fitness = []
    for _ in range(4):
        population = strategy.ask(state)
        fitness.append(np.asarray(bb.evaluate(loss, population, x, own, in_axes=(None, 0), mesh=devices, chunk=chunk)))
        state = strategy.tell(state, population, jnp.asarray(fitness[-1]))
    return np.stack(fitness), np.concatenate([np.ravel(p) for p in jax.tree.leaves(strategy.recommend(state))])


for name, settings in {"whole": {"shaping": "centered-ranks"}, "sign": {"shaping": "sign", "noise": "sign"}}.items():
    one, many = train(None, None, **settings), train(mesh, mesh, **settings)
    print(name, "fitness", np.array_equal(one[0], many[0]), "mean", np.array_equal(one[1], many[1]))
one = train(None, None, noise="normal")
for name, update in (("replicated", None), ("sharded", mesh)):
    many = train(mesh, update, noise="normal")
    print(name, "first fitness", np.array_equal(one[0][0], many[0][0]), "mean", np.allclose(one[1], many[1], atol=1e-5))
one, many = train(None, None, 22, 2), train(mesh, mesh, 22, 2)  # members and pairs that do not divide by the devices
print("uneven", np.allclose(one[0], many[0], rtol=1e-5), np.allclose(one[1], many[1], atol=1e-5))
for name, estimator in (("coordinates", bb.zo.CGE(queries=100)), ("directions", bb.zo.RGE(11, central=False))):
    one, many = (
        bb.zo.value_and_grad(loss, estimator, chunk=8, mesh=devices)(params, bb.key(0), x, 0.0)
        for devices in (None, mesh)
    )
    print(name, all(np.allclose(p, q, atol=1e-3) for p, q in zip(*map(jax.tree.leaves, (one, many)), strict=True)))
