"""The kernels on a GPU in one call: checked against float64, timed by events, beside XLA and beside what is possible.

    python bench/gpu.py              some minutes; writes bench/results/gpu.md and gpu.json
    python bench/gpu.py --rehearse   the same on the simulator and small sizes, without a GPU: nothing is written

``floor`` is the time that the device's own ceilings allow: bytes over the bandwidth of a large copy, products over the
rate of a large matrix product, both measured first in the same run, and noise over the rate that its instructions
predict for an H100 (PREDICTED). ``share`` is floor over time; of a whole EGGROLL layer, whose floor is the same layer
without noise, it is the share of plain inference. Outputs are poisoned before they are checked, and medians of events
count; programs of JAX are timed over CALLS of them in a row.
"""

from __future__ import annotations

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # CuPy needs memory, too

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from record import write

from blackbox.kernels import SummedWeights, device, dispatch, ref, rollout, spec, xla
from blackbox.kernels.environments import ENVIRONMENTS
from blackbox.kernels.lowrank import lowrank_linear
from blackbox.kernels.noise import noise as noise_of
from blackbox.kernels.weights import Setting, arrays_of
from blackbox.problems.control import JaxControl

CALLS, REPEATS = 10, 30
# Noise of an H100, 10^12 values a second, by counted instructions and pipe rates (none is measured).
PREDICTED = {"normal": 0.60, "normal_fast": 1.5, "uniform": 1.5, "binom8": 3.8, "sign": 6.9}
FLOAT32 = 59e12  # operations a second of an H100, of its clock and lanes
KEYS = np.array([[0xDEADBEEF, 0x12345678]], np.uint32)
Row = dict[str, Any]


class Card:
    """An NVIDIA GPU, with arrays of CuPy."""

    scale = 1  # sizes are divided by this
    impl: dispatch.Impl = "cuda"  # in programs of JAX

    def __init__(self) -> None:
        import cupy

        from blackbox.kernels import cuda, grids

        for reason in (cuda.problem(), grids.problem()):
            if reason:
                raise SystemExit(f"{reason}; python bench/gpu.py --rehearse needs no GPU")
        self.cupy, self.launch, self.array = cupy, cuda.launch, cupy.asarray

    def name(self) -> str:
        runtime = self.cupy.cuda.runtime
        properties = runtime.getDeviceProperties(self.cupy.cuda.Device().id)
        driver = runtime.driverGetVersion()
        return f"{properties['name'].decode()}, CUDA driver {driver // 1000}.{driver % 1000 // 10}"

    def numpy(self, array: Any) -> np.ndarray:
        return self.cupy.asnumpy(array)

    def poison(self, size: int) -> None:
        """Leave NaN where CuPy's pool will put the next array of so many floats."""
        self.cupy.full(size, np.nan, np.float32)

    def seconds(self, run: Callable[[int], Any]) -> float:
        """Of one call, by events: the median of REPEATS."""
        for turn in range(3):
            run(turn)
        events = [(self.cupy.cuda.Event(), self.cupy.cuda.Event()) for _ in range(REPEATS)]
        for turn, (begin, end) in enumerate(events):
            begin.record()
            run(3 + turn)
            end.record()
        self.cupy.cuda.Device().synchronize()
        elapsed = self.cupy.cuda.get_elapsed_time
        return statistics.median(elapsed(begin, end) for begin, end in events) / 1e3

    def copied(self, size: int) -> float:
        """Bytes a second, read and written, of a large copy."""
        source, target = self.cupy.ones(size, np.float32), self.cupy.empty(size, np.float32)
        return 2 * source.nbytes / self.seconds(lambda turn: self.cupy.copyto(target, source))


