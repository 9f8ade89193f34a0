"""Rate limits of a server, kept from this side."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

_MINUTE = 60.0


class Rate:
    """At most so many requests, and tokens, in any sixty seconds, over all threads of this process.

    Args:
        requests: a minute; None for no limit.
        tokens: a minute, counted by their upper bound until the answer is there; None for no limit. A request with more
            than that goes alone.
        clock: seconds that never go backwards.
        sleep: waits so many seconds.
    """

    def __init__(
        self, requests: int | None, tokens: int | None, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._requests, self._tokens = requests, tokens
        self._clock, self._sleep = clock, sleep
        self._mutex = threading.Lock()
        self._recent: deque[list[float]] = deque()  # [time, tokens], oldest first
        self._closed_until = -float("inf")

    def enter(self, tokens: int) -> list[float]:
        """Wait for room for a request of so many tokens, and take it; the entry is for :meth:`correct`."""
        while True:
            with self._mutex:
                wait = self._wait(tokens)
                if wait <= 0:
                    entry = [self._clock(), float(tokens)]
                    if self._requests is not None or self._tokens is not None:
                        self._recent.append(entry)
                    return entry
            self._sleep(wait)

    def correct(self, entry: list[float], tokens: int) -> None:
        """Put what a request took in the place of its upper bound."""
        with self._mutex:
            entry[1] = float(tokens)

    def pause(self, seconds: float) -> None:
        """Let nobody in for so long: the server said so to one, and means all."""
        with self._mutex:
            self._closed_until = max(self._closed_until, self._clock() + seconds)

    def _wait(self, tokens: int) -> float:
        now = self._clock()
        while self._recent and self._recent[0][0] <= now - _MINUTE:
            self._recent.popleft()
        wait = self._closed_until - now
        if self._requests is not None and len(self._recent) >= self._requests:
            wait = max(wait, self._recent[-self._requests][0] + _MINUTE - now)
        if self._tokens is not None:
            room = self._tokens - tokens
            taken = sum(entry[1] for entry in self._recent)
            for began, size in self._recent:
                if taken <= room:
                    break
                wait = max(wait, began + _MINUTE - now)
                taken -= size
        return wait
