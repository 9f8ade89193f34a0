"""Programs are run in the sandbox, on several instances each; scores are computed here, from what they returned.

Starting a process and importing NumPy takes longer than most evaluations, so many programs share one where that is
safe: those that :func:`blackbox.llm.program.screen.impure` finds nothing against. Every other program has a process of
its own. A process that fails as a whole is run again program by program, so one's failure is no other's; so is, alone,
a program that ran out of memory among others, or took longer than it may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from blackbox.errors import SandboxError, SettingError
from blackbox.llm.program.feedback import shown
from blackbox.llm.program.screen import impure
from blackbox.llm.sandbox import LEVELS, run_sandboxed
from blackbox.strategy import require_integer, require_number

BATCH = """
def evaluate_batch(harness, programs, entry, instances, seconds):
    import copy, gc, time, types, warnings
    warnings.simplefilter("ignore")
    harness = compile(harness, "<harness>", "exec")

    def output(code, instance):
        around, module = types.ModuleType("program"), types.ModuleType("program")
        try:
            exec(harness, around.__dict__)
            exec(code, module.__dict__)
            return copy.deepcopy(around.run(module.__dict__[entry], copy.deepcopy(instance)))
        finally:
            around.__dict__.clear()
            module.__dict__.clear()

    answers = []
    for text in programs:
        begin = time.monotonic()
        try:
            code = compile(text, "<candidate>", "exec")
            answers.append({"values": [output(code, instance) for instance in instances]})
        except Exception as error:
            line, trace = "", error.__traceback__
            while trace is not None:
                if trace.tb_frame.f_code.co_filename == "<candidate>":
                    line = f" (line {trace.tb_lineno})"
                trace = trace.tb_next
            if isinstance(error, SyntaxError):
                line = f" (line {error.lineno})"
            answers.append({"error": f"{type(error).__name__}: {error}"[:1000] + line})
            answers[-1]["again"] = isinstance(error, MemoryError)
        gc.collect()
        gc.freeze()
        if time.monotonic() - begin > seconds:
            answers[-1]["again"] = True
    return answers
"""
"""A program has its own harness and is made anew for each instance, and what it returned is copied at once: arrays that
it changes or keeps are no other program's, and no other instance's. Its garbage is gone before the next one begins, and
what is left, NumPy above all, is frozen: to go through all of that each time would take longer than many a program.
Warnings are not printed: many would end the process of all, and only who is alone would have them as feedback."""


class Evaluation(NamedTuple):
    """How a program did."""

    scores: tuple[float, ...]
    """One for each instance, lower is better; all NaN if it failed on any."""
    feedback: str
    """What went wrong, or what it printed; a stranger's text."""
    level: str
    """The sandbox it ran in; "" if it was not run."""

    @property
    def failed(self) -> bool:
        """Whether there is no score."""
        return any(math.isnan(score) for score in self.scores)


