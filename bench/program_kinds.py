"""What kind of optimizer a program is, found by running it: what its update does as gradients are scaled or replaced.

Gradients are normal, weights do not move, and the update after the last of 16 steps is looked at. The answers do not
depend on how a program is written, nor on constant factors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import blackbox as bb

Array = np.ndarray

STEPS, WEIGHTS = 16, 200
CLOSE = 0.05  # of the update's norm


class Traits(NamedTuple):
    """Of the update of the last step."""

    invariant: bool
    """It stays what it is if all gradients are multiplied by 1000 or by 1/1000."""
    averages: bool
    """It is another one if the gradient of two steps before is another."""
    is_sign: bool
    """Its entries have one magnitude."""
    of_signs: bool
    """It stays what it is if each step's gradient is multiplied by a number of its own."""
    bounded: bool
    """With gradients a billion times as long it is less than 10 times what it is with a million."""

    @property
    def kind(self) -> str:
        of = "average" if self.averages else "gradient"
        if self.invariant and self.is_sign:
            return (
                "sign"
                if not self.averages
                else "sign of an average of signs"
                if self.of_signs
                else "sign of an average"
            )
        if self.invariant:
            return "average of signs" if self.averages and self.of_signs else f"{of}, normalized"
        return f"{of}, clipped" if self.is_sign and self.bounded else f"{of}, bounded" if self.bounded else of


def traits(program: bb.programs.Program) -> Traits:
    """What a program does with random gradients."""
    rng = np.random.default_rng(0)
    gradients = 0.1 * rng.normal(size=(STEPS, WEIGHTS))
    w = 0.1 * rng.normal(size=WEIGHTS)
    other = gradients.copy()
    other[-3] = 0.1 * rng.normal(size=WEIGHTS)

    def update(given: Array) -> Array:
        memory = bb.programs.start(program, w)
        last = np.zeros(0)
        for g in given:
            last, memory = bb.programs.step(program, w, g, memory, 0.01)
        return last

    def same(given: Array) -> bool:
        with np.errstate(all="ignore"):
            return bool(np.linalg.norm(update(given) - base) < CLOSE * np.linalg.norm(base))

    base = update(gradients)
    size = np.abs(base)
    with np.errstate(all="ignore"):
        bounded = np.linalg.norm(update(1e9 * gradients)) < 10 * np.linalg.norm(update(1e6 * gradients))
    return Traits(
        invariant=same(1e3 * gradients) and same(1e-3 * gradients),
        averages=not bool(np.linalg.norm(update(other) - base) < 1e-3 * np.linalg.norm(base)),
        # Nine tenths: weight decay, and what else is added to a sign, moves its magnitudes a little.
        is_sign=bool(np.quantile(size, 0.95) < (1 + CLOSE) * np.quantile(size, 0.05)),
        of_signs=same(gradients * np.exp(3 * rng.normal(size=(STEPS, 1)))),
        bounded=bool(bounded),
    )
