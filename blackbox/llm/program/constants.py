"""The constants of a program, tuned by a strategy for numbers: the form is the search's, the numbers are CMA-ES's.

A program that is written or mutated has constants that nobody has thought about for long; good forms are lost with
them. Memetic search of this kind: Kommenda et al. 2020, "Parameter identification for symbolic regression using
nonlinear least squares", Genetic Programming and Evolvable Machines 21; here from function values alone.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from blackbox.arrays import Key
from blackbox.llm.program.genome import parsed, regions, rewrite_region
from blackbox.llm.program.identity import changeable, statements
from blackbox.llm.program.primitives import rounded
from blackbox.strategy import create


class Tuned(NamedTuple):
    """What tuning came to."""

    source: str
    """The best program of those tried; the given one if none is better."""
    scores: tuple[float, ...]
    """Of it, one for each instance; empty if nothing was evaluated."""
    tried: tuple[str, ...]
    """All programs that were evaluated."""


def constants(source: str) -> tuple[float, ...]:
    """The numbers with a decimal point or an exponent in the regions, in the order of the syntax tree.

    Raises:
        SyntaxError: ``source`` is no Python.
    """
    return tuple(float(node.value) for node in _literals(source)[1])  # type: ignore[arg-type]


def with_constants(source: str, numbers: Sequence[float]) -> str:
    """The program with other constants, four digits each, as many as :func:`constants` finds."""
    tree, literals = _literals(source)
    values = {id(node): rounded(float(number)) for node, number in zip(literals, numbers, strict=True)}
    tree = _Replaced(values).visit(tree)
    changed = source
    for i, region in enumerate(regions(source)):
        inside = statements(tree, region)
        if inside:
            code = "\n".join(ast.unparse(ast.fix_missing_locations(node)) for node in inside)
            changed = rewrite_region(changed, code, i).source
    return changed


def tune_constants(
    evaluate: Callable[[Sequence[str]], Sequence[Sequence[float]]],
    source: str,
    scores: Sequence[float],
    key: Key,
    *,
    evaluations: int = 48,
    method: str = "cma-es",
    popsize: int = 8,
    spread: float = 0.3,
) -> Tuned:
    """Tune the constants of one program.

    Args:
        evaluate: scores of programs on the training instances, one row each; lower is better, NaN has failed.
        source: the program.
        scores: of it.
        key: of the tuning's noise.
        evaluations: at most; the last generation is left out if it does not fit.
        method: a registered strategy with ``popsize`` and ``sigma0``.
        popsize: of it, >= 3.
        spread: first standard deviation of each constant, as a share of its size.
    """
    start = np.array(constants(source))
    if start.size == 0:
        return Tuned(source, (), ())
    scale = np.maximum(np.abs(start), 0.1)
    strategy = create(method, popsize=popsize, sigma0=spread)
    state = strategy.init(key, np.zeros(start.size))
    best, best_scores, best_mean = source, tuple(scores), _mean(scores)
    tried: list[str] = []
    while len(tried) + popsize <= evaluations:
        points = strategy.ask(state)
        sources = [with_constants(source, start + scale * z) for z in points]
        rows = [tuple(row) for row in evaluate(sources)]
        tried += sources
        fitness = np.array([_mean(row) for row in rows])
        state = strategy.tell(state, points, fitness)
        if np.isfinite(fitness).any():
            first = int(np.nanargmin(fitness))
            if not fitness[first] >= best_mean:
                best, best_scores, best_mean = sources[first], rows[first], float(fitness[first])
    return Tuned(best, best_scores, tuple(tried))


class _Replaced(ast.NodeTransformer):
    """Other values of literals; a negative one is an operation, as in text, where ``-2.0 ** x`` is something else."""

    def __init__(self, values: dict[int, float]) -> None:
        self.values = values

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if id(node) not in self.values:
            return node
        value = self.values[id(node)]
        new = ast.Constant(abs(value))
        return ast.copy_location(ast.UnaryOp(ast.USub(), new) if value < 0 else new, node)


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores) if len(scores) else math.nan


def _literals(source: str) -> tuple[ast.Module, list[ast.Constant]]:
    tree = parsed(source)
    nodes = [node for top in changeable(source, tree) for node in ast.walk(top) if isinstance(node, ast.Constant)]
    return tree, [node for node in nodes if type(node.value) is float]
