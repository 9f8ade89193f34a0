"""What a solution does, in a few numbers: those that ``tell`` is given, or the solution's own first coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackbox.arrays import Array, described, namespace
from blackbox.errors import TellError

if TYPE_CHECKING:
    from jaxtyping import Float


def descriptors_of(
    population: Float[Array, "n d"], descriptors: Float[Array, "n k"] | None, k: int
) -> Float[Array, "n k"]:
    """``descriptors``, or if there are none the first ``k`` coordinates, with zeros for those that are missing.

    Raises:
        TellError: descriptors that are not k real numbers for each row of ``population``.
    """
    xp = namespace(population)
    n, d = population.shape
    if descriptors is None:
        missing = xp.zeros((n, max(0, k - d)), dtype=population.dtype)
        return xp.concat([population[:, : min(k, d)], missing], axis=1)
    if getattr(descriptors, "shape", None) != (n, k) or not xp.isdtype(
        descriptors.dtype, ("real floating", "integral")
    ):
        raise TellError(f"descriptors must be {k} real numbers for each of {n} rows; got {described(descriptors)}")
    return descriptors if descriptors.dtype == population.dtype else xp.astype(descriptors, population.dtype)