class ProgramEvaluator:
    """Scores of programs on instances::

        evaluate = bb.llm.ProgramEvaluator(harness, "f", instances, lambda output, i: abs(output - answers[i]))
        for source, evaluation in zip(sources, evaluate(sources)): ...

    Args:
        harness: text of a module that defines ``run(program, instance) -> output``, run beside the program, in its
            process: what ``program`` is called with, and what it returns, is up to it. It has NumPy and the standard
            library. It should let MemoryError pass: a program that ran out of memory among others is run again alone.
        entry: name of the function in a program.
        instances: what the harness is given, one after the other: what :func:`blackbox.llm.run_sandboxed` takes.
            Whatever is in them the program can know, whatever the harness means to show it.
        score: ``score(output, number) -> float`` of an instance's output, in this process: it must check the output,
            which may be anything that a hostile program likes, and raises ValueError or TypeError, saying why, for one
            that is none.
        timeout: seconds for one program on all instances, the start of its process included.
        memory: bytes of address space of a process.
        level: of the sandbox; None for the strongest that works here.
        batch: most programs in one process, >= 1; only plain ones ever share one.
        workers: processes at the same time, >= 1.
        plain: whether programs that are not plain fail without being run: only of plain ones is it known that they look
            at nothing but their arguments, as an online rule must.

    Raises:
        SettingError: an argument outside its range.
    """

    def __init__(
        self,
        harness: str,
        entry: str,
        instances: Sequence[Any],
        score: Callable[[Any, int], float],
        *,
        timeout: float = 10.0,
        memory: int = 1 << 30,
        level: str | None = None,
        batch: int = 16,
        workers: int = 1,
        plain: bool = False,
    ) -> None:
        if not instances:
            raise SettingError("instances must be at least one")
        if level is not None and level not in LEVELS:
            raise SettingError(f"level must be None or one of {', '.join(LEVELS)}; got {level!r}")
        require_number("timeout", timeout, above=0)
        for name, count in (("batch", batch), ("workers", workers), ("memory", memory)):
            require_integer(name, count, low=1, optional=False)
        self.harness, self.entry, self.instances, self.score = harness, entry, list(instances), score
        self.timeout, self.memory, self.level = timeout, memory, level
        self.batch, self.workers, self.plain = batch, workers, plain

    def __call__(self, sources: Sequence[str]) -> list[Evaluation]:
        """The evaluations of programs, in their order. What one program does changes no other's.

        Raises:
            SandboxError: of kind "unavailable": there is no sandbox here, or not the one that was asked for.
            SettingError: ``score`` raised what it must not; says on which instance and which program.
        """
        reasons = [impure(source) for source in sources]
        together = [i for i, reason in enumerate(reasons) if not reason]
        alone = [i for i, reason in enumerate(reasons) if reason and not self.plain]
        groups = [together[i : i + self.batch] for i in range(0, len(together), self.batch)] + [[i] for i in alone]
        done = {i: self._failed(f"not run: {reason}") for i, reason in enumerate(reasons) if reason and self.plain}
        if self.workers == 1 or len(groups) < 2:
            results = [self._group([sources[i] for i in group]) for group in groups]
        else:
            with ThreadPoolExecutor(self.workers, "blackbox-programs") as pool:
                results = list(pool.map(lambda group: self._group([sources[i] for i in group]), groups))
        for group, evaluations in zip(groups, results, strict=True):
            done.update(zip(group, evaluations, strict=True))
        return [done[i] for i in range(len(sources))]

    def _group(self, sources: Sequence[str]) -> list[Evaluation]:
        """Programs that share a process."""
        try:
            ran = run_sandboxed(
                BATCH,
                "evaluate_batch",
                [self.harness, list(sources), self.entry, self.instances, self.timeout],
                timeout=self.timeout * max(1.0, len(sources) / 4),
                memory=self.memory,
                level=self.level,
            )
        except SandboxError as error:
            if error.kind == "unavailable":
                raise
            if len(sources) == 1:
                return [self._failed(f"{error.kind}: {error}\n{error.output}", error.level)]
            return [self._group([source])[0] for source in sources]
        answers, printed = ran.value, ran.output if len(sources) == 1 else ""
        if not isinstance(answers, list) or len(answers) != len(sources):
            answers = [None] * len(sources)
        again = [len(sources) > 1 and isinstance(answer, dict) and bool(answer.get("again")) for answer in answers]
        return [
            self._group([source])[0] if alone else self._judge(source, answer, ran.level, printed)
            for source, answer, alone in zip(sources, answers, again, strict=True)
        ]

    def _judge(self, source: str, answer: Any, level: str, printed: str) -> Evaluation:
        """The scores of one program, by what its process said."""
        if isinstance(answer, dict) and isinstance(answer.get("error"), str):
            return self._failed(f"{answer['error']}\n{printed}", level)
        values = answer.get("values") if isinstance(answer, dict) else None
        if not isinstance(values, list) or len(values) != len(self.instances):
            return self._failed(f"its process did not return one output for each instance\n{printed}", level)
        scores = []
        for number, value in enumerate(values):
            try:
                score = self.score(value, number)
                if isinstance(score, bool | np.bool_ | str):  # numbers to Python, mistakes to everybody else
                    raise TypeError(f"score must return a number, got {score!r}")
                scores.append(float(score))
            except (ValueError, TypeError, OverflowError) as error:
                return self._failed(f"instance {number}: {error}\n{printed}", level)
            except Exception as error:
                raise SettingError(
                    f"score must return a number, or raise ValueError or TypeError for an output that is none; on "
                    f"instance {number} it raised {type(error).__name__}: {error}; the program was\n{shown(source)}"
                ) from error
        if not np.isfinite(scores).all():
            return self._failed(f"a score is not finite: {scores}\n{printed}", level)
        return Evaluation(tuple(scores), _printable(printed), level)

    def _failed(self, feedback: str, level: str = "") -> Evaluation:
        return Evaluation((math.nan,) * len(self.instances), _printable(feedback), level)


def _printable(text: str) -> str:
    """``text`` without what a terminal would obey, or no file could hold."""
    return "".join(sign if sign.isprintable() or sign == "\n" else " " for sign in text).strip()
