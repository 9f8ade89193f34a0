"""Known optimizers in the language: where searches begin, and what they are compared with."""

from __future__ import annotations

from blackbox.programs.language import parse

GRADIENT = parse("update = g * lr")
"""Gradient descent."""

MOMENTUM = parse("""
    x1 = m * 0.9
    m = x1 + g
    update = m * lr
""")
"""Gradient descent with momentum (Polyak 1964)."""

ADAMW = parse("""
    x1 = square(g)
    m = interp(g, m, 0.9)
    v = interp(x1, v, 0.999)
    b = interp(1.0, b, 0.9)
    c = interp(1.0, c, 0.999)
    x2 = m / b
    x3 = v / c
    x4 = sqrt(x3)
    x4 = x4 + 1e-08
    update = x2 / x4
    x5 = w * 0.01
    update = update + x5
    update = update * lr
""")
"""AdamW (Loshchilov & Hutter 2019): an average of ones, 1 - 0.9^t, corrects the bias of another."""

LION = parse("""
    update = interp(g, m, 0.9)
    update = sign(update)
    m = interp(g, m, 0.99)
    x1 = w * 0.01
    update = update + x1
    update = update * lr
""")
"""Lion (Chen et al. 2023, algorithm 2), the sign of a momentum."""
