"""Rows of random orthogonal matrices: directions of which each says something new.

Source: Mezzadri 2007, "How to generate random matrices from the classical compact groups" (math-ph/0609050).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Float


def orthonormal_rows(z: Float[Array, "blocks rows d"]) -> Float[Array, "blocks rows d"]:
    """For each block of independent standard normal rows, at most d of them, rows that are orthonormal and uniform."""
    xp = namespace(z)
    basis, triangle = xp.linalg.qr(xp.permute_dims(z, (0, 2, 1)))
    signs = xp.sign(xp.linalg.diagonal(triangle))  # without them some directions are likelier
    return xp.permute_dims(basis * signs[:, None, :], (0, 2, 1))
