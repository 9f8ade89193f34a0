"""Random functions of known optima, in batches, that the embedded model is trained on.

None of BBOB's is among them as it is there; ellipsoids, cigars, discuses and Ackley's and Griewank's functions are of
the same kinds as some of BBOB's that ``bench/evollm.py`` leaves out. Its eight (sphere, Rastrigin, attractive sector,
Rosenbrock, sharp ridge, rotated Rastrigin, Schaffer's F7, Schwefel) are of none of these kinds, the sphere being the
limit of ellipsoids and Rastrigin's a relative of bowls with random waves.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

KINDS = (
    "ellipsoid", "absolute", "cigar", "discus", "step", "powers", "ackley", "griewank", "levy", "peaks", "waves",
)  # fmt: skip
WEIGHTS = np.array([2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]) / 13
PEAKS, WAVES = 15, 12


def rotations(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """(n, d, d) random orthogonal matrices."""
    return np.linalg.qr(rng.standard_normal((n, d, d)))[0]


@dataclass(frozen=True)
class Landscapes:
    """``n`` functions of ``d`` variables, each with its optimum in [-4, 4]^d; every field has a leading axis of n."""

    kind: np.ndarray
    optimum: np.ndarray
    rotation: np.ndarray
    condition: np.ndarray
    axes: np.ndarray
    powers: np.ndarray
    scale: np.ndarray
    peaks: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    waves: np.ndarray
    amplitudes: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator, n: int, d: int, kind: str | None = None) -> Landscapes:
        """Random ones, all of one ``kind`` or of all kinds; three in ten are not rotated."""
        optimum, rotation = rng.uniform(-4, 4, (n, d)), rotations(rng, n, d)
        rotation[rng.random(n) < 0.3] = np.eye(d)
        condition = 10 ** rng.uniform(0.5, 5, n)
        peaks, heights = rng.uniform(-4.9, 4.9, (n, PEAKS, d)), rng.uniform(0.5, 0.97, (n, PEAKS))
        peaks[:, 0], heights[:, 0] = optimum, 1
        frequency = 10 ** rng.uniform(-0.5, 0.6, (n, 1, 1)) * rng.uniform(0.3, 1.7, (n, WAVES, 1))
        return cls(
            kind=rng.choice(len(KINDS), n, p=WEIGHTS) if kind is None else np.full(n, KINDS.index(kind)),
            optimum=optimum,
            rotation=rotation,
            condition=condition,
            axes=condition[:, None] ** rng.uniform(0, 1, (n, d)),
            powers=rng.uniform(0.8, 4, (n, d)),
            scale=10 ** rng.uniform(-1, 0.3, n),
            peaks=peaks,
            heights=heights,
            widths=10 ** rng.uniform(-0.3, 0.8, (n, PEAKS)),
            waves=rng.standard_normal((n, WAVES, d)) * frequency,
            amplitudes=rng.exponential(1, (n, WAVES)) * 10 ** rng.uniform(-0.5, 1, (n, 1)),
        )

    def take(self, rows: np.ndarray) -> Landscapes:
        """Some of them, with repetitions."""
        return Landscapes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values (n, points) of points (n, points, d)."""
        values = np.empty(x.shape[:2])
        for kind in np.unique(self.kind):
            rows = np.flatnonzero(self.kind == kind)
            values[rows] = getattr(self.take(rows), f"_{KINDS[kind]}")(x[rows])
        return values

    def _from_optimum(self, x: np.ndarray) -> np.ndarray:
        return x - self.optimum[:, None]

    def _rotated(self, x: np.ndarray) -> np.ndarray:
        return np.einsum("bij,bnj->bni", self.rotation, self._from_optimum(x))

    def _ellipsoid(self, x: np.ndarray) -> np.ndarray:
        return np.sum(self.axes[:, None] * self._rotated(x) ** 2, axis=-1)

    def _absolute(self, x: np.ndarray) -> np.ndarray:
        return np.sum(np.sqrt(self.axes)[:, None] * np.abs(self._rotated(x)), axis=-1)

    def _cigar(self, x: np.ndarray) -> np.ndarray:
        y = self._rotated(x) ** 2
        return y[..., 0] + self.condition[:, None] * np.sum(y[..., 1:], axis=-1)

    def _discus(self, x: np.ndarray) -> np.ndarray:
        y = self._rotated(x) ** 2
        return self.condition[:, None] * y[..., 0] + np.sum(y[..., 1:], axis=-1)

    def _step(self, x: np.ndarray) -> np.ndarray:
        y = self._rotated(x)
        y = np.where(np.abs(y) > 0.5, np.floor(y + 0.5), np.floor(10 * y + 0.5) / 10)
        slope = 1e-4 * np.abs(self._from_optimum(x)[..., 0])
        return np.sum(np.sqrt(np.minimum(self.axes, 1e3))[:, None] * y**2, axis=-1) + slope

    def _powers(self, x: np.ndarray) -> np.ndarray:
        return np.sum(np.abs(self._rotated(x)) ** self.powers[:, None], axis=-1)

    def _ackley(self, x: np.ndarray) -> np.ndarray:
        y = self._rotated(x) * (4 * self.scale)[:, None, None]
        bowl = -20 * np.exp(-0.2 * np.sqrt(np.mean(y**2, axis=-1)))
        return bowl - np.exp(np.mean(np.cos(2 * np.pi * y), axis=-1)) + 20 + np.e

    def _griewank(self, x: np.ndarray) -> np.ndarray:
        y = self._rotated(x) * (30 * self.scale)[:, None, None]
        waves = np.prod(np.cos(y / np.sqrt(np.arange(1, x.shape[-1] + 1))), axis=-1)
        return 10 * (np.sum(y**2, axis=-1) / 4000 - waves + 1)

    def _levy(self, x: np.ndarray) -> np.ndarray:
        y = self._rotated(x) / 4
        inner = np.sum(y[..., :-1] ** 2 * (1 + 10 * np.sin(np.pi * (y[..., :-1] + 1) + 1) ** 2), axis=-1)
        last = y[..., -1] ** 2 * (1 + np.sin(2 * np.pi * (y[..., -1] + 1)) ** 2)
        return np.sin(np.pi * (1 + y[..., 0])) ** 2 + inner + last

    def _peaks(self, x: np.ndarray) -> np.ndarray:
        squares = np.sum((x[:, :, None] - self.peaks[:, None]) ** 2, axis=-1)
        bells = np.exp(-squares * self.widths[:, None] / (4 * x.shape[-1]))
        return 10 * (1 - np.max(self.heights[:, None] * bells, axis=-1))

    def _waves(self, x: np.ndarray) -> np.ndarray:
        y = self._from_optimum(x)
        waves = np.sum(self.amplitudes[:, None] * (1 - np.cos(np.einsum("bmj,bnj->bnm", self.waves, y))), axis=-1)
        return np.sum(y**2, axis=-1) + waves * x.shape[-1] / WAVES
