"""Programs run in the sandbox and are scored here: whatever one does, its score is that of the packing it returned."""

from __future__ import annotations

import gc
import itertools
import math
import os
import random
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_programs import (
    FORGERIES,
    LOUD,
    PLAIN,
    QUIET,
    REACHED,
    SHARED,
    Attack,
    forgery_sample,
    hostile_sample,
    plain_sample,
    quiet_sample,
)

from blackbox.errors import SettingError
from blackbox.llm import sandbox_levels
from blackbox.llm.program import Evaluation, ProgramEvaluator, evaluation, impure
from blackbox.problems.bin_packing import BEST_FIT, HARNESS, best_fit, excess, uniform, value

INSTANCES = [uniform(40, 0), uniform(60, 1)]
HONEST = tuple(value(best_fit, instance) for instance in INSTANCES)

pytestmark = pytest.mark.skipif(
    not any(not reason for level, reason in sandbox_levels().items() if level != "none"), reason="no sandbox works here"
)
contained = pytest.mark.skipif(
    bool(sandbox_levels()["landlock"] and sandbox_levels()["bubblewrap"]), reason="programs could kill us here"
)


def evaluator(**settings: object) -> ProgramEvaluator:
    given = [instance.given for instance in INSTANCES]
    return ProgramEvaluator(HARNESS, "priority", given, lambda p, i: excess(p, INSTANCES[i]), **settings)  # type: ignore[arg-type]


def written(*lines: str, before: str = "") -> str:
    """A program that a model might have written; its region is not what matters here."""
    return "\n".join(["import numpy as np", before, "def priority(item, bins):", *[f"    {line}" for line in lines]])


WORST_FIT = BEST_FIT.replace("-left", "left")
WRONG = {
    "an exception": (written("print('x' * 1000, flush=True)", "raise ValueError('garbage')"),
                     "ValueError: garbage (line 5)\nxxx"),
    "no function": ("priority = 3", "TypeError: 'int' object is not callable"),
    "another name": ("def prio(item, bins):\n    return bins", "KeyError: 'priority'"),
    "no Python": ("def priority(item, bins:", "SyntaxError: "),
    "objects": (written("return [object()] * len(bins)"), "TypeError: float() argument must be"),
    "another shape": (written("return np.zeros((3, len(bins) + 1))"), "ValueError: input operand has more dimensions"),
}  # fmt: skip


def between(attacks: Iterable[str], *honest: str) -> list[str]:
    """An honest program before and after each attack, in turns."""
    turns = itertools.cycle(honest)
    return [next(turns), *itertools.chain.from_iterable((attack, next(turns)) for attack in attacks)]


