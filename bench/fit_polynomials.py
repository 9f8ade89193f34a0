"""The polynomials of normal noise: fitted, rounded to float32, and measured on every number that they are applied to.

    python bench/fit_polynomials.py          two minutes; writes bench/results/polynomials.md

Prints the coefficients of ``kernels/spec.py``. Each polynomial is the minimax fit to the relative error of the result,
a linear program on Chebyshev points; coefficients are rounded one after another, the lowest first, and those that are
left are fitted again. Last, single coefficients move by units in the last place as long as that lowers the root mean
square error of what float32 arithmetic makes of them, and does not raise the largest.

A uniform number has 2**23 values: logarithm, sine and cosine are measured on all of them, against float64.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray
from record import write
from scipy.optimize import linprog

from blackbox.kernels import spec
from blackbox.kernels.ref import kinds

f32 = np.float32
Evaluate = Callable[[Sequence[float]], ndarray]
WORDS = np.arange(2**23, dtype=np.uint32) << 9  # one for each uniform number
PERMUTATIONS = 4  # pairs of uniform numbers that normal ones are measured on: each number that many times
SEARCHED = 16  # the search looks at one in so many numbers


@dataclass(frozen=True)
class Target:
    """``value = known + factor * P(variable)``, to be fitted on ``points``; P has the coefficients sought."""

    variable: ndarray
    factor: ndarray
    known: ndarray
    value: ndarray

    def fit(self, fixed: Sequence[float], terms: int) -> tuple[ndarray, float]:
        """Coefficients, lowest first, that go on after ``fixed``, and their largest relative error in 2**-24."""
        powers = self.variable[:, None] ** np.arange(terms)
        weight = 2.0**24 / np.abs(self.value)
        matrix = powers * (self.factor * weight)[:, None]
        rest = (self.value - self.known) * weight - matrix[:, : len(fixed)] @ np.asarray(fixed, float)
        free = matrix[:, len(fixed) :]
        if not free.shape[1]:
            return np.empty(0), float(np.abs(rest).max())
        size = np.abs(free).max(0)
        bound = np.ones((len(rest), 1))
        solved = linprog(
            [*np.zeros(len(size)), 1.0],
            A_ub=np.block([[free / size, -bound], [-free / size, -bound]]),
            b_ub=np.concatenate([rest, -rest]),
            bounds=[(None, None)] * len(size) + [(0, None)],
            method="highs-ds",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        return solved.x[:-1] / size, float(solved.x[-1])

    def rounded(self, terms: int) -> list[float]:
        """Coefficients rounded to float32 one after another, lowest first."""
        fixed: list[float] = []
        while len(fixed) < terms:
            fixed.append(float(f32(self.fit(fixed, terms)[0][0])))
        return fixed


def chebyshev(low: float, high: float, points: int = 600) -> ndarray:
    return (low + high) / 2 - (high - low) / 2 * np.cos(np.pi * (np.arange(points) + 0.5) / points)


def logarithm() -> Target:
    """Without an exponent for m < 1 alone: for larger m the result is at least 2 log(3/2), since u < 1."""
    s = np.concatenate([chebyshev(-2 / 3, 0), chebyshev(0, 2 / 3)])
    away = np.where(s > 0, 0, 2 * np.log(2))
    return Target(s, s * s, s + away, -2 * np.log1p(-s / 2) + away)


def sine() -> Target:
    x = chebyshev(0, 0.5)
    return Target(x * x, x, x * float(f32(spec.HALF_PI)), np.sin(np.pi / 2 * x))


def cosine() -> Target:
    x = chebyshev(0, 0.5)
    return Target(x * x, x * x, np.ones_like(x), np.cos(np.pi / 2 * x))


def units(result: ndarray, exact: ndarray) -> ndarray:
    """Errors in units in the last place of the float32 number."""
    error: ndarray = np.abs(result - exact) / np.spacing(np.abs(exact).astype(f32)).astype(np.float64)
    return error


def searched(start: Sequence[float], evaluate: Evaluate, exact: ndarray) -> list[float]:
    """Coefficients near ``start`` with a lower root mean square error and no larger maximum."""

    def score(coefficients: Sequence[float]) -> tuple[float, float]:
        error = units(evaluate(coefficients), exact)
        return float((error**2).mean()), float(error.max())

    best, (mean, largest) = list(start), score(start)
    moved = True
    while moved:
        moved = False
        for i in range(len(best)):
            for step in (-16, -4, -1, 1, 4, 16):
                tried = best.copy()
                tried[i] = float(f32(best[i]) + step * np.spacing(f32(best[i])))
                new_mean, new_largest = score(tried)
                if new_mean < mean * (1 - 1e-5) and new_largest <= largest:
                    best, mean, largest, moved = tried, new_mean, new_largest, True
    return best


def exact_sin_cos(words: ndarray) -> tuple[ndarray, ndarray]:
    """In float64, the turn reduced before pi enters."""
    quarters = ((words >> 9).astype(np.float64) * 2 + 1) * 2.0**-22
    nearest = np.rint(quarters)
    angle = (quarters - nearest) * (np.pi / 2)
    s, c, turn = np.sin(angle), np.cos(angle), nearest.astype(int) % 4
    return np.choose(turn, [s, c, -s, -c]), np.choose(turn, [c, -s, -c, s])


def columns(error: ndarray) -> dict[str, str]:
    return {
        "mean, ulp": f"{error.mean():.4f}",
        "root mean square": f"{np.sqrt((error**2).mean()):.4f}",
        "99.9 % within": f"{np.quantile(error, 0.999):.3f}",
        "largest": f"{error.max():.3f}",
    }


def literal(value: float) -> str:
    """The shortest one for a float32 number."""
    return np.format_float_scientific(f32(value), trim="-", exp_digits=1).replace("e+0", "")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    uniform = ((WORDS >> 9).astype(np.float64) * 2 + 1) * 2.0**-24
    minus_two_log = -2 * np.log(uniform)
    exact_sine, _ = exact_sin_cos(WORDS)
    some = WORDS[SEARCHED // 2 :: SEARCHED]
    first_octant = np.arange(SEARCHED // 8, 2**20, SEARCHED // 4, dtype=np.uint32) << 9  # others repeat it
    octant_sine, octant_cosine = exact_sin_cos(first_octant)
    radius = np.sqrt(minus_two_log)

    def log_of(words: ndarray) -> Evaluate:
        u = kinds.unit(words)
        return lambda low_first: kinds.minus_two_log(u, low_first[::-1])

    def sine_of(low_first: Sequence[float]) -> ndarray:
        return kinds.sin_cos_2pi(first_octant, low_first[::-1])[0]

    def cosine_of(low_first: Sequence[float]) -> ndarray:
        return kinds.sin_cos_2pi(first_octant, spec.SIN, low_first[::-1])[1]

    chosen = {
        "LOG": (logarithm(), log_of(some), minus_two_log[SEARCHED // 2 :: SEARCHED], len(spec.LOG)),
        "SIN": (sine(), sine_of, octant_sine, len(spec.SIN)),
        "COS": (cosine(), cosine_of, octant_cosine, len(spec.COS)),
    }
    fitted: dict[tuple[str, int], list[float]] = {}
    limits: dict[tuple[str, int], float] = {}
    for name, (target, evaluate, exact, length) in chosen.items():
        for terms in (length - 1, length, length + 1):
            limits[name, terms] = target.fit([], terms)[1]
            fitted[name, terms] = searched(target.rounded(terms), evaluate, exact)
        found = [literal(c) for c in fitted[name, length][::-1]]
        same = np.array_equal(np.asarray(found, f32), np.asarray(getattr(spec, name), f32))
        print(f"{name} = ({', '.join(found)})  # {'as' if same else 'NOT as'} in kernels/spec.py", flush=True)

    rows = []
    octant = WORDS[: 2**20]
    for (name, terms), low_first in fitted.items():
        coefficients = low_first[::-1]
        if name == "LOG":
            error = units(np.sqrt(kinds.minus_two_log(kinds.unit(WORDS), coefficients)), radius)
        elif name == "SIN":
            error = units(kinds.sin_cos_2pi(octant, coefficients)[0], exact_sin_cos(octant)[0])
        else:
            error = units(kinds.sin_cos_2pi(octant, spec.SIN, coefficients)[1], exact_sin_cos(octant)[1])
        what = {"LOG": "radius", "SIN": "sine, first octant", "COS": "cosine, first octant"}[name]
        kept = " (kept)" if terms == chosen[name][3] else ""
        row = {"result": what, "terms": f"{terms}{kept}", "fit alone, 2^-24": f"{limits[name, terms]:.3f}"}
        rows.append(row | columns(error))

    made_radius, (made_sine, _) = np.sqrt(kinds.minus_two_log(kinds.unit(WORDS))), kinds.sin_cos_2pi(WORDS)
    rows.append({"result": "radius, spec.py"} | columns(units(made_radius, radius)))
    rows.append({"result": "sine, spec.py"} | columns(units(made_sine, exact_sine)))
    rng, errors, absolute = np.random.default_rng(0), [], 0.0
    for _ in range(PERMUTATIONS):
        order = rng.permutation(len(WORDS))
        exact_normal = radius * exact_sine[order]
        normal = made_radius * made_sine[order]
        absolute = max(absolute, float(np.abs(normal - exact_normal).max()))
        errors.append(units(normal, exact_normal)[np.abs(exact_normal) > 2.0**-10])
    row = {"result": "normal, spec.py", "largest absolute error": f"{absolute:.2e}"}
    rows.append(row | columns(np.concatenate(errors)))
    note = (
        "Errors against float64, in units in the last place of float32. Radius, sine and cosine on all of the 2^23 "
        f"uniform numbers, normal ones above 2^-10 on {PERMUTATIONS} 2^23 pairs of them. The fit alone is the "
        "largest error that is left to the polynomial without any rounding, relative to the result. Each polynomial "
        "also with one term less and one more than spec.py has."
    )
    names = list(dict.fromkeys(name for row in rows for name in row))
    write("polynomials", "The polynomials of normal noise", names, rows, ["numpy", "scipy"], note)


if __name__ == "__main__":
    main()
