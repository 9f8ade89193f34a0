"""R2, R4, R16 and R17: a run is a function of its settings and of what is told, and of nothing else."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import numpy as np

import blackbox as bb
from figures.course import (
    METHODS,
    Figure,
    Outcome,
    advance,
    affordable,
    copy_journal,
    digest,
    finish,
    frequent_checkpoints,
    make,
    objective,
    scaled,
    start,
)

EVALUATIONS = 400
FEW = {"cge", "nelder-mead", "quadratic", "spsa"}
"""Methods whose runs from one start begin alike: they draw nothing before their first restart, or signs alone."""


def resumed(scale: float, folder: Path) -> Outcome:
    """R2. The journal is copied as it is on the disk at the cut, log and all, and resumed from the copy."""
    cuts = scaled(50, scale, 4)
    different, resumes = [], 0
    for method in METHODS:
        path, copy = folder / f"{method}.db", folder / f"{method}-copy.db"
        rng = random.Random(method)
        evaluations = affordable(method, EVALUATIONS)
        ends = sorted(rng.sample(range(1, evaluations), cuts))
        original = make(method, path)
        plain = make(method)
        for number, end in enumerate(ends):
            frequent_checkpoints(None if number < cuts // 5 else 3)
            advance(original, end)
            advance(plain, end)
            copy_journal(path, copy)
            with bb.Optimizer.resume(copy, steal=True) as again:
                resumes += 1
                same = digest(again) == digest(plain)
                if number == cuts - 1:  # and so it stays
                    advance(again, evaluations)
                    advance(plain, evaluations)
                    same &= digest(again) == digest(plain)
            if not same:
                different.append(f"{method} after {end}")
        original.close()
    frequent_checkpoints(None)
    measured = f"{resumes} resumes of {len(METHODS)} methods, {len(different)} differ"
    return Outcome(measured + (": " + ", ".join(different[:5]) if different else ""), not different)


def orders(scale: float, folder: Path) -> Outcome:
    """R4. Three generations, each told in a random order in random batches."""
    count = scaled(1000, scale, 2 * len(METHODS))
    different = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            method = METHODS[number % len(METHODS)]
            rng = random.Random(number)
            optimizer = make(method)
            for _ in range(3):
                candidates = optimizer.ask(optimizer.popsize)
                rng.shuffle(candidates)
                while candidates:
                    batch = [candidates.pop() for _ in range(rng.randint(1, len(candidates)))]
                    optimizer.tell(batch, [objective(candidate.x) for candidate in batch])
            plain = make(method)
            advance(plain, optimizer.evaluations)
            if digest(optimizer) != digest(plain):
                different.append(method)
    measured = f"{count} orders and splits over {len(METHODS)} methods, {len(different)} states differ"
    return Outcome(measured + (": " + ", ".join(sorted(set(different))) if different else ""), not different)


def course() -> str:
    """Digests of runs of all methods, for comparison with other processes."""
    digests = []
    for method in METHODS:
        optimizer = make(method)
        advance(optimizer, affordable(method, 200))
        digests.append(digest(optimizer))
    return " ".join(digests)


CHILD = """
from pathlib import Path
import figures.replay as r, figures.tells as t
print(r.course())
print(*(figure(float(sys.argv[1]), Path(sys.argv[2])) for figure in (r.resumed, t.malformed)), sep="\\n")
"""


def processes(scale: float, folder: Path) -> Outcome:
    """R16. The course in other processes, and R2 and R3 at a tenth under ``-O`` with random hashes."""
    expected, failures, ran = course(), [], 0
    short = "import figures.replay as r; print(r.course())"
    for flags in ((), ("-O",), ("-OO",)):
        for seed in ("0", "1", "random")[: 3 if scale >= 1 else 1]:
            variables = {"PYTHONHASHSEED": seed}
            ran += 1
            if finish(start(short, flags=flags, variables=variables)).strip() != expected:
                failures.append(f"another course under {flags} and PYTHONHASHSEED={seed}")
    child = start(CHILD, 0.1 * scale, folder, flags=("-O",), variables={"PYTHONHASHSEED": "random"})
    first, *figures = finish(child).strip().split("\n")
    if first != expected:
        failures.append("another course under -O and random hashes")
    failures += [line for line in figures if "ok=True" not in line]
    measured = f"{ran + 1} processes, the same course of {len(METHODS)} methods; R2 and R3 under -O and random hashes: "
    return Outcome(measured + ("unchanged" if not failures else "; ".join(failures)), not failures)


def seeds(scale: float, folder: Path) -> Outcome:
    """R17. The first generations of all methods, as vectors of bits; and the state of the global generators."""
    count = scaled(1000, scale)
    box = bb.Box([-1] * 5, [1] * 5)
    before = repr(random.getstate()) + repr(np.random.get_state())
    shared, total = [], 0
    for method in METHODS:
        if method in FEW:
            continue
        seen: dict[bytes, int] = {}
        for seed in range(count):
            optimizer = bb.Optimizer(box, method, seed=seed)
            candidates = optimizer.ask(optimizer.popsize)
            optimizer.tell(candidates, [float(candidate.x @ candidate.x) for candidate in candidates])
            candidates += optimizer.ask(optimizer.popsize)
            for candidate in candidates:
                if (candidate._row == 0.5).all():
                    continue  # the start point, which some methods evaluate
                total += 1
                if seen.setdefault(candidate._row.tobytes(), seed) != seed:
                    shared.append(method)
    touched = repr(random.getstate()) + repr(np.random.get_state()) != before
    names = ", ".join(sorted(set(shared))) or "none"
    silent = ", ".join(sorted(FEW))
    measured = (
        f"{count} seeds, {len(METHODS) - len(FEW)} methods (without {silent}, which draw nothing or signs), {total} "
        f"candidates besides the start point: {len(shared)} shared (by {names}); global generators "
        f"{'touched' if touched else 'untouched'}"
    )
    return Outcome(measured, not shared and not touched)


FIGURES = [
    Figure("R2", "resumed against uninterrupted, 50 cuts, every method", "bit-identical state and asks", resumed),
    Figure("R4", "a generation told in 1,000 orders and batch splits", "identical state", orders),
    Figure("R16", "`python -O`, random `PYTHONHASHSEED`, other processes", "R2 and R3 unchanged", processes),
    Figure("R17", "1,000 runs with distinct seeds", "no shared candidate; global generators untouched", seeds),
]
