"""The client: what an operator talks to. It asks a provider, and alone knows of attempts, limits, prices and storage.

::

    client = bb.llm.Client(
        bb.llm.OpenAI("gpt-x"), budget=bb.llm.Budget(money=2.0, prices=(0.15, 0.60)), path="runs/llm.db"
    )
    reply = client.complete(bb.llm.Request(bb.llm.prompt("Improve this.")))

One object instead of a chain of wrappers, because the order matters: a request is looked up in the ledger; if it is not
there, each attempt waits for a free slot and for the rate limit, reserves its upper bound, is made, checked and
committed with its answer; only then is the answer returned. With the same ``path`` and the same requests a run that was
killed goes on where it was, paying for nothing twice; equal requests of other runs and other processes cost nothing.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn

from blackbox.errors import BlackboxError, BudgetExhausted, ProviderError, SettingError
from blackbox.llm.budget import UNIT, Bill, Budget
from blackbox.llm.json_schema import extract
from blackbox.llm.ledger import Call, Ledger, Spent
from blackbox.llm.provider import AttemptFailed, Provider, Refused, Reply, Request
from blackbox.llm.rate import Rate

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds, of exponential backoff
_GRACE = 1.0  # seconds reserved beyond the timeout, for noticing it on a busy machine


class Client:
    """Answers of one model, bought within a budget and never twice. For any thread; another process makes its own.

    A deep copy of what holds a client, such as a strategy, holds the same one: there is one budget. It is not pickled.

    Args:
        provider: whom to ask.
        budget: limits on what the run takes, over all its processes and resumptions.
        path: file for the log of all calls and their answers; None to keep them as long as this object. Clients of
            several models, runs and processes may share it.
        run: name of the run in the file: whose budget it is. Answers are shared by all runs.
        attempts: most attempts at one request, >= 1, the first one included.
        timeout: seconds for one attempt, > 0.
        patience: most seconds that the server may ask to wait before the next attempt, >= 0.
        concurrency: most attempts at the same time, >= 1.
        requests_per_minute: in any sixty seconds, in this process; None for no limit.
        tokens_per_minute: likewise; counted by upper bounds until the answer is there.
        clock: seconds that never go backwards.
        sleep: waits so many seconds.

    Raises:
        SettingError: an argument outside its range, or a budget that has no room for one attempt's timeout.
        JournalError: the file is something else, or cannot be made.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        budget: Budget | None = None,
        path: str | os.PathLike[str] | None = None,
        run: str = "",
        attempts: int = 4,
        timeout: float = 60.0,
        patience: float = 60.0,
        concurrency: int = 8,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        for name, count in (("attempts", attempts), ("concurrency", concurrency)):
            if type(count) is not int or count < 1:
                raise SettingError(f"{name} must be an integer >= 1; got {count!r}")
        rates = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
        for name, rate in rates.items():
            if rate is not None and (type(rate) is not int or rate < 1):
                raise SettingError(f"{name} must be an integer >= 1 or None; got {rate!r}")
        for name, seconds, least in (("timeout", timeout, 1e-3), ("patience", patience, 0.0)):
            if type(seconds) not in (int, float) or not least <= seconds < math.inf:
                raise SettingError(f"{name} must be a number of seconds >= {least:g}; got {seconds!r}")
        self.provider, self.run = provider, run
        self.budget = budget or Budget()
        if self.budget.seconds is not None and self.budget.seconds < timeout + _GRACE:
            raise SettingError(
                f"timeout must be at most the budget's seconds less {_GRACE:g}, as one attempt may take it whole; got"
                f" timeout={timeout:g} and seconds={self.budget.seconds:g}"
            )
        self.budget.price(0, 0, provider.model)  # raises if it must be known and is not
        self._attempts, self._timeout, self._patience = attempts, float(timeout), patience
        self._clock, self._sleep = clock, sleep
        self._concurrency = concurrency
        self._slots = threading.BoundedSemaphore(concurrency)
        self._rate = Rate(requests_per_minute, tokens_per_minute, clock, sleep)
        self._changed = threading.Condition()
        self._asked: set[str] = set()  # keys under way in this process
        self._failed: dict[str, ProviderError] = {}  # what this process asked for last in vain
        self._flying = 0  # attempts under way in this process
        self._ledger = Ledger(path)

    def complete(self, request: Request) -> Reply:
        """The answer to ``request``: the stored one, or one that is bought now and stored when this returns.

        Raises:
            ProviderError: no attempt gave an answer (with a schema: one that fits it). Says what happened how often.
                It is a :class:`Refused` where the last one was.
            BudgetExhausted: a limit has no room for another attempt; says which one.
            JournalError: the file could not be read or written.
        """
        key = request.key(self.provider.model)
        with self._turn(key):
            try:
                reply = self._ledger.reuse(self.run, key) or self._buy(request, key)
            except ProviderError as error:
                self._failed[key] = error
                raise
            self._failed.pop(key, None)
            return reply

    def complete_all(self, requests: Sequence[Request]) -> list[Reply | ProviderError]:
        """Answers to several requests at once, in their order; in the place of one that failed its error.

        Raises:
            BudgetExhausted: as in :meth:`complete`, when all others are done; their answers are stored.
            JournalError: likewise.
        """

        def one(request: Request) -> Reply | BlackboxError:
            try:
                return self.complete(request)
            except BlackboxError as error:
                return error

        with ThreadPoolExecutor(max(1, min(self._concurrency, len(requests))), "blackbox-llm") as pool:
            outcomes = list(pool.map(one, requests))
        done = [outcome for outcome in outcomes if isinstance(outcome, Reply | ProviderError)]
        if len(done) < len(outcomes):
            raise next(outcome for outcome in outcomes if not isinstance(outcome, Reply | ProviderError))
        return done

    def stored(self, requests: Sequence[Request]) -> list[Reply | ProviderError | None]:
        """What became of several requests, in their order: answers that are stored, and errors of this process.

        None where nobody asked. It asks nobody and counts nothing.
        """
        keys = [request.key(self.provider.model) for request in requests]
        return [self._ledger.stored(key) or self._failed.get(key) for key in keys]

    @property
    def spent(self) -> Spent:
        """What the run has taken so far, over all its processes and resumptions."""
        return self._ledger.spent(self.run)

    def calls(self) -> list[Call]:
        """Every attempt of the run, in the order in which they began."""
        return self._ledger.calls(self.run)

    def close(self) -> None:
        """Let go of the file."""
        self._ledger.close()

    def __deepcopy__(self, memo: object) -> Client:
        return self

    def __reduce__(self) -> NoReturn:
        raise SettingError(
            "provider must be no Client where a strategy is pickled: a client holds locks and a file that are of this"
            " process. Make it there, with the same path; a provider such as OpenAI(...) can be sent"
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _turn(self, key: str) -> Iterator[None]:
        """One thread at a time for each request: the others find its answer."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._asked)
            self._asked.add(key)
        try:
            yield
        finally:
            with self._changed:
                self._asked.discard(key)
                self._changed.notify_all()

    def _buy(self, request: Request, key: str) -> Reply:
        failures: list[str] = []
        jitter = random.Random(key)  # its own for each request: nothing else's numbers are used up
        for number in range(1, self._attempts + 1):
            outcome = self._attempt(request, key, number)
            if isinstance(outcome, Reply):
                return outcome
            failures.append(str(outcome))
            if not outcome.retry or number == self._attempts:
                break
            wait = jitter.uniform(0.0, min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (number - 1)))
            if outcome.after is not None:
                if outcome.after > self._patience:
                    failures[-1] += f" and asks to wait for {outcome.after:g} s, which is more than patience"
                    break
                wait += outcome.after  # jitter on top: not all of them at the same moment
            self._sleep(wait)
        counted = ", ".join(f"{reason} ({_times(times)})" for reason, times in Counter(failures).items())
        kind = Refused if isinstance(outcome, Refused) else ProviderError
        raise kind(f"model {self.provider.model!r} did not answer request {key[:12]}: {counted}")

    def _attempt(self, request: Request, key: str, number: int) -> Reply | AttemptFailed:
        """Make one attempt, and settle it whatever happens."""
        tokens = request.most_tokens()
        bound = self._bill(tokens, self._timeout + _GRACE)
        with self._slots:
            entry = self._rate.enter(sum(tokens))
            row = self._reserve(key, number, bound)
            begin, bill = self._clock(), bound
            try:
                try:
                    reply = self.provider.complete(request, self._timeout)
                except ProviderError as error:
                    bill = self._failed_bill(error, tokens, begin)
                    self._ledger.fail(row, str(error), bill)
                    failed = error if isinstance(error, AttemptFailed) else AttemptFailed(str(error), retry=False)
                except BaseException as error:  # interrupted, or a mistake: it may have been paid
                    self._ledger.fail(row, type(error).__name__, bound)
                    raise
                else:
                    bill = self._bill((reply.tokens_in, reply.tokens_out), self._clock() - begin)
                    complaint = _complaint(request, reply)
                    if not complaint:
                        return self._ledger.succeed(row, request, reply, bill)
                    failed = AttemptFailed(complaint, retry=len(reply.texts) == request.n)
                    self._ledger.fail(row, complaint, bill)
            finally:
                self._rate.correct(entry, bill.tokens_in + bill.tokens_out)
                with self._changed:
                    self._flying -= 1
                    self._changed.notify_all()
        if failed.after is not None and failed.after <= self._patience:
            self._rate.pause(failed.after)
        return failed

    def _reserve(self, key: str, number: int, bound: Bill) -> int:
        """Log the attempt; as long as others under way may give back what they reserved, wait for them."""
        with self._changed:
            while True:
                row = self._ledger.reserve(self.budget, self.run, key, self.provider.model, number, bound)
                if isinstance(row, int):
                    self._flying += 1
                    return row
                if not self._flying:
                    raise BudgetExhausted(self._exhausted(row, bound))
                self._changed.wait()

    def _exhausted(self, limit: str, bound: Bill) -> str:
        unit = UNIT if limit in ("money", "seconds") else 1
        return (
            f"the budget of {limit} has no room for another attempt: {getattr(self.spent, limit):g} of"
            f" {getattr(self.budget, limit):g} are spent, and it may take {getattr(bound.cost, limit) / unit:g}"
        )

    def _bill(self, tokens: tuple[int, int], seconds: float) -> Bill:
        money = self.budget.price(*tokens, self.provider.model)
        return Bill(*tokens, money, math.ceil(seconds * UNIT))

    def _failed_bill(self, error: ProviderError, tokens: tuple[int, int], begin: float) -> Bill:
        unpaid = isinstance(error, AttemptFailed) and error.unpaid
        return self._bill((0, 0) if unpaid else tokens, self._clock() - begin)


def client_of(provider: Client | Provider | None) -> Client:
    """The client that an operator asks: the given one, or one without limits; for None, of the embedded model."""
    if isinstance(provider, Client):
        return provider
    if provider is None:
        from blackbox.llm.embedded import Embedded

        provider = Embedded()
    return Client(provider)


def require_provider(provider: object) -> None:
    """Raise :class:`SettingError` unless ``provider`` is one, or a client."""
    named = isinstance(getattr(provider, "model", None), str) and callable(getattr(provider, "complete", None))
    if not (named or isinstance(provider, Client)):
        raise SettingError(f"provider must be a Client, or a provider such as OpenAI(...); got {provider!r}")


def recalled(client: Client, requests: Sequence[Request]) -> list[Reply | ProviderError]:
    """What became of requests, of which only those are asked that nobody has asked yet."""
    known = client.stored(requests)
    asked = iter(client.complete_all([r for r, outcome in zip(requests, known, strict=True) if outcome is None]))
    return [next(asked) if outcome is None else outcome for outcome in known]


def without_client(strategy: object) -> dict[str, Any]:
    """What is pickled and copied of a strategy: all but the clients that it made itself, which hold locks."""
    return {name: value for name, value in vars(strategy).items() if name not in ("client", "clients")}


def require_an_answer(outcomes: Sequence[Reply | ProviderError | None]) -> None:
    """Raise the first error of :meth:`Client.complete_all` where there is no answer; to refuse is to answer."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, ProviderError)]
    down = [error for error in errors if not isinstance(error, Refused)]
    if down and len(errors) == len(outcomes):
        raise down[0]


def _complaint(request: Request, reply: Reply) -> str:
    """Why a reply is no answer to a request; "" if it is one."""
    if len(reply.texts) != request.n:
        return f"it gave {len(reply.texts)} texts instead of n={request.n}"
    if request.schema is not None:
        for text, finish in zip(reply.texts, reply.finish, strict=True):
            try:
                extract(text, request.schema)
            except ValueError as error:
                cut = " (max_tokens cut it)" if finish == "length" else ""
                return f"its JSON does not fit the schema: {error}{cut}"
    return ""


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
