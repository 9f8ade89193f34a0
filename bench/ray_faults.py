"""A run on Ray whose workers are killed, beside the same run without faults.

    python bench/ray_faults.py                      1,000 evaluations, a worker killed after every 50; some minutes
    python bench/ray_faults.py --evaluations 200    a fifth of it

Both runs are synchronous: each generation is complete before the next one begins, so that the course depends on the
values alone. Writes bench/results/ray.md where the sizes are the full ones.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
from record import markdown, write

import blackbox as bb
from blackbox.journal import Journal
from blackbox.problems import load

PROBLEM, SLOTS = "bbob-f10-d10", 4


class Objective:
    """A rotated ellipsoid, 20 ms; a file with the name of its process stands in ``folder`` as long as it takes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._function, self.space = load(PROBLEM)

    def __call__(self, x: Any) -> float:
        mine = self._folder / str(os.getpid())
        mine.touch()
        with (self._folder.parent / "calls").open("a") as calls:
            calls.write(".")
        time.sleep(0.02)
        value = float(self._function(x))
        mine.unlink(missing_ok=True)
        return value


class Killer:
    """A callback that kills a process in the middle of an evaluation after every ``each`` results."""

    def __init__(self, folder: Path, each: int) -> None:
        self._folder, self._each = folder, each
        self.kills = self._due = 0

    def on_tell(self, snapshot: Any) -> None:
        self._due += snapshot.optimizer.evaluations % self._each == 0
        patience = time.monotonic() + 0.5  # at the end of a generation nobody is at work: then with the next result
        while self.kills < self._due and time.monotonic() < patience:
            for name in os.listdir(self._folder):
                (self._folder / name).unlink(missing_ok=True)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(name), signal.SIGKILL)
                    self.kills += 1
                    break


def measure(evaluations: int, each: int | None) -> dict[str, Any]:
    """A run, with a worker killed after every ``each`` results or none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "at work").mkdir()
        killer = Killer(folder / "at work", each or evaluations + 1)
        objective = Objective(folder / "at work")
        result = bb.minimize(
            objective, objective.space, method="cma-es", budget=evaluations, seed=1,
            workers=bb.Ray(slots=SLOTS), synchronous=True, retries=3, callbacks=[killer], journal=folder / "run.db",
        )  # fmt: skip
        calls = len((folder / "calls").read_text())
        with Journal.open(folder / "run.db", read_only=True) as journal:
            events = list(journal.events())
    counts = Counter((event.generation, event.member) for event in events)
    assert result.best is not None
    return {
        "killed workers": killer.kills,
        "evaluations begun": calls,
        "results told": len(events),
        "told twice": sum(count > 1 for count in counts.values()),
        "without a value": result.failures,
        "best": repr(result.value),
        "its point": result.x.tobytes().hex()[:16],
        "seconds": f"{result.seconds:.0f}",
        "values": sorted((event.generation, event.member, event.value) for event in events),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--each", type=int, default=50, help="results between two kills")
    arguments = parser.parse_args()
    ray.init(num_cpus=SLOTS, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
    rows = [
        {"run": name, **measure(arguments.evaluations, each)}
        for name, each in (("without faults", None), (f"a worker killed every {arguments.each}", arguments.each))
    ]
    ray.shutdown()
    values = [row.pop("values") for row in rows]
    same = (
        values[0] == values[1] and rows[0]["best"] == rows[1]["best"] and rows[0]["its point"] == rows[1]["its point"]
    )
    columns = list(rows[0])
    print("\n" + markdown(columns, rows))
    print(f"all {len(values[1])} values {'are' if same else 'are NOT'} those of the run without faults, bit for bit")
    if not same or any(row["told twice"] or row["without a value"] for row in rows):
        raise SystemExit("below the bar")
    if arguments.evaluations == 1000:
        note = (
            f"CMA-ES on {PROBLEM}, a rotated ellipsoid, {arguments.evaluations} evaluations of 20 ms, {SLOTS} tasks of "
            "Ray at once on one machine of two cores. Kills are SIGKILL, each of a process in the "
            "middle of an evaluation. All values of both runs are the same, bit for bit."
        )
        write("ray", "Evaluation on Ray with killed workers", columns, rows, ["blackbox-engine", "numpy", "ray"], note)


if __name__ == "__main__":
    main()
