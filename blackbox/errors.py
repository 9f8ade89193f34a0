"""Every error that blackbox raises on purpose.

Each class is also a :class:`ValueError` or :class:`RuntimeError`, so that generic handlers work. A message
names the argument, what came and what is allowed.
"""

from __future__ import annotations


class BlackboxError(Exception):
    """Base class of all errors raised on purpose."""


class SettingError(BlackboxError, ValueError):
    """An argument or hyperparameter outside its allowed range, or an unknown name."""


class SpaceError(BlackboxError, ValueError):
    """A malformed search space, or a point that does not belong to it."""


class TellError(BlackboxError, ValueError):
    """A told result that cannot be used: wrong type, shape, or candidate."""


class DuplicateTell(TellError):
    """A candidate that already has a result was told again."""


class UnknownCandidate(TellError):
    """A candidate that this optimizer never asked for."""


class NonFinite(TellError):
    """A non-finite value where the policy forbids it (minus infinity always, unless allowed)."""


class JournalError(BlackboxError, RuntimeError):
    """The journal could not be read, written or locked."""


class CheckpointError(JournalError):
    """A checkpoint is corrupt or belongs to another run."""


class BudgetExhausted(BlackboxError, RuntimeError):
    """``ask`` was called although the budget is spent."""


class WorkerError(BlackboxError, RuntimeError):
    """The evaluation pool cannot go on."""


class ProviderError(BlackboxError, RuntimeError):
    """A language-model provider failed."""


class SandboxError(BlackboxError, RuntimeError):
    """A generated program returned no value, or could not be run safely.

    Attributes:
        kind: "timeout", "memory", "crash" (it ended without a result), "forbidden", "raised" (any other exception),
            "result" (not one value that can be read), "output" (it printed too much), or "unavailable" (no such
            sandbox here).
        level: the sandbox it ran in, or was to run in.
        output: what it had printed until then.
    """

    def __init__(self, message: str, kind: str = "unavailable", level: str = "", output: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.level = level
        self.output = output


class MissingExtra(BlackboxError, ImportError):
    """An optional dependency is not installed."""


def missing_extra(package: str, extra: str) -> MissingExtra:
    """The error for an absent optional ``package``, naming the command that installs it."""
    return MissingExtra(f"{package} is not installed; run: pip install 'blackbox-engine[{extra}]'")
