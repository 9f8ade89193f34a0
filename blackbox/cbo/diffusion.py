"""How far the noise of a step throws a particle: in proportion to its offset from the consensus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Float

Noise = Literal["anisotropic", "isotropic", "constant"]
NOISES: tuple[Noise, ...] = get_args(Noise)


def scales(
    kind: Noise, offset: Float[Array, "n d"], truncation: Float[Array, ""] | float | None
) -> Float[Array, "n d"]:
    """S of x <- ... + s S xi for each particle and coordinate, at most ``truncation``.

    * ``"anisotropic"``: the distance coordinate by coordinate (Carrillo, Jin, Li & Zhu 2021). Its stability does not
      depend on the dimension, but on the axes.
    * ``"isotropic"``: the length of the offset (Pinnau et al. 2017). Stable for s^2 d < 2 drift - drift^2.
    * ``"constant"``: 1.

    Truncated noise is that of Fornasier, Richtarik, Riedl & Sun 2024, arXiv:2310.16610.
    """
    xp = namespace(offset)
    if kind == "anisotropic":
        size = xp.abs(offset)
    elif kind == "isotropic":
        size = xp.sqrt(xp.sum(offset * offset, axis=1, keepdims=True)) + xp.zeros_like(offset)
    else:
        size = xp.ones_like(offset)
    return size if truncation is None else xp.minimum(size, truncation + xp.zeros_like(size))
