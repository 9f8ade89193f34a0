"""Integer EGG: an int8 recurrent language model learns the standard library's sources without a float or a gradient.

    python bench/egg.py run                  what is not yet in results/egg.jsonl: ablations, popsizes, the long run
    python bench/egg.py run long             one group or one run
    python bench/egg.py report               writes results/egg.md, .json and .png

A run is its settings: the updates, hence its result, are the same on every machine, and only the CPU time is measured
(one core, without compilation and without the evaluations on the held-out part). A run that is stopped goes on from its
checkpoint, written twice a minute under build/.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import dataclasses
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from record import RESULTS, write

import blackbox as bb
from blackbox.problems import corpus, egg

RUNS = RESULTS / "egg.jsonl"
CHECKPOINTS = Path(__file__).parent.parent / "build"


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings of a training run; see :class:`blackbox.es.IntegerEggroll` and :func:`blackbox.problems.egg.init`.

    ``fractions`` are those of the first and of the last update, geometric between; ``random_head`` begins with a head
    like the other weights'; ``reads`` credits an embedding's rows to the pairs that read them alone; ``own_state``
    lets each member go on from its own state; ``shared`` pairs read the same text.
    """

    name: str
    updates: int
    width: int = 16
    layers: int = 1
    expansion: int = 4
    popsize: int = 2048
    window: int = 16
    fractions: tuple[float, float] = (0.3, 0.02)
    levels: int = 7
    carry: bool = True
    sigma: int = 1
    reads: bool = True
    random_head: bool = False
    own_state: bool = False
    shared: int = 1
    seed: int = 0


BASE = Run("base", 800)
GROUPS: dict[str, list[Run]] = {
    "ablations": [
        BASE,
        *(dataclasses.replace(BASE, name=f"base, seed {seed}", seed=seed) for seed in (1, 2)),
        *(
            dataclasses.replace(BASE, name=name, **changed)
            for name, changed in {
                "Z forgotten after each update (paper)": {"carry": False},
                "sign of the pair alone (paper)": {"levels": 1},
                "all rows of the embedding credited (paper)": {"reads": False},
                "random head (paper)": {"random_head": True},
                "members keep their own state (paper)": {"own_state": True},
                "all of these as in the paper": {
                    "carry": False, "levels": 1, "reads": False, "random_head": True, "own_state": True,
                },
                "window 8, as many bytes": {"window": 8, "updates": 1600},
                "window 64, as many bytes": {"window": 64, "updates": 200},
                "popsize 512, as many bytes": {"popsize": 512, "updates": 3200},
                "popsize 8192, as many bytes": {"popsize": 8192, "updates": 200},
                "a text shared by 64 pairs": {"shared": 64},
                "sigma 2": {"sigma": 2},
                "fraction 0.1 to 0.01": {"fractions": (0.1, 0.01)},
                "fraction 0.1 throughout": {"fractions": (0.1, 0.1)},
                "no hidden layer": {"expansion": 0},
                "width 32": {"width": 32},
            }.items()
        ),
    ],
    "popsizes": [Run(f"popsize 2^{k}", 400, popsize=2**k, expansion=0) for k in range(4, 15)],
    "long": [Run("long", 18_000, width=32, fractions=(0.1, 0.003))],
}  # fmt: skip


