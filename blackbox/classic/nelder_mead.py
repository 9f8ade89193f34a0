"""Nelder-Mead: a simplex of d + 1 points that reflects, expands, contracts and shrinks its way downhill.

Sources: Nelder & Mead 1965, "A simplex method for function minimization", Computer J. 7; parameters that depend on
the dimension: Gao & Han 2012, "Implementing the Nelder-Mead simplex algorithm with adaptive parameters", Comput.
Optim. Appl. 51.

With vertices sorted by fitness and c the centroid of all but the worst vertex w, the points tried are

    reflection   c + (c - w)                      accepted if it beats the second worst
    expansion    c + (1 + 2/d) (c - w)            after a reflection that beats the best
    contraction  c +- (3/4 - 1/(2d)) (c - w)      after a reflection that beats (+) or does not beat (-) the worst
    shrinkage    best + (1 - 1/d) (v - best)      for every other vertex v, after a failed contraction

Sequential: one evaluation per generation, and the state says which of these points is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from blackbox.arrays import Array, Key, cond, namespace
from blackbox.kernels.noise import normal
from blackbox.shaping import best_first, finite_or_worst
from blackbox.strategy import algorithm, require_number

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

INSIDE, OUTSIDE, REFLECT, EXPAND, START, SHRINK = range(6)
"""What the next evaluation is for."""

FARTHEST = 1e30


class NelderMeadState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    simplex: Float[Array, "d+1 d"]
    """Vertices, best first while they are all evaluated; the initial ones until then."""
    values: Float[Array, "d+1"]
    """Fitness of the vertices; infinite before evaluation."""
    phase: Int[Array, ""]
    vertex: Int[Array, ""]
    """While starting or shrinking, the vertex whose turn it is."""
    reflected: Float[Array, "d"]
    reflected_value: Float[Array, ""]
    """The reflection that an expansion or contraction is compared with."""


@algorithm
class NelderMead:
    """Adaptive Nelder-Mead. A generation is one evaluation.

    Further members of a generation are points of a normal distribution with the mean and covariance of the
    vertices. A foreign point within ten simplex diameters replaces the worst vertex if it is better.

    Args:
        sigma0: distance of the initial vertices from x0, one along each coordinate, in units of x.
    """

    sigma0: float = 1.0

    injectable: ClassVar[bool] = True
    positional: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_number("sigma0", self.sigma0, above=0)

    def init(self, key: Key, x0: Float[Array, "d"]) -> NelderMeadState:
        xp = namespace(x0)
        d = x0.shape[0]
        offsets = xp.concat([xp.zeros((1, d), dtype=x0.dtype), self.sigma0 * xp.eye(d, dtype=x0.dtype)])
        values = xp.full((d + 1,), xp.inf, dtype=x0.dtype)
        return NelderMeadState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            simplex=x0 + offsets,
            values=values,
            phase=xp.asarray(START)[()],
            vertex=xp.asarray(0)[()],
            reflected=x0,
            reflected_value=values[0],
        )

    def ask(self, state: NelderMeadState, first: int = 0) -> Float[Array, "1 d"]:
        xp = namespace(state.simplex)
        simplex, d = state.simplex, state.simplex.shape[1]
        if first > 0:
            z = normal(state.key, state.generation, (1, d + 1), first=first, like=simplex)
            center = xp.mean(simplex, axis=0)
            return center + (z @ (simplex - center)) * (d + 1) ** -0.5
        n = max(d, 2)  # in one dimension the adaptive parameters would shrink the simplex to a point
        contraction = 0.75 - 1 / (2 * n)
        steps = [-contraction, contraction, 1.0, 1 + 2 / n, 1.0, 1 - 1 / n]  # by phase
        step = xp.asarray(steps, dtype=simplex.dtype)[state.phase]

        def toward_best() -> Array:
            return simplex[0, :] + step * (xp.take(simplex, state.vertex[None], axis=0)[0, :] - simplex[0, :])

        def across_centroid() -> Array:
            centroid = xp.sum(simplex[:-1, :], axis=0) / d
            return centroid + step * (centroid - simplex[-1, :])

        vertex_by_vertex = (state.phase == START) | (state.phase == SHRINK)
        # The bounds keep a simplex finite that expands for ever, as on a linear function.
        return xp.clip(cond(vertex_by_vertex, toward_best, across_centroid), -FARTHEST, FARTHEST)[None, :]

    def tell(
        self, state: NelderMeadState, population: Float[Array, "n d"], fitness: Float[Array, "n"]
    ) -> NelderMeadState:
        xp = namespace(state.simplex)
        fitness = finite_or_worst(fitness, state.values.dtype)
        vertex_by_vertex = (state.phase == START) | (state.phase == SHRINK)
        told = cond(
            vertex_by_vertex,
            lambda: _next_vertex(state, population[0, :], fitness[0]),
            lambda: _next_step(state, population[0, :], fitness[0]),
        )
        if population.shape[0] > 1:
            best = xp.argmin(fitness[1:]) + 1
            told = _accept_foreign(told, xp.take(population, best[None], axis=0)[0, :], fitness[best])
        return told._replace(generation=state.generation + 1)

    def recommend(self, state: NelderMeadState) -> Float[Array, "d"]:
        xp = namespace(state.simplex)
        return xp.take(state.simplex, xp.argmin(state.values)[None], axis=0)[0, :]

    def stop(self, state: NelderMeadState) -> dict[str, Bool[Array, ""]]:
        """Reasons to restart, each a scalar boolean: a simplex too small for x, or for x and f together."""
        xp = namespace(state.simplex)
        size = xp.max(xp.abs(state.simplex - state.simplex[0, :]))
        # Not a difference of values: those may be infinite.
        flat = xp.max(state.values) <= xp.min(state.values) + 1e-12
        return {
            "tolx": size < 1e-12 * self.sigma0,
            "tolfun": flat & (size < 1e-4 * self.sigma0) & (state.phase != START),
        }


def _next_vertex(state: NelderMeadState, x: Float[Array, "d"], value: Float[Array, ""]) -> NelderMeadState:
    """A vertex of the initial or shrunken simplex is evaluated; after the last one, sort and reflect."""
    xp = namespace(state.simplex)
    here = xp.arange(state.values.shape[0]) == state.vertex
    simplex = xp.where(here[:, None], x, state.simplex)
    values = xp.where(here, value, state.values)
    last = state.vertex == values.shape[0] - 1
    simplex, values = cond(last, lambda: _sorted(simplex, values), lambda: (simplex, values))
    return state._replace(
        simplex=simplex,
        values=values,
        phase=xp.where(last, xp.full_like(state.phase, REFLECT), state.phase)[()],
        vertex=xp.where(last, xp.zeros_like(state.vertex), state.vertex + 1)[()],
    )


def _next_step(state: NelderMeadState, x: Float[Array, "d"], value: Float[Array, ""]) -> NelderMeadState:
    """A reflection, expansion or contraction is evaluated."""
    xp = namespace(state.simplex)

    def after_reflection() -> tuple[Array, Array, Array]:
        beaten = value < state.values
        phase = xp.where(beaten[0], EXPAND, xp.minimum(xp.count_nonzero(beaten), REFLECT))
        return phase[()], x, value

    def after_others() -> tuple[Array, Array, Array]:
        # An expansion is compared with the reflection only in order to take the better of the two.
        expanded = state.phase == EXPAND
        bar = xp.where(state.phase == INSIDE, state.values[-1], state.reflected_value)
        better = (value < bar) | ((state.phase == OUTSIDE) & (value == bar))
        phase = xp.where(expanded | better, xp.full_like(state.phase, REFLECT), SHRINK)
        keep_reflection = expanded & ~better
        x_new = xp.where(keep_reflection, state.reflected, x)
        return phase[()], x_new, xp.where(keep_reflection, bar, value)[()]

    phase, x_new, value_new = cond(state.phase == REFLECT, after_reflection, after_others)
    simplex, values = cond(
        phase == REFLECT,
        lambda: _replace_worst(state.simplex, state.values, x_new, value_new),
        lambda: (state.simplex, state.values),
    )
    return state._replace(
        simplex=simplex,
        values=values,
        phase=phase,
        vertex=xp.where(phase == SHRINK, xp.full_like(phase, 1), 0)[()],
        reflected=x,
        reflected_value=value,
    )


def _accept_foreign(state: NelderMeadState, x: Float[Array, "d"], value: Float[Array, ""]) -> NelderMeadState:
    """Replace the worst vertex by a better point from elsewhere, unless it is too far or vertices are missing.

    If an expansion or contraction is pending, the simplex that it belongs to changes: the reflection before it is
    taken for what it is worth, and the next step is a reflection.
    """
    xp = namespace(state.simplex)
    distance = xp.max(xp.abs(x - state.simplex[0, :]))
    size = xp.max(xp.abs(state.simplex - state.simplex[0, :]))
    complete = (state.phase != START) & (state.phase != SHRINK)
    accepted = complete & (value < state.values[-1]) & (distance <= 10 * size)

    def replace() -> NelderMeadState:
        pending = (state.phase != REFLECT) & (state.reflected_value < state.values[-1])
        x_pending = xp.where(pending, state.reflected, state.simplex[-1, :])
        value_pending = xp.where(pending, state.reflected_value, state.values[-1])
        simplex, values = _replace_worst(state.simplex, state.values, x_pending, value_pending)
        better = value < values[-1]
        x_new, value_new = xp.where(better, x, simplex[-1, :]), xp.where(better, value, values[-1])
        simplex, values = _replace_worst(simplex, values, x_new, value_new)
        return state._replace(simplex=simplex, values=values, phase=xp.full_like(state.phase, REFLECT))

    return cond(accepted, replace, lambda: state)


def _replace_worst(
    simplex: Float[Array, "d+1 d"], values: Float[Array, "d+1"], x: Float[Array, "d"], value: Float[Array, ""]
) -> tuple[Float[Array, "d+1 d"], Float[Array, "d+1"]]:
    xp = namespace(simplex)
    return _sorted(
        xp.concat([simplex[:-1, :], x[None, :]]), xp.concat([values[:-1], xp.asarray(value, dtype=values.dtype)[None]])
    )


def _sorted(
    simplex: Float[Array, "d+1 d"], values: Float[Array, "d+1"]
) -> tuple[Float[Array, "d+1 d"], Float[Array, "d+1"]]:
    xp = namespace(simplex)
    order = best_first(values)
    return xp.take(simplex, order, axis=0), xp.take(values, order)
