"""An objective that Ray's workers import by itself: the tests' own modules would bring JAX along."""

from __future__ import annotations

from typing import Any


def sphere(x: Any) -> float:
    return float(((x - 1.0) ** 2).sum())
