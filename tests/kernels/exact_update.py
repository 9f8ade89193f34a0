"""Run by test_exact_update.py with eight virtual devices: an update of whole numbers, however it is divided."""

import jax
import jax.numpy as jnp
import numpy as np
import simulator
from jax.sharding import Mesh, PartitionSpec

import blackbox as bb
from blackbox.kernels import device, seedsum
from blackbox.shaping import whole_ranks
from blackbox.virtual import weighted_noise

PAIRS, WEIGHTS = 256, 3001
keys = np.array([[7, 8], [9, 10]], np.uint32)
rng = np.random.default_rng(0)
ranks = np.asarray(whole_ranks(jnp.asarray(rng.normal(size=PAIRS))), np.float32)
members = np.arange(PAIRS, dtype=np.uint32)
bases = [np.zeros((1, WEIGHTS), np.float32), np.zeros((1, 5), np.float32)]


def bits(sums):
    return [np.asarray(total).tobytes() for total in jax.tree.leaves(sums)]


def summed(impl, order=None, array=jnp.asarray):
    order = np.arange(PAIRS) if order is None else order
    arrays = array(keys), [array(base) for base in bases], array(ranks[None, order]), array(members[None, order])
    return seedsum(*arrays, kind, impl=impl)


def shared(devices):
    """The same sum by some devices, each with a share of the members."""

    def share(f, ids):
        sums = seedsum(jnp.asarray(keys), [jnp.asarray(base) for base in bases], f[None], ids[None], kind)
        return jax.lax.psum(sums, "members")

    mesh, part = Mesh(np.array(jax.devices()[:devices]), ("members",)), PartitionSpec("members")
    run = jax.shard_map(share, mesh=mesh, in_specs=part, out_specs=PartitionSpec(), check_vma=False)
    return jax.jit(run)(jnp.asarray(ranks), jnp.asarray(members))


for kind in ("sign", "binom8"):
    exact = bits(summed("ref", array=np.asarray))
    shuffled = rng.permutation(PAIRS)
    ways = {
        "compiled": summed("native", array=np.asarray),
        "XLA": summed("xla"),
        "compiled in JAX": summed("native"),
        "shuffled": summed("auto", shuffled),
        "simulated": device.seedsum(simulator.launcher(7, threads=64), keys, bases, ranks[None], members[None], kind),
        **{f"{devices} devices": shared(devices) for devices in (1, 2, 4, 8)},
    }
    for name, sums in ways.items():
        print("sum", kind, name, bits(sums) == exact)

    strategy = bb.es.Eggroll(popsize=64, noise=kind, shaping="centered-ranks", rank=2)
    params = {"w": jnp.asarray(rng.normal(size=(40, 33)), jnp.float32), "b": jnp.zeros(33)}
    population = strategy.ask(strategy.init(bb.key(0), params))
    f = whole_ranks(jnp.asarray(rng.normal(size=64))).astype(jnp.float32)
    one = bits(weighted_noise(population, f))
    for devices in (1, 2, 4, 8):
        mesh = Mesh(np.array(jax.devices()[:devices]), ("members",))
        print("eggroll", kind, devices, bits(weighted_noise(population, f, 4, mesh)) == one)