class Rehearsal(Card):
    """The simulator on a CPU, to run every line of this script without a GPU."""

    scale = 4096
    impl = "auto"

    def __init__(self) -> None:
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "kernels"))
        import simulator

        self.launch, self.array = simulator.launcher(), np.asarray

    def name(self) -> str:
        return "the simulator on a CPU: times mean nothing"

    def numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def seconds(self, run: Callable[[int], Any]) -> float:
        began = time.perf_counter()
        run(0)
        return time.perf_counter() - began

    def poison(self, size: int) -> None:
        """The simulator's launcher poisons what it allocates."""

    def copied(self, size: int) -> float:
        source, target = np.ones(size, np.float32), np.empty(size, np.float32)
        return 2 * source.nbytes / self.seconds(lambda turn: np.copyto(target, source))


@dataclass
class Bench:
    """What all rows share: the device and its ceilings."""

    card: Card
    bandwidth: float
    flops: float

    def seconds_of_xla(self, run: Callable[[int], Any]) -> float:
        """Of one call of a program, of which CALLS follow one another: the median of a third of REPEATS."""
        spent = []
        for turn in range(1 + REPEATS // 3 if self.card.scale == 1 else 2):
            began = time.perf_counter()
            jax.block_until_ready([run(turn * CALLS + call) for call in range(CALLS)])
            spent.append((time.perf_counter() - began) / CALLS)
        return statistics.median(spent[1:])  # the first one compiles

    def row(self, kernel: str, size: str, floor: float, own: float, peers: dict[str, float], error: str) -> Row:
        row: Row = {
            "kernel": kernel,
            "size": size,
            "floor, us": f"{floor * 1e6:,.1f}",
            "kernel, us": f"{own * 1e6:,.1f}",
            "share": f"{floor / own:.0%}",
            "error": error,
        }
        for name, seconds in peers.items():
            row[f"{name}, us"] = f"{seconds * 1e6:,.1f}"
            row[f"{name} / kernel"] = f"{seconds / own:.1f}"
        print(row, flush=True)
        return row


def noise(bench: Bench) -> Iterator[Row]:
    """Noise written out, as where a GPU's library needs it as an operand."""
    card, members, size = bench.card, max(2, 256 // bench.card.scale), 2**20 // bench.card.scale
    numbers = np.arange(members, dtype=np.uint32)
    keys, ids = card.array(KEYS), card.array(numbers)

    def threefry(turn: int) -> Any:
        return _normals(jax.random.fold_in(jax.random.key(0), turn), (members, size))

    for kind in kinds():
        card.poison(members * size)
        made = card.numpy(device.centered_noise(card.launch, keys, ids, (size,), kind)[0])
        assert np.isfinite(made).all()
        expected = centered(kind, members, min(size, 4096))
        seconds = card.seconds(lambda turn, kind=kind: device.centered_noise(card.launch, keys, ids, (size,), kind))
        peers = {
            "XLA": bench.seconds_of_xla(
                lambda turn, kind=kind: xla.centered_noise(
                    jnp.asarray(KEYS) + turn, jnp.asarray(numbers), (size,), kind
                )
            ),
            "jax.random.normal": bench.seconds_of_xla(threefry),
        }
        floor = max(members * size * 4 / bench.bandwidth, members * size / PREDICTED[kind] / 1e12)
        error = difference(kind, made[:, :4096], expected)
        yield bench.row(f"noise, {kind}", f"{members} x {size:,}", floor, seconds, peers, error)


def sums(bench: Bench) -> Iterator[Row]:
    """One sum over a population, the update of evolution strategies; and genomes of seeds, decoded."""
    card = bench.card
    plans = [("update", 1, max(130, 2048 // card.scale), 2**20 // card.scale, spec.SUM_CHUNK)]
    plans += [("genomes", max(2, 16 // card.scale), 100, 2**22 // card.scale, 1)]
    for name, count, terms, size, chunk in plans:
        rng = np.random.default_rng(0)
        weights = rng.normal(size=(count, terms)).astype(np.float32)
        base, members = np.zeros((1, size), np.float32), rng.integers(0, 2**32, (count, terms), dtype=np.uint32)
        given = [card.array(x) for x in (KEYS, base, weights, members)]
        traced = [jnp.asarray(x) for x in (KEYS, base, weights, members)]

        def own(turn: int, kind: Any, given: Any = given, chunk: int = chunk) -> Any:
            keys, base, weights, members = given
            return device.seedsum(bench.card.launch, keys, [base], weights, members, kind, chunk)

        def by_xla(turn: int, kind: Any, traced: Any = traced, chunk: int = chunk) -> Any:
            keys, base, weights, members = traced
            return xla.seedsum(keys, [base], weights * (1 + turn), members, kind, chunk)

        def by_threefry(turn: int, traced: Any = traced) -> Any:
            return _sum_of_normals(jax.random.fold_in(jax.random.key(0), turn), traced[2], traced[1].shape[1])

        peers = {"jax.random.normal": bench.seconds_of_xla(by_threefry)}
        for kind in kinds():
            card.poison(count * size)
            made = card.numpy(own(0, kind)[0])
            assert np.isfinite(made).all()
            few = min(size, 1024)
            exact = base[:, :few] + np.einsum("qk,qkd->qd", weights.astype(float), [
                [centered(kind, 1, few, int(member), size)[0] for member in row] for row in members])  # fmt: skip
            seconds = card.seconds(partial(own, kind=kind))
            floor = max(count * terms * size / PREDICTED[kind] / 1e12, 4 * count * size / bench.bandwidth)
            shape = f"{count} x {terms:,} terms x {size:,}"
            xla_seconds = {"XLA": bench.seconds_of_xla(partial(by_xla, kind=kind))}
            error = f"{np.abs(made[:, :few] - exact).max() / np.abs(exact).max():.1e}"
            yield bench.row(f"seedsum, {name}, {kind}", shape, floor, seconds, xla_seconds | peers, error)


def rollouts(bench: Bench) -> Iterator[Row]:
    """Whole episodes, around networks whose weights are formed from seeds."""
    card, episodes = bench.card, 2
    members, steps = max(4, 4096 // card.scale), None if card.scale == 1 else 20
    for env, hidden in (*((env, (32,)) for env in ENVIRONMENTS), ("CartPole-v1", (64, 64))):
        task = JaxControl(env, hidden, episodes)
        rng = np.random.default_rng(0)
        base = (0.3 * rng.normal(size=(1, task.dimension))).astype(np.float32)
        if env == "CartPole-v1":  # the first hidden values push the cart to where the pole falls
            layers = task.policy.layers(base[0])
            layers[0][0][:, 0], layers[-1][0][0] = (0.24, 0.6, 0.63, 3.0), (-3.0, 3.0)
            for matrix, _ in layers[1:-1]:
                matrix[0, 0] = 3.0
        starts, sigmas = task.starts().astype(np.float32), np.full((members, 1), 0.05, np.float32)
        seeds = np.arange(members, dtype=np.uint32)[:, None]
        arrays, form = arrays_of(SummedWeights(base, KEYS[0], sigmas, seeds), np)
        setting = Setting(env, task.policy.sizes, steps or ENVIRONMENTS[env].steps, form)
        on_card = type(arrays)(*map(card.array, arrays)), card.array(starts)
        traced = type(arrays)(*map(jnp.asarray, arrays)), jnp.asarray(starts)
        card.poison(members * episodes)
        made = [card.numpy(x) for x in device.rollout(card.launch, setting, *on_card)]
        few = slice(0, 256)
        expected = rollout(env, hidden, SummedWeights(base, KEYS[0], sigmas[few], seeds[few]), starts, steps=steps)
        same = np.mean([np.mean(a[few] == b) for a, b in zip(made, expected, strict=True)])
        own, by_xla = partial(device.rollout, card.launch, setting, *on_card), partial(xla.rollout, setting, *traced)
        seconds = card.seconds(lambda turn, own=own: own())
        played = int(made[1].sum())
        peers = {"XLA": bench.seconds_of_xla(lambda turn, by_xla=by_xla: by_xla())}
        row = bench.row(
            f"rollout, {env}, {'-'.join(map(str, hidden))}", f"{members:,} x {episodes}, {played:,} steps",
            2 * played * task.dimension / FLOAT32, seconds, peers, f"bits equal to the CPU's: {same:.1%}",
        )  # fmt: skip
        yield row | {"million steps/s": f"{played / seconds / 1e6:,.0f}"}


def layers(bench: Bench) -> Iterator[Row]:
    """EGGROLL's forward pass: what follows the product, and a layer of mirrored pairs in bfloat16 as a whole."""
    card, members, width = bench.card, max(4, 1024 // bench.card.scale), max(64, 8192 // bench.card.scale)
    rng, size = np.random.default_rng(0), 2 * width
    source = np.zeros((members, 6), np.uint32)
    source[:, :2], source[:, 2], source[:, 5] = KEYS, np.arange(members) // 2, width
    source[:, 3] = np.where(np.arange(members) % 2, -0.01, 0.01).astype(np.float32).view(np.uint32)
    x, y = rng.normal(size=(2, members, 1, width)).astype(np.float32)
    given = [card.array(array) for array in (x, y, source)]
    words, short = jnp.asarray(source), jnp.asarray(x, jnp.bfloat16)
    w, bias = jnp.asarray(rng.normal(size=(width, width)) / width**0.5, jnp.bfloat16), jnp.zeros(width)

    @jax.jit
    def plain(x: Any, w: Any, bias: Any) -> Any:
        return jax.nn.relu(x[:, 0] @ w + bias.astype(x.dtype))

    @partial(jax.jit, static_argnums=(4, 5))
    def perturbed(x: Any, w: Any, bias: Any, words: Any, kind: Any, impl: Any) -> Any:
        return lowrank_linear(x, w, words, size, 1, kind, bias=bias, activation="relu", impl=impl)

    without_noise = bench.seconds_of_xla(lambda turn: plain(short, w, bias))
    shape = f"{members:,} members x {width:,}"
    for kind in kinds():
        card.poison(members * width)
        made = card.numpy(device.lowrank_mix(card.launch, *given, size, 1, kind))
        few = min(8, members)
        a, b = (centered(kind, few // 2, size)[:, own] for own in (slice(width), slice(width, size)))
        steps = source[:few, 3].view(np.float32).astype(float)
        narrow = steps * np.einsum("nm,nm->n", x[:few, 0].astype(float), a.repeat(2, 0)[:few])
        exact = y[:few, 0] + narrow[:, None] * b.repeat(2, 0)[:few]
        error = f"{np.abs(made[:few, 0] - exact).max() / np.abs(exact).max():.1e}"
        seconds = card.seconds(lambda turn, kind=kind: device.lowrank_mix(card.launch, *given, size, 1, kind))
        traced = jnp.asarray(x), jnp.asarray(y), words
        by_xla = bench.seconds_of_xla(lambda turn, kind=kind, traced=traced: xla.lowrank_mix(*traced, size, 1, kind))
        floor = 12 * members * width / bench.bandwidth
        yield bench.row(f"lowrank_mix, {kind}", shape, floor, seconds, {"XLA": by_xla}, error)

        whole, peer = (
            bench.seconds_of_xla(lambda turn, kind=kind, impl=impl: perturbed(short, w, bias, words, kind, impl))
            for impl in (card.impl, "xla")
        )
        made, expected = (np.asarray(perturbed(short, w, bias, words, kind, i), float) for i in (card.impl, "xla"))
        apart = f"{np.abs(made - expected).max() / np.abs(expected).max():.1e} from XLA's"
        yield bench.row(f"EGGROLL layer, bfloat16, {kind}", shape, without_noise, whole, {"XLA": peer}, apart)


def answers(bench: Bench) -> str:
    """What a launch takes, from Python and in a loop of a program; and a product's sums, kept in float32."""
    card, times = bench.card, 100 if bench.card.scale == 1 else 2

    @jax.jit
    def launches(key: Any) -> Any:
        def one(total: Any, turn: Any) -> tuple[Any, None]:
            return total + noise_of("sign", key, turn, (600, 1), like=total, impl=card.impl), None

        return jax.lax.scan(one, jnp.zeros((600, 1)), jnp.arange(times))[0]

    looped = bench.seconds_of_xla(lambda turn: launches(jnp.asarray(KEYS[0] + np.uint32(turn)))) / times
    keys, ids = card.array(KEYS), card.array(np.arange(600, dtype=np.uint32))
    single = card.seconds(lambda turn: device.centered_noise(card.launch, keys, ids, (1,), "sign"))
    m, n = max(64, 8192 // card.scale), max(4, 1024 // card.scale)
    x, w = jnp.ones((n, m), jnp.bfloat16), jnp.ones((m, m), jnp.bfloat16)
    product = jax.jit(partial(jnp.matmul, preferred_element_type=jnp.float32))
    wide, narrow = bench.seconds_of_xla(lambda turn: product(x, w)), bench.seconds_of_xla(lambda turn: x @ w)
    return (
        f"A launch takes {single * 1e6:,.1f} us from Python and {looped * 1e6:,.1f} us in a loop of a JAX program; the "
        f"layer's product {wide * 1e6:,.1f} us into float32 and {narrow * 1e6:,.1f} us into bfloat16."
    )


@partial(jax.jit, static_argnums=1)
def _normals(key: Any, shape: tuple[int, int]) -> Any:
    return jax.random.normal(key, shape)


@partial(jax.jit, static_argnums=2)
def _sum_of_normals(key: Any, weights: Any, size: int) -> Any:
    """What is written by hand today: a draw for each term, 64 of them at a time for one sum."""
    count, terms = weights.shape
    step = max(1, 64 // count)
    padded = jnp.pad(weights, ((0, 0), (0, -terms % step))).reshape(count, -1, step)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        k, weight = part
        drawn = jax.random.normal(jax.random.fold_in(key, k), (count, step, size))
        return total + jnp.einsum("qk,qkd->qd", weight, drawn, precision="highest"), None

    parts = jnp.arange(padded.shape[1]), jnp.moveaxis(padded, 1, 0)
    return jax.lax.scan(add, jnp.zeros((count, size)), parts)[0]


def kinds() -> list[Any]:
    return [kind for kind in PREDICTED if kind in spec.VALUES_PER_BLOCK]


def centered(kind: Any, members: int, size: int, first: int = 0, whole: int | None = None) -> np.ndarray:
    """The first values of some members' centered noise, whose rows have ``whole`` values, by the reference."""
    blocks = spec.blocks_of(whole or size, kind)
    few = spec.blocks_of(size, kind)
    rows = [ref.words(KEYS[0], member * blocks, few) for member in range(first, first + members)]
    return np.stack([ref.CENTERED[kind](row).reshape(-1)[:size] for row in rows]).astype(float)


def difference(kind: str, made: np.ndarray, expected: np.ndarray) -> str:
    worst = float(np.abs(made - expected[:, : made.shape[1]]).max())
    return "0" if worst == 0 else f"{worst:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true")
    rehearse = parser.parse_args().rehearse
    card = Rehearsal() if rehearse else Card()
    n = 8192 if not rehearse else 64
    a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.bfloat16) for i in (0, 1))
    bench = Bench(card, card.copied(2**28 // card.scale), 0.0)
    product = jax.jit(lambda turn, a, b: a @ b + turn.astype(a.dtype))
    bench.flops = 2 * n**3 / bench.seconds_of_xla(lambda turn: product(jnp.asarray(turn), a, b))
    rows = [row for rows_of in (noise, sums, layers, rollouts) for row in rows_of(bench)]
    note = (
        f"{card.name()}. Ceilings, measured first: copy {bench.bandwidth / 1e12:.2f} TB/s, bfloat16 product "
        f"{bench.flops / 1e12:,.0f} TFLOP/s. Kernels by events, median of {REPEATS}; XLA's programs by wall time over "
        f"{CALLS} calls, median. ``error``: greatest difference from float64, over its greatest value for sums. "
        f"{answers(bench)}"
    )
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if rehearse:
        print(note)
    else:
        write("gpu", "Kernels on a GPU", columns, rows, ["jax", "cupy-cuda13x", "numpy"], note)


if __name__ == "__main__":
    main()
