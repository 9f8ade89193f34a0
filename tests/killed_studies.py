"""One study, killed again and again: ``python killed_studies.py NAME JOURNAL KILLS SEED``.

Each life is a fork of this process, which has imported everything. It is killed by SIGKILL at a random moment: after
so many beginnings and ends of evaluations, and some time more, so within an evaluation, a tell, an ask, a checkpoint or
the opening of the journal. What the last life, which nobody kills, finds is the result. Prints how often the objective
was called.
"""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import blackbox as bb
import blackbox.optimizer

blackbox.optimizer.CHECKPOINT_GENERATIONS = 5  # so that lives begin at checkpoints, too


class Study(NamedTuple):
    space: Any
    method: str
    budget: int
    objective: Callable[[Any], float | None]


def mixed(x: dict[str, Any]) -> float | None:
    value = abs(math.log10(x["lr"] / 0.01)) + abs(x["layers"] - 3)
    if x["optimizer"] == "sgd":
        value += (x["momentum"] - 0.9) ** 2
    return None if x["layers"] == 7 else value + (0.5 if x["optimizer"] == "adam" else 0.0)


def rosenbrock(x: Any) -> float:
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


MIXED = bb.Space(
    {
        "lr": bb.Float(1e-5, 1, log=True),
        "layers": bb.Int(1, 8),
        "optimizer": bb.Choice({"adam": None, "sgd": bb.Space({"momentum": bb.Float(0, 1)})}),
    }
)
STUDIES = {
    "auto on a mixed space": Study(MIXED, "auto", 60, mixed),
    "auto on a box, with turns": Study(bb.Box(-2, 2, 3), "auto", 420, rosenbrock),
    "cma-es": Study(bb.Box(-2, 2, 4), "cma-es", 400, rosenbrock),
    "ego": Study(bb.Box(-2, 2, 2), "ego", 50, rosenbrock),
}


def search(study: Study, journal: str, objective: Callable[[Any], float | None]) -> bb.Result:
    return bb.minimize(
        objective, study.space, method=study.method, budget=study.budget, seed=4, journal=journal, resume=True
    )


def live(study: Study, journal: str, pipe: int) -> None:
    """One life: writes a byte when an evaluation begins and when it ends."""

    def objective(x: Any) -> float | None:
        os.write(pipe, b"b")
        time.sleep(0.001)
        os.write(pipe, b"e")
        return study.objective(x)

    search(study, journal, objective)


def main(name: str, journal: str, kills: int, seed: int) -> None:
    study, rng, calls = STUDIES[name], random.Random(seed), 0
    share = 2 * study.budget // (kills + 1)  # of all beginnings and ends
    for number in range(kills + 1):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            code = 1
            try:
                live(study, journal, writing)
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        left = rng.randrange(share) if number < kills else math.inf
        while left and (byte := os.read(reading, 1)):
            calls += byte == b"b"
            left -= 1
        if number < kills:
            time.sleep(rng.choice([0, 0, 0.0005, 0.002, 0.02]) * rng.random())
            os.kill(child, signal.SIGKILL)
            while byte := os.read(reading, 1):
                calls += byte == b"b"
        os.close(reading)
        _, status = os.waitpid(child, 0)
        assert status == (signal.SIGKILL if number < kills else 0), f"life {number} ended with {status}"
    print(calls)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
