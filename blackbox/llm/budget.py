"""How much may be spent on language models, in whole units so that sums are exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from blackbox.errors import SettingError

UNIT = 1_000_000_000  # parts of one unit of money and of one second
LIMITS = ("calls", "tokens", "money", "seconds")


class Cost(NamedTuple):
    """What a call takes of each limit."""

    calls: int
    tokens: int
    money: int
    """In billionths of the prices' unit."""
    seconds: int
    """In billionths."""

    def minus(self, other: Cost) -> Cost:
        """The difference, limit by limit."""
        return Cost(*(a - b for a, b in zip(self, other, strict=True)))


class Bill(NamedTuple):
    """Tokens and seconds of an attempt, with its price if there is one."""

    tokens_in: int
    tokens_out: int
    money: int | None
    seconds: int

    @property
    def cost(self) -> Cost:
        """As what counts against a budget."""
        return Cost(1, self.tokens_in + self.tokens_out, self.money or 0, self.seconds)


@dataclass(frozen=True)
class Budget:
    """Limits on what a run spends, none of which is ever passed, however many requests are under way::

        bb.llm.Budget(money=5.0, prices=(0.15, 0.60))
        bb.llm.Budget(money=5.0, prices={"small": (0.15, 0.60), "large": (2.0, 8.0)}, calls=1000)

    Before an attempt its upper bound is reserved; afterwards the bound gives way to what it took. An attempt of which
    the cost is not known (no reply in time, a reply that breaks off, a process that dies) counts with its bound. Beyond
    a limit comes only a server that bills more than it was asked for: more tokens than ``max_tokens``, or more for a
    prompt than it has bytes.

    Args:
        calls: attempts, failed ones included, >= 0.
        tokens: of prompts and answers together, >= 0.
        money: in the unit of ``prices``, >= 0.
        seconds: between sending and the end of the answer, summed over attempts, also over simultaneous ones, >= 0.
        prices: of a million tokens in and of a million out; or a dictionary of such pairs by the provider's ``model``.

    Raises:
        SettingError: an argument outside its range, or a limit on money without prices.
    """

    calls: int | None = None
    tokens: int | None = None
    money: float | None = None
    seconds: float | None = None
    prices: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        for name in LIMITS:
            value = getattr(self, name)
            kinds = (int,) if name in ("calls", "tokens") else (int, float)
            if value is not None and (type(value) not in kinds or not 0 <= value < math.inf):
                kind = "an integer" if len(kinds) == 1 else "a number"
                raise SettingError(f"{name} must be {kind} >= 0 or None for no limit; got {value!r}")
        pairs = (
            self.prices.values() if isinstance(self.prices, Mapping) else () if self.prices is None else [self.prices]
        )
        for pair in pairs:
            if not (
                isinstance(pair, tuple | list)
                and len(pair) == 2
                and all(type(price) in (int, float) and 0 <= price < math.inf for price in pair)
            ):
                raise SettingError(
                    f"prices must be pairs of numbers >= 0, for a million tokens in and out; got {pair!r}"
                )
        if self.money is not None and self.prices is None:
            raise SettingError("a limit on money needs prices=(in, out), for a million tokens each")

    def price(self, tokens_in: int, tokens_out: int, model: str) -> int | None:
        """Price in billionths, rounded up; None where there is none for ``model``.

        Raises:
            SettingError: there is none, and money is limited.
        """
        pair = self.prices.get(model) if isinstance(self.prices, Mapping) else self.prices
        if pair is None:
            if self.money is not None:
                raise SettingError(f"money is limited, and prices has no model {model!r}")
            return None
        return math.ceil(tokens_in * pair[0] * (UNIT // 1_000_000) + tokens_out * pair[1] * (UNIT // 1_000_000))

    def refused(self, spent: Cost, bound: Cost) -> str:
        """Name of the first limit that ``bound`` on top of ``spent`` would pass; "" if there is room."""
        for name, used, more in zip(LIMITS, spent, bound, strict=True):
            limit = getattr(self, name)
            unit = UNIT if name in ("money", "seconds") else 1
            if limit is not None and used + more > math.floor(limit * unit):
                return name
        return ""
