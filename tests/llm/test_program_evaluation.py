"""Programs run in the sandbox and are scored here: whatever one does, its score is that of the packing it returned."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hostile_programs import hostile_sample

from blackbox.errors import SettingError
from blackbox.llm import sandbox_levels
from blackbox.llm.program import ProgramEvaluator
from blackbox.problems.bin_packing import BEST_FIT, HARNESS, best_fit, excess, uniform, value

INSTANCES = [uniform(40, 0), uniform(60, 1)]
HONEST = tuple(value(best_fit, instance) for instance in INSTANCES)

pytestmark = pytest.mark.skipif(
    not any(not reason for level, reason in sandbox_levels().items() if level != "none"), reason="no sandbox works here"
)


def evaluator(**settings: object) -> ProgramEvaluator:
    given = [instance.given for instance in INSTANCES]
    return ProgramEvaluator(HARNESS, "priority", given, lambda p, i: excess(p, INSTANCES[i]), **settings)  # type: ignore[arg-type]


def written(*lines: str, before: str = "") -> str:
    """A program that a model might have written; its region is not what matters here."""
    return "\n".join(["import numpy as np", before, "def priority(item, bins):", *[f"    {line}" for line in lines]])


FORGED = {
    "a harness that says nothing was used": written(
        "import sys", "sys._getframe(1).f_globals['run'] = lambda program, instance: np.zeros(len(instance[0]), int)",
        "sys._getframe(2).f_globals['run'] = sys._getframe(1).f_globals['run']", "return -bins",
    ),
    "its own packing for the harness's": written(
        "import sys", "sys._getframe(1).f_globals['pack'] = lambda *a: np.zeros(9, int)", "return -bins",
    ),
    "a score": written(
        "import sys", "sys._getframe(1).f_globals['run'] = lambda *a: -1e9", "return -bins",
    ),
    "a result of its own": written(
        "import os, sys, gc",
        "for frame in sys._current_frames().values():",
        "    while frame is not None:",
        "        if 'request' in frame.f_locals and 'token' in frame.f_locals['request']:",
        "            r = frame.f_locals['request']",
        "            os.write(r['result'], (r['token'] + '{\"value\": [{\"values\": [[], []]}]}').encode())",
        "            os._exit(0)",
        "        frame = frame.f_back",
        "return -bins",
    ),
    "other exceptions": written("raise SystemExit(0)"),
    "an end": written("import os", "os._exit(0)"),
    "garbage": written("print('x' * 1000, flush=True)", "raise ValueError('garbage')"),
    "no function": "priority = 3",
    "another name": "def prio(item, bins):\n    return bins",
    "no Python": "def priority(item, bins:",
    "a loop": written("while True:", "    pass"),
    "objects": written("return [object()] * len(bins)"),
    "another shape": written("return np.zeros((3, len(bins) + 1))"),
}  # fmt: skip


def test_what_programs_claim_does_not_become_their_score() -> None:
    evaluate = evaluator(timeout=2.5)
    sources = [BEST_FIT, *FORGED.values(), BEST_FIT]
    first, *forged, last = evaluate(sources)
    assert first.scores == last.scores == pytest.approx(HONEST)
    assert first.level in ("limits", "landlock", "bubblewrap")
    for name, evaluation in zip(FORGED, forged, strict=True):
        honest = not evaluation.failed and evaluation.scores == pytest.approx(HONEST)
        assert honest or evaluation.failed, name
        assert honest or evaluation.feedback, name
    said = dict(zip(FORGED, (evaluation.feedback for evaluation in forged), strict=True))
    assert "ValueError: garbage (line 5)" in said["garbage"] and "xxx" in said["garbage"]
    assert said["a loop"].startswith("timeout")
    assert "SyntaxError" in said["no Python"]
    assert said["another name"].startswith("KeyError")
    assert (
        "capacity" in said["a harness that says nothing was used"] or not said["a harness that says nothing was used"]
    )


def test_plain_programs_share_a_process_and_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from blackbox.llm.program import evaluation

    calls: list[int] = []
    run = evaluation.run_sandboxed

    def counting(source: str, entry: str, args: list[object], **more: object) -> object:
        calls.append(len(args[1]))  # type: ignore[arg-type]
        return run(source, entry, args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "run_sandboxed", counting)
    wrong = BEST_FIT.replace("-left", "item - bins[:5]")
    worse = BEST_FIT.replace("-left", "np.where(bins > 140, 1.0, -bins)")
    sources = [BEST_FIT, wrong, written("import time", "return -bins"), worse, BEST_FIT]
    results = evaluator(batch=3)(sources)
    assert sorted(calls) == [1, 1, 3]  # two processes for plain ones, one for that which imports
    assert [result.failed for result in results] == [False, True, False, False, False]
    assert "shape" in results[1].feedback
    assert results[0].scores == results[2].scores == results[4].scores == pytest.approx(HONEST)
    assert np.mean(results[3].scores) > np.mean(HONEST)
    calls.clear()
    only = evaluator(plain=True)(sources)
    assert calls == [4]
    assert only[2].feedback.startswith("not run: import time")
    assert only[2].level == ""
    assert all(math.isnan(score) for score in only[2].scores)


def test_a_program_that_changes_its_instance_changes_no_other_programs() -> None:
    harness = "def run(program, instance):\n    return program(instance)"
    instances = [np.arange(3.0), np.arange(4.0)]
    evaluate = ProgramEvaluator(harness, "f", instances, lambda output, i: float(np.abs(output - instances[i]).sum()))
    honest, other = "def f(x):\n    return x", "def f(x):\n    x += 5\n    x[0] = 9.0\n    return x"
    before, changed, after = evaluate([honest, other, honest])
    assert before.scores == after.scores == (0.0, 0.0)
    assert changed.scores == (19.0, 24.0)
    assert instances[0].tolist() == [0.0, 1.0, 2.0]


def test_plain_programs_share_nothing_of_the_harness_nor_what_they_returned() -> None:
    harness = "import numpy as np\nX = np.linspace(0, 1, 5)\ndef run(program, instance):\n    return program(X)"
    expected = np.linspace(0, 1, 5)
    evaluate = ProgramEvaluator(harness, "f", [0, 1], lambda output, i: float(np.abs(output - expected).sum()))
    honest = "def f(x):\n    return x"
    before, changed, after = evaluate([honest, "def f(x):\n    x += 5\n    return x", honest])
    assert before.scores == after.scores == (0.0, 0.0)
    assert changed.scores == (25.0, 25.0)  # nor did the first instance change the second


def test_a_program_among_others_has_the_memory_and_the_time_that_it_has_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from blackbox.llm.program import evaluation

    calls: list[int] = []

    def answered(source: str, entry: str, args: list[object], **more: object) -> object:
        calls.append(len(args[1]))  # type: ignore[arg-type]
        late, full = {"values": [1.0], "again": True}, {"error": "MemoryError: ", "again": True}
        return evaluation_of([{"values": [1.0], "again": False}, late, full] if calls == [3] else [{"values": [2.0]}])

    def evaluation_of(value: object) -> object:
        return type("Ran", (), {"value": value, "level": "limits", "output": ""})

    monkeypatch.setattr(evaluation, "run_sandboxed", answered)
    sources = [f"def f(x):\n    return {i}" for i in range(3)]
    results = ProgramEvaluator("", "f", [0], lambda output, i: output)(sources)
    assert [result.scores for result in results] == [(1.0,), (2.0,), (2.0,)]
    assert calls == [3, 1, 1]
    space: dict[str, object] = {}
    exec(evaluation.BATCH, space)
    harness = "import time\ndef run(program, instance):\n    time.sleep(0.02)\n    return program(instance)"
    lines = ["def f(x):\n    return x", "def f(x):\n    raise MemoryError"]
    slow = space["evaluate_batch"](harness, lines, "f", [1], 0.01)  # type: ignore[operator]
    assert [answer.get("again") for answer in slow] == [True, True]
    fast = space["evaluate_batch"](harness, lines, "f", [1], 10.0)  # type: ignore[operator]
    assert [answer.get("again", False) for answer in fast] == [False, True]


def test_a_plain_program_that_never_ends_takes_no_other_with_it() -> None:
    slow = BEST_FIT.replace("-left", "float(7 ** (9 ** (5 + len(bins) * 5) * len(bins))) - bins")
    results = evaluator(timeout=1.5)([BEST_FIT, slow])
    assert [result.failed for result in results] == [False, True]
    assert results[1].feedback.startswith(("timeout", "memory"))


def test_several_processes_give_what_one_gives() -> None:
    sources = [BEST_FIT, written("import time", "return -bins"), BEST_FIT.replace("-left", "bins")]
    assert evaluator(workers=2, batch=1)(sources) == evaluator()(sources)


def test_settings_are_checked() -> None:
    with pytest.raises(SettingError, match="instances must be"):
        ProgramEvaluator(HARNESS, "priority", [], lambda output, number: 0.0)
    for name, bad in (("level", "strong"), ("timeout", 0), ("batch", 0), ("workers", 1.5)):
        with pytest.raises(SettingError, match=f"{name} must be"):
            evaluator(**{name: bad})


def test_combinations_of_attacks_change_no_score_but_their_own_and_that_not_for_the_better(tmp_path: Path) -> None:
    """Some of the samples of which bench/sandbox.py runs hundreds, between programs whose score is known."""
    count = 12
    (tmp_path / "kept").write_text("kept")
    place = {"parent": os.getpid(), "folder": str(tmp_path)}
    generator = random.Random(7)
    honest = "def f(place):\n    return 2.0"
    sources = [source for _ in range(count) for source in (hostile_sample(generator), honest)]
    harness = "def run(program, instance):\n    return program(dict(instance))"

    def score(output: object, number: int) -> float:
        if type(output) is not float:
            raise ValueError("f must return a float")
        return abs(output - 2.0)

    results = ProgramEvaluator(harness, "f", [place, place], score, timeout=20.0, workers=2)(sources)
    assert [result.scores for result in results[1::2]] == [(0.0, 0.0)] * count
    assert all(result.failed or min(result.scores) > 0 for result in results[::2])
    assert (tmp_path / "kept").read_text() == "kept"
    assert os.listdir(tmp_path) == ["kept"]
