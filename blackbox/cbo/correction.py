"""Which particles drift: all of them, or those that are worse than the consensus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from blackbox.arrays import Array, namespace
from blackbox.cbo.consensus import difference

if TYPE_CHECKING:
    from jaxtyping import Float

Correction = Literal["none", "heaviside", "smooth"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)

_WIDTH = 1e-3  # of the smooth one, in units of the energy, as in CBXpy


def share_of_drift(
    kind: Correction, energy: Float[Array, "*runs n"], of_consensus: Float[Array, "*runs 1"]
) -> Float[Array, "*runs n"]:
    """H of x <- x - drift H (x - v) + ... (Pinnau et al. 2017, equation 2.1): of each particle, from 0 to 1.

    ``"heaviside"`` is 1 where the energy is above that of the consensus, and ``"smooth"`` is
    (1 + tanh((e - f(v)) / 1e-3)) / 2. If the consensus failed, all particles drift.
    """
    xp = namespace(energy)
    above = difference(energy, of_consensus)
    if kind == "none":
        share = xp.ones_like(above)
    elif kind == "heaviside":
        share = xp.astype(above > 0, energy.dtype)
    else:
        share = 0.5 * (1.0 + xp.tanh(xp.clip(above, -1.0, 1.0) / _WIDTH))
    return xp.where(of_consensus < xp.inf, share, xp.ones_like(above))
