"""What may watch a run of :func:`blackbox.minimize`, and end it.

A callback is a function, called with a :class:`Snapshot` after each told result, or an object with some of the
methods ``on_start``, ``on_tell``, ``on_generation`` and ``on_stop``. Returning :class:`Stop` ends the run. A callback
that raises is reported once and not called again: watching must not break what is watched.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from blackbox.dimensions import show
from blackbox.errors import SettingError
from blackbox.optimizer import Optimizer
from blackbox.shell.candidate import Candidate

CallbackEvent = Literal["on_start", "on_tell", "on_generation", "on_stop"]
EVENTS: tuple[CallbackEvent, ...] = ("on_start", "on_tell", "on_generation", "on_stop")


class Stop(NamedTuple):
    """Returned by a callback, ends the run."""

    reason: str = "a callback said so"


class Snapshot(NamedTuple):
    """A run as callbacks see it."""

    optimizer: Optimizer
    candidate: Candidate | None
    """The one just told; None at the start and at the end."""
    seconds: float
    """Since the start of this call of minimize."""
    stopped: dict[str, str]
    """Why the run has ended, at ``on_stop``; else empty."""

    @property
    def best(self) -> Candidate | None:
        """The best result so far."""
        return self.optimizer.best

    @property
    def evaluations(self) -> int:
        """Results told so far, those of a resumed journal included."""
        return self.optimizer.evaluations

    @property
    def generation(self) -> int:
        """Number of the open generation."""
        return self.optimizer.generation


class Callbacks:
    """The callbacks of a run, by event.

    Args:
        callbacks: the user's.
        own: one more, or None.
    """

    def __init__(self, callbacks: Iterable[Any], own: Any = None) -> None:
        if callable(callbacks) or not isinstance(callbacks, Iterable):
            raise SettingError(f"callbacks must be a list of callbacks; got {show(callbacks)}")
        callbacks = [*callbacks, *([] if own is None else [own])]
        self._listeners: dict[CallbackEvent, list[tuple[Any, Callable[[Snapshot], object]]]] = {e: [] for e in EVENTS}
        for i, callback in enumerate(callbacks):
            methods: dict[CallbackEvent, Any] = {e: getattr(callback, e) for e in EVENTS if hasattr(callback, e)}
            if not methods and callable(callback):
                methods["on_tell"] = callback
            if not methods or not all(callable(method) for method in methods.values()):
                raise SettingError(
                    f"callbacks[{i}] must be a function or have some of {', '.join(EVENTS)}; got {show(callback)}"
                )
            for event, method in methods.items():
                self._listeners[event].append((callback, method))

    def listen(self, event: CallbackEvent) -> bool:
        """Whether anything listens to an event."""
        return bool(self._listeners[event])

    def emit(self, event: CallbackEvent, snapshot: Snapshot) -> list[str]:
        """Call all that listen; the reasons of those that want to stop."""
        reasons = []
        for callback, method in list(self._listeners[event]):
            try:
                answer = method(snapshot)
            except Exception as error:
                for listeners in self._listeners.values():
                    listeners[:] = [entry for entry in listeners if entry[0] is not callback]
                warnings.warn(
                    f"the callback {show(callback)} raised {error!r} and is not called again",
                    RuntimeWarning,
                    stacklevel=3,
                )
                continue
            if isinstance(answer, Stop):
                reasons.append(answer.reason)
            elif answer is Stop:
                reasons.append(Stop().reason)
        return reasons
