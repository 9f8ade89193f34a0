"""What NSGA-III chooses the members of its last front by: normalized values, directions, niches.

Source: Deb & Jain 2014, doi:10.1109/TEVC.2013.2281535, algorithms 2 to 4; :mod:`blackbox.ga.nsga3` has the departures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackbox.arrays import Array, namespace
from blackbox.ga.nsga2 import largest

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

SMALL = 1e-6  # share of the worst value that is no extent, and the weight in an achievement function
NEGLIGIBLE = 1e-3  # share that counts as none in an achievement function
BEYOND = 100.0  # extents of the first front, at which former extremes are cut off
FAR = 1e9  # normalized values beyond count as this one


def normalized(
    fitness: Float[Array, "n k"],
    front: Int[Array, "n"],
    last: Int[Array, ""],
    ideal: Float[Array, "k"],
    extremes: Float[Array, "k k"],
) -> tuple[Float[Array, "n k"], Float[Array, "k k"]]:
    """How far from ideal, in units of the intercepts, and the extreme points; algorithm 2.

    Args:
        fitness: of members in some order, by which the first of equal extremes is taken.
        front: the number of each one's front.
        last: the number of the front that is the last one to count.
        ideal: the least value of each objective.
        extremes: those of the generation before.
    """
    xp = namespace(fitness)
    k = fitness.shape[1]
    z = fitness - ideal
    worst = xp.max(xp.where((front <= last)[:, None], z, 0.0), axis=0)
    extent = xp.max(xp.where((front == 0)[:, None], z, 0.0), axis=0)
    extent = xp.where(extent > SMALL * worst, extent, xp.where(worst > 0, worst, xp.ones_like(worst)))
    candidates = xp.concat([extremes, fitness])
    limit = FAR * xp.minimum(extent, xp.full_like(extent, largest(fitness) / FAR))
    share = xp.clip(xp.minimum(candidates - ideal, limit) / extent, 0.0, FAR)
    counts = xp.concat([xp.ones((k,), dtype=xp.bool), front == 0])
    others = xp.where(share < NEGLIGIBLE, 0.0, share / SMALL)
    found = []
    for j in range(k):
        weighted = xp.concat([others[:, :j], share[:, j : j + 1], others[:, j + 1 :]], axis=1)
        found.append(xp.argmin(xp.where(counts, xp.max(weighted, axis=1), xp.inf)))
    at = xp.stack(found)
    corners = xp.clip(xp.take(share, at, axis=0), 0.0, BEYOND)
    plane, is_plane = _plane(corners)
    is_plane = is_plane & xp.all((plane > SMALL) & (plane < 1 / SMALL))
    intercept = 1 / xp.where(is_plane, plane, xp.ones_like(plane))
    return xp.clip(share[k:, :] / intercept, 0.0, FAR), xp.take(candidates, at, axis=0)


def _plane(corners: Float[Array, "k k"]) -> tuple[Float[Array, "k"], Bool[Array, ""]]:
    """The solution of ``corners @ x = 1``, by elimination, and whether there is one.

    Without exchanges of rows: extreme points have their greatest share on the diagonal, or there is no use in them.
    """
    xp = namespace(corners)
    k = corners.shape[0]
    a = xp.concat([corners, xp.ones_like(corners[:, :1])], axis=1)
    is_regular = a[0, 0] == a[0, 0]
    for j in range(k):
        pivot = a[j, j]
        is_regular = is_regular & (xp.abs(pivot) > SMALL)
        row = a[j, :] / xp.where(xp.abs(pivot) > SMALL, pivot, xp.ones_like(pivot))
        rest = xp.clip(a - a[:, j : j + 1] * row, -FAR, FAR)
        a = xp.where((xp.arange(k) == j)[:, None], row, rest)
    return a[:, k], is_regular


def associated(s: Float[Array, "n k"], directions: Float[Array, "H k"]) -> tuple[Int[Array, "n"], Float[Array, "n"]]:
    """The direction that each point is nearest to, and how far it is from that line; algorithm 3."""
    xp = namespace(s)
    along = xp.zeros((s.shape[0], directions.shape[0]), dtype=s.dtype)
    for j in range(s.shape[1]):  # a sum of few products, in the same order in every library
        along = along + s[:, j : j + 1] * directions[None, :, j]
    nearest = xp.argmax(along, axis=1)  # of a point's square, what is not along a line is beside it
    length = xp.take_along_axis(along, nearest[:, None], axis=1)
    return nearest, xp.sqrt(xp.sum((s - length * xp.take(directions, nearest, axis=0)) ** 2, axis=1))


def niched(
    s: Float[Array, "n k"],
    front: Int[Array, "n"],
    last: Int[Array, ""],
    directions: Float[Array, "H k"],
    u: Float[Array, "n+H"],
) -> tuple[Int[Array, "n"], Float[Array, "n"]]:
    """By what the last front's members are chosen, the least first: how many their direction has by then, and in
    which turn of the directions; algorithm 4.

    Args:
        s: normalized values.
        front: the number of each one's front.
        last: the number of the front that has no room for all.
        directions: of length 1.
        u: uniform numbers, for the members and the directions.
    """
    xp = namespace(s)
    n = s.shape[0]
    niche, distance = associated(s, directions)
    is_last, survives = front == last, front < last
    is_same = niche[:, None] == niche[None, :]
    count = xp.sum(xp.astype(is_same & survives[None, :], front.dtype), axis=1)  # of survivors in each one's niche
    rival = is_same & is_last[None, :]
    nearest = xp.min(xp.where(rival, distance[None, :], xp.inf), axis=1)
    lot = xp.where((count == 0) & (distance == nearest), -1.0, u[:n])
    before = xp.sum(xp.astype(rival & (lot[None, :] < lot[:, None]), front.dtype), axis=1)
    return count + before, xp.take(u[n:], niche)