class Training:
    """A run as it goes: its state, the learning curve, the checkpoint."""

    def __init__(self, run: Run) -> None:
        self.run, self.path = run, CHECKPOINTS / f"egg-{run.name.replace(' ', '-')}.npz"
        self.text = corpus.standard_library()
        self.data = jnp.asarray(self.text.train)
        first, last = run.fractions
        self.strategy = bb.es.IntegerEggroll(
            popsize=run.popsize, levels=run.levels, carry=run.carry, sigma=run.sigma, horizon=run.updates,
            fraction=lambda t: first * (last / first) ** (t / max(1, run.updates - 1)),
        )  # fmt: skip
        params = egg.init(run.seed, run.width, run.layers, run.expansion)
        if run.random_head:
            noise = np.random.default_rng(run.seed + 1).normal(size=params["head"].shape)
            params["head"] = jnp.asarray(np.clip(np.round(egg.UNIT * noise), -120, 120), jnp.int8)
        params = jax.tree.map(lambda w: jnp.clip(w, run.sigma - 127, 127 - run.sigma), params)
        state = self.strategy.init(bb.key(run.seed), params)
        self.carried = (state, egg.start(params, run.popsize))
        self.seconds, self.curve = 0.0, [(0, 0.0, self.held_out())]
        self.restore()
        self.update = jax.jit(self._update).lower(self.carried).compile()

    def _update(self, carried: Any) -> Any:
        """One update; integers alone."""
        (state, hidden), run = carried, self.run
        texts = run.popsize // 2 // run.shared
        begin = jnp.arange(texts, dtype=jnp.int32) * (self.data.shape[0] // texts) + state.generation * run.window
        places = (begin[:, None] + jnp.arange(run.window + 1, dtype=jnp.int32)) % self.data.shape[0]
        text = jnp.repeat(self.data[places], 2 * run.shared, axis=0)
        population = self.strategy.ask(state)
        losses, hidden = bb.evaluate(egg.loss, population, hidden, text, in_axes=0, chunk=256)
        if run.reads:
            population = population.reading({"embedding": egg.bytes_read(text)})
        state = self.strategy.tell(state, population, losses)
        return state, hidden if run.own_state else egg.pair_mean(hidden)

    def held_out(self) -> float:
        return egg.bits_per_byte(self.strategy.recommend(self.carried[0]), self.text.held_out)

    def train(self) -> dict[str, Any]:
        run, saved = self.run, time.monotonic()
        while (done := int(self.carried[0].generation)) < run.updates:
            started = time.process_time()
            for _ in range(min(10, run.updates - done)):
                self.carried = self.update(self.carried)
            jax.block_until_ready(self.carried)
            self.seconds += time.process_time() - started
            done = int(self.carried[0].generation)
            if self.seconds > 1.15 * self.curve[-1][1] + 1 and done < run.updates:
                self.curve.append((done, round(self.seconds, 1), round(self.held_out(), 4)))
                print(run.name, *self.curve[-1], flush=True)
            if time.monotonic() - saved > 30:
                self.save()
                saved = time.monotonic()
        self.curve.append((done, round(self.seconds, 1), round(self.held_out(), 4)))
        self.path.unlink(missing_ok=True)
        params = jax.tree.leaves(self.carried[0].params)
        return {
            **dataclasses.asdict(run), "bits_per_byte": self.curve[-1][2], "seconds": self.curve[-1][1],
            "parameters": sum(w.size for w in params), "curve": self.curve, "corpus": self.text.digest,
            "revision": revision(),
        }  # fmt: skip

    def save(self) -> None:
        arrays = {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(self.carried))}
        self.path.parent.mkdir(exist_ok=True)
        new = self.path.with_suffix(".new.npz")
        settings = json.dumps(dataclasses.asdict(self.run))
        np.savez(new, seconds=self.seconds, curve=np.asarray(self.curve), settings=settings, **arrays)
        new.replace(self.path)

    def restore(self) -> None:
        """Go on where a stopped run of the same settings was."""
        if not self.path.exists():
            return
        with np.load(self.path, allow_pickle=False) as stored:
            if json.loads(str(stored["settings"])) != json.loads(json.dumps(dataclasses.asdict(self.run))):
                return
            leaves, treedef = jax.tree.flatten(self.carried)
            self.carried = jax.tree.unflatten(treedef, [jnp.asarray(stored[str(i)]) for i in range(len(leaves))])
            self.seconds = float(stored["seconds"])
            self.curve = [(int(n), float(s), float(b)) for n, s, b in stored["curve"]]