def missed(attacks: Mapping[str, Attack], results: Iterable[Evaluation], honest: tuple[float, ...]) -> dict[str, str]:
    """Of each attack that did not end as it must, what came of it."""

    def ends(attack: Attack, result: Evaluation) -> bool:
        if attack.outcome == "":
            return result.scores == honest
        if isinstance(attack.outcome, float):
            return result.scores == (attack.outcome,) * len(honest)
        return result.failed and attack.outcome in result.feedback

    outcomes = zip(attacks.items(), results, strict=True)
    return {name: str(result) for (name, attack), result in outcomes if not ends(attack, result)}


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The arguments of every process that is started."""
    calls: list[list[Any]] = []
    run = evaluation.run_sandboxed

    def counting(source: str, entry: str, args: list[Any], **more: Any) -> object:
        calls.append(args)
        return run(source, entry, args, **more)

    monkeypatch.setattr(evaluation, "run_sandboxed", counting)
    return calls


@contained
def test_what_programs_claim_does_not_become_their_score() -> None:
    honest = evaluator()([BEST_FIT])[0], evaluator()([WORST_FIT])[0]
    assert honest[0].scores == HONEST != honest[1].scores
    assert honest[0].level in ("limits", "landlock", "bubblewrap")
    attacks = {**FORGERIES, **{name: Attack(*wrong) for name, wrong in WRONG.items()}}
    endless = {name: attacks.pop(name) for name, attack in list(attacks.items()) if attack.outcome == "timeout: "}
    ended = evaluator(timeout=3.0)([attack.source for attack in endless.values()])
    assert missed(endless, ended, HONEST) == {}
    results = evaluator(timeout=20.0, workers=2)(
        between([attack.source for attack in attacks.values()], BEST_FIT, WORST_FIT)
    )
    assert missed(attacks, results[1::2], HONEST) == {}
    assert all(result == honest[turn % 2] for turn, result in enumerate(results[::2]))
    outcomes = zip([*attacks, *endless], [*results[1::2], *ended], strict=True)
    reached = {name for name, result in outcomes if REACHED in result.feedback}
    assert reached == FORGERIES.keys()  # a forgery with a mistake in it does not get there
    assert all(impure(attack.source) for attack in FORGERIES.values())
    for result in results:
        assert all(sign.isprintable() or sign == "\n" for sign in result.feedback)
        result.feedback.encode()


def test_a_process_is_given_what_programs_are_run_on_and_nothing_that_they_are_scored_by(
    processes: list[list[Any]],
) -> None:
    evaluate = evaluator(timeout=5.0)
    evaluate([BEST_FIT])
    assert processes == [[HARNESS, [BEST_FIT], "priority", [instance.given for instance in INSTANCES], 5.0]]


SUMS = [{"given": np.array([3.0, 4.0])}, {"given": np.array([5.0, 6.0])}]


def two_floats(output: Any, number: int) -> float:
    if not isinstance(output, list) or [type(value) for value in output] != [float, float]:
        raise ValueError("f must return two floats")
    return float(output[0] + 100 * output[1])


def test_plain_attacks_alter_no_output_before_or_after_them_in_their_process(processes: list[list[Any]]) -> None:
    evaluate = ProgramEvaluator(SHARED, "f", SUMS, two_floats, batch=99, plain=True)
    honest = PLAIN.replace("return", "y = x / 0.0\n    return")  # of which NumPy warns
    sources = between([attack.source for attack in QUIET.values()], honest)
    results = evaluate(sources)
    assert [call[1] for call in processes] == [sources]
    assert results[0].scores == (101 * 12.5, 101 * 16.5)
    assert set(results[::2]) == set(evaluate([honest]))
    assert missed(QUIET, results[1::2], (0.0, 0.0)) == {}


@pytest.mark.parametrize("name", LOUD)
def test_plain_attacks_on_their_process_fail_alone(name: str, processes: list[list[Any]]) -> None:
    evaluate = ProgramEvaluator(SHARED, "f", SUMS, two_floats, plain=True)
    sources = between([LOUD[name].source], PLAIN)
    before, attack, after = evaluate(sources)
    assert processes[0][1] == sources
    assert processes[-1][1] == sources[1:2] or processes[-1][1] == sources[2:]
    assert before.scores == after.scores == (101 * 12.5, 101 * 16.5)
    assert missed({name: LOUD[name]}, [attack], (0.0, 0.0)) == {}


ESCAPES = [
    "x.__class__", "().__class__.__base__", "f.__globals__", "np.__builtins__", "'{0.__class__}'.format(x)", "f'{x}'",
    "'%s' % x", "(y := x)", "[v for v in x]", "{v for v in x}", "{1: x}", "(v for v in x)", "(lambda: x)()", "f(*x)",
    "max(*x)", "max(x, key=f)", "sum(**x)", "x[*x]", "await x", "(yield)", "np.load(x)", "np.save(x, x)",
    "np.fromfile(x)", "np.frombuffer(x)", "np.lib.stride_tricks", "np.ctypeslib", "np.vectorize(f)", "np.memmap(x)",
    "np.apply_along_axis(f, 0, x)", "np.fromfunction(f, x)", "np.einsum('i->', x)", "np.frompyfunc(f, 1, 1)",
    "np.random.random()", "np.seterr()", "np.errstate()", "np.empty(9)", "np.empty_like(x)", "np.ndarray(9)",
    "np.add(x, x, x)", "np.add(x, x, out=x)", "np.sqrt(x, x)", "np.sqrt(x, where=x)", "np.sum(x, 0, None, x)",
    "np.max(x, 0, x)", "np.clip(x, 0, 1, x)", "x.clip(0, 1, x)", "x.sum(out=x)", "x.tofile(x)", "x.ctypes", "x.base",
    "x.flat", "x.dtype", "x.view(int)", "x.setflags(1)", "x.tobytes()", "np.array(x, 'O')", "np.array(x, object)",
    "x.astype(str)", "x.astype('V8')", "open", "eval", "globals()", "vars", "getattr(x, y)", "type(x)", "print(x)",
    "__import__", "__builtins__", "1j", "b''", "...",
]  # fmt: skip
STATEMENTS = [
    "global x", "nonlocal x", "del x", "raise x", "assert x", "x.y = 1", "np.sum = x", "max = x", "np = x",
    "for v in x: pass", "while x: pass", "with x: pass", "try: pass\n    finally: pass", "[x, *y] = x",
    "match x:\n        case _: pass", "class C: pass", "def g(): pass", "def g(open): pass\n    return open",
    "async def g(): pass", "from os import *", "import os", "import numpy", "import numpy.lib as np",
    "x: np.ndarray(9) = 1",
]  # fmt: skip
MODULES = [
    "X = [0]", "X = np.pi", "X: int", "X, = [1]", "X += 1", "if 1: pass", "print(1)", "@max\ndef g(): pass",
    "def g(x=[0]): pass", "def g(x=np): pass", "def __getattr__(x): pass", "def max(x): pass", "def g(np): pass",
    "class C: pass", "import sys", "from math import pi",
]  # fmt: skip
ELSEWHERE = ["open: int", "def g(open): pass", "def g():\n    open = 1", "def g(x):\n    open: int = 1"]
if sys.version_info >= (3, 12):
    MODULES += ["def g[T](x): pass", "type X = int"]


@pytest.mark.parametrize(
    "source",
    [
        *(f"import numpy as np\ndef f(x):\n    return {expression}" for expression in ESCAPES),
        *(f"import numpy as np\ndef f(x):\n    {statement}\n    return x" for statement in STATEMENTS),
        *(f"import numpy as np\n{statement}\ndef f(x):\n    return x" for statement in MODULES),
        *(f"import numpy as np\n{statement}\ndef f(x):\n    return open" for statement in ELSEWHERE),
    ],
)
def test_ways_out_are_not_plain(source: str) -> None:
    assert not impure("import numpy as np\ndef f(x):\n    return x")
    assert impure(source)
    assert not impure(source).startswith("it is no Python")


def test_plain_programs_share_a_process_and_fail_alone(processes: list[list[Any]]) -> None:
    wrong = BEST_FIT.replace("-left", "item - bins[:5]")
    worse = BEST_FIT.replace("-left", "np.where(bins > 140, 1.0, -bins)")
    sources = [BEST_FIT, wrong, written("import time", "return -bins"), worse, BEST_FIT]
    results = evaluator(batch=3)(sources)
    assert sorted(len(call[1]) for call in processes) == [
        1,
        1,
        3,
    ]  # one for that which imports
    assert [result.failed for result in results] == [False, True, False, False, False]
    assert "shape" in results[1].feedback
    assert results[0].scores == results[2].scores == results[4].scores == pytest.approx(HONEST)
    assert np.mean(results[3].scores) > np.mean(HONEST)
    processes.clear()
    only = evaluator(plain=True)(sources)
    assert [len(call[1]) for call in processes] == [4]
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
    gc.unfreeze()


def test_a_programs_memory_is_free_before_the_next_of_its_process_begins(processes: list[list[Any]]) -> None:
    harness = "def run(program, instance):\n    return program(instance)"
    lines = ["import numpy as np", "def f(x):", "    a = [np.arange(15e6), 0]", "    a[1] = a", "    return a[0][-1]"]
    evaluate = ProgramEvaluator(harness, "f", [0], lambda output, i: output, memory=400 << 20)  # of one, not of three
    results = evaluate([f"# {i}\n" + "\n".join(lines) for i in range(8)])
    assert [len(call[1]) for call in processes] == [8]  # nobody ran out of memory, or he would have run again
    assert {result.scores for result in results} == {(15e6 - 1,)}


def test_a_plain_program_that_never_ends_takes_no_other_with_it() -> None:
    slow = BEST_FIT.replace("-left", "float(7 ** (9 ** (5 + len(bins) * 5) * len(bins))) - bins")
    results = evaluator(timeout=1.5)([BEST_FIT, slow])
    assert [result.failed for result in results] == [False, True]
    assert results[1].feedback.startswith(("timeout", "memory"))


def test_several_processes_give_what_one_gives() -> None:
    sources = [BEST_FIT, written("import time", "return -bins"), BEST_FIT.replace("-left", "bins")]
    assert evaluator(workers=2, batch=1)(sources) == evaluator()(sources)


def test_an_error_of_the_score_names_instance_and_program() -> None:
    def score(output: Any, number: int) -> float:
        return {"none": 0.0}[number] if number else 1.0

    with pytest.raises(SettingError, match=r"(?s)on instance 1 it raised KeyError: 1; .*-left") as caught:
        ProgramEvaluator(HARNESS, "priority", [instance.given for instance in INSTANCES], score)([BEST_FIT])
    assert isinstance(caught.value.__cause__, KeyError)


def test_settings_are_checked() -> None:
    with pytest.raises(SettingError, match="instances must be"):
        ProgramEvaluator(HARNESS, "priority", [], lambda output, number: 0.0)
    for name, bad in (("level", "strong"), ("timeout", 0), ("batch", 0), ("workers", 1.5)):
        with pytest.raises(SettingError, match=f"{name} must be"):
            evaluator(**{name: bad})


@contained
def test_combinations_of_attacks_change_no_score_but_their_own_and_that_not_for_the_better(tmp_path: Path) -> None:
    """Some of the samples of which bench/sandbox.py runs hundreds, between programs whose score is known."""
    (tmp_path / "kept").write_text("kept")
    generator = random.Random(7)
    instances = [{**instance, "parent": os.getpid(), "folder": str(tmp_path)} for instance in SUMS]
    samples = [sample(generator) for sample in (hostile_sample, quiet_sample, plain_sample) for _ in range(3)]
    evaluate = ProgramEvaluator(SHARED, "f", instances, two_floats, timeout=20.0, workers=2)
    results = evaluate(between(samples, PLAIN))
    assert {result.scores for result in results[::2]} == {(101 * 12.5, 101 * 16.5)}
    assert all(result.scores != results[0].scores for result in results[1::2])
    forged = evaluator(timeout=20.0, workers=2)([forgery_sample(generator) for _ in range(6)])
    assert all(result.failed or result.scores == HONEST for result in forged)
    assert (tmp_path / "kept").read_text() == "kept"
    assert os.listdir(tmp_path) == ["kept"]
