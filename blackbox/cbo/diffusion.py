"""How far the noise of a step throws a particle: in proportion to its offset from the consensus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from blackbox.arrays import Array, namespace

if TYPE_CHECKING:
    from jaxtyping import Float

Diffusion = Literal["anisotropic", "isotropic", "constant"]
DIFFUSIONS: tuple[Diffusion, ...] = get_args(Diffusion)


def scales(
    kind: Diffusion,
    offset: Float[Array, "*runs n d"],
    truncation: Float[Array, ""] | float | None = None,
    squares: Float[Array, "*runs n"] | None = None,
) -> Float[Array, "*runs n #d"]:
    """S of x <- ... + s S xi for each particle and coordinate, at most ``truncation``; of one column if all are equal.

    * ``"anisotropic"``: the distance coordinate by coordinate (Carrillo, Jin, Li & Zhu 2021). Its stability does not
      depend on the dimension, but on the axes.
    * ``"isotropic"``: the length of the offset (Pinnau et al. 2017).
    * ``"constant"``: 1.

    ``squares`` are the squared lengths, if they are known. Truncated noise is that of Fornasier, Richtarik, Riedl & Sun
    2024, arXiv:2310.16610.
    """
    xp = namespace(offset)
    if kind == "anisotropic":
        size = xp.abs(offset)
    elif kind == "isotropic":
        size = xp.sqrt(squared_length(offset) if squares is None else squares)[..., None]
    else:
        size = xp.ones_like(offset[..., :1])
    return size if truncation is None else xp.minimum(size, xp.asarray(truncation, dtype=size.dtype))


def squared_length(offset: Float[Array, "*runs n d"]) -> Float[Array, "*runs n"]:
    """The sum of squares over coordinates, as a product: XLA on CPUs adds up a last axis one number at a time."""
    ones = namespace(offset).ones((offset.shape[-1],), dtype=offset.dtype)
    return (offset * offset) @ ones


def isotropic_limit(drift: Array | float, d: int) -> Array | float:
    """The s up to which swarms with isotropic noise contract: s^2 d = 2 drift - drift^2."""
    return ((2 * drift - drift * drift) / d) ** 0.5