def revision() -> str:
    """Of the code, as Git names it; nothing outside a checkout."""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def finished() -> dict[str, dict[str, Any]]:
    lines = RUNS.read_text().splitlines() if RUNS.exists() else []
    return {run["name"]: run for run in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("names", nargs="*", help="groups (ablations, popsizes, long) or single runs; all by default")
    arguments = parser.parse_args()
    if arguments.command == "report":
        report()
        return
    plan = [(group, run) for group, runs in GROUPS.items() for run in runs]
    for group, run in plan:
        wanted = not arguments.names or {group, run.name} & set(arguments.names)
        if wanted and run.name not in finished():
            line = json.dumps(Training(run).train())
            with RUNS.open("a") as file:
                file.write(line + "\n")
            print(line, flush=True)


def report() -> None:
    """The table of all runs, learning curves and the plot over the population's size."""
    runs, text = finished(), corpus.standard_library()
    bounds = {"unigram": corpus.unigram(text), "bigram": corpus.bigram(text), "gzip -9": corpus.gzip_bits(text)}
    rows = []
    for group, plan in GROUPS.items():
        for run in (runs[run.name] for run in plan if run.name in runs):
            below = [f"{seconds:.0f}" for _, seconds, bits in run["curve"] if bits < bounds["bigram"]]
            rows.append({
                "group": group, "run": run["name"], "bits per byte": f"{run['bits_per_byte']:.3f}",
                "parameters": f"{run['parameters']:,}", "updates": f"{run['updates']:,}",
                "bytes evaluated, millions": f"{run['updates'] * run['popsize'] * run['window'] / 1e6:,.1f}",
                "CPU seconds": f"{run['seconds']:.1f}", "CPU seconds to the bigram line": below[0] if below else "–",
                "revision": run["revision"], "curve": run["curve"],
            })  # fmt: skip
    note = NOTE.format(
        train=len(text.train) / 1e6, held_out=len(text.held_out) / 1e6, digest=text.digest,
        bounds=", ".join(f"{name} {bits:.3f}" for name, bits in bounds.items()),
    )  # fmt: skip
    title = "Integer EGG: a language model of int8 without a gradient"
    columns = [column for column in rows[0] if column != "curve"]
    write("egg", title, columns, rows, ["numpy", "jax"], note)
    plot(runs, bounds)


NOTE = """
Text: the sources of the standard library of the Python that ran, {train:.1f} MB to train on and {held_out:.2f} MB held
out (digest {digest}; `problems/corpus.py` has the split). Bounds in bits per byte of the held-out part: {bounds}.

Bits per byte are of the whole held-out part, in 512 streams from an empty state, by the center of the population. CPU
seconds are those of the updates, on one core shared with other work, without compilation (about 10 s). Every ablation
changes one setting of *base* (width 16, one layer, popsize 2048, windows of 16 bytes, fraction 0.3 to 0.02 in 800
updates) and evaluates as many bytes. Runs *base, seed 1* and *seed 2* show what chance does. The runs over popsize have
equal numbers of updates and no hidden layer. *long* has width 32 and the fraction 0.1 to 0.003. `egg.json` has each
run's learning curve. What is carried has been clipped at the threshold since f24d14e: that took *base* from 3.791 to
3.792, and the sign of the pair alone from 3.876 to 3.814.

![learning curves, and bits per byte over the size of the population](egg.png)
"""


def plot(runs: dict[str, dict[str, Any]], bounds: dict[str, float]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    drawn = {"long": "long", "base": "base", "all of these as in the paper": "rules of the paper"}
    for (name, label), color, line in zip(
        drawn.items(), ("#0072B2", "#D55E00", "#000000"), ("-", "--", ":"), strict=True
    ):
        if name in runs:
            curve = np.asarray(runs[name]["curve"])[1:]
            left.plot(
                curve[:, 1], curve[:, 2], line, color=color, label=f"{label}, {runs[name]['parameters']:,} weights"
            )
    left.set(xscale="log", xlabel="CPU seconds", ylabel="bits per byte, held out")
    sizes = [runs[run.name] for run in GROUPS["popsizes"] if run.name in runs]
    right.plot([run["popsize"] for run in sizes], [run["bits_per_byte"] for run in sizes], "o-", color="#0072B2")
    right.set_xscale("log", base=2)
    right.set(
        xlabel="members of the population", title=f"{sizes[0]['updates']} updates, {sizes[0]['parameters']:,} weights"
    )
    for axes in (left, right):
        for name, bits in bounds.items():
            if name != "gzip -9":
                axes.axhline(bits, color="#888888", linewidth=0.8)
                axes.annotate(
                    name, (1, bits), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="#555555"
                )
    left.legend()
    figure.savefig(RESULTS / "egg.png", dpi=130)


if __name__ == "__main__":
    main()
