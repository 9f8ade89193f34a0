"""What federated zeroth-order methods share: rounds of local descent, differences of values, and their costs.

Clients i = 1 ... N hold functions f_i of their own; the mean of all is to be minimized, and values are all that is
seen. A round of every method is

    queries = method.ask_server(state)                          some about the server's point, or none
    state   = method.tell_server(state, queries, values)        clients begin anew from it
    repeat ``method.local_steps`` times:
        queries = method.ask(state)                             (clients, points, d)
        state   = method.tell(state, queries, values)           values (clients, points)

where row i of the queries is for client i alone; :func:`play` does this for objectives in JAX. ``recommend`` averages
the clients' points, as the server would at the start of the next round. ``cost`` says how many evaluations each client
makes in a round and how many numbers it sends and receives.

All clients take part in every round and weigh the same. Fang et al. 2022, "Communication-Efficient Stochastic
Zeroth-Order Optimization for Federated Learning" (arXiv:2201.09531), equation 4, estimates gradients by

    g  =  d / q  sum_j (f(x + mu v_j) - f(x)) / mu v_j          v_j uniform on the unit sphere

A query has failed if its value is not finite, or beyond the 0.4th power of the largest float (1e15 in float32), so that
squares can be added up. Failed directions are left out of the mean; a client whose f(x) failed stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.arrays import described
from blackbox.errors import SettingError, TellError
from blackbox.kernels.noise import normal
from blackbox.strategy import require_integer
from blackbox.zo.orthogonal import orthonormal_rows

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Shaped

    from blackbox.arrays import Key

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Kingma & Ba 2015, "Adam" (arXiv:1412.6980)


class Cost(NamedTuple):
    """Of one client in one round."""

    evaluations: int
    sent: int
    """Numbers from the client to the server."""
    received: int
    """Numbers from the server to the client."""


class Descent(NamedTuple):
    """Where clients are in their local descent, which begins anew in every round."""

    x: Float[Array, "clients d"]
    m: Float[Array, "clients d"]
    v: Float[Array, "clients d"]
    """Adam's running means of the gradient and of its square; 0 without Adam."""
    steps: Int[Array, "clients"]
    """Taken in this round; a client without a gradient takes none."""


class FederatedMethod(Protocol):
    """What every method of this family provides."""

    local_steps: int

    def init(self, key: Key, x0: Float[Array, "d"]) -> Any: ...
    def ask_server(self, state: Any) -> Float[Array, "clients points d"]: ...
    def tell_server(self, state: Any, queries: Float[Array, "clients points d"], values: Any) -> Any: ...
    def ask(self, state: Any) -> Float[Array, "clients points d"]: ...
    def tell(self, state: Any, population: Float[Array, "clients points d"], fitness: Any) -> Any: ...
    def recommend(self, state: Any) -> Float[Array, "d"]: ...
    def cost(self, d: int) -> Cost: ...


def play(
    method: FederatedMethod,
    state: Any,
    objective: Callable[[Int[Array, ""], Float[Array, "d"]], Float[Array, ""]],
    rounds: int,
) -> tuple[Any, Float[Array, "rounds d"]]:
    """The state after some rounds, and what ``recommend`` gave after each.

    A scan over rounds and local steps, with clients and their queries at once by ``vmap``; it can be jitted, and mapped
    over states. For objectives outside JAX, loop over ``ask`` and ``tell`` as above.

    Args:
        objective: of the client's number and a point, in JAX.

    Raises:
        SettingError: if ``rounds`` is not a positive integer.
    """
    require_integer("rounds", rounds, low=1, optional=False)

    def evaluated(queries: Float[Array, "clients points d"]) -> Float[Array, "clients points"]:
        if queries.shape[1] == 0:
            return jnp.zeros(queries.shape[:2], queries.dtype)
        clients = jnp.arange(queries.shape[0])
        return jax.vmap(jax.vmap(objective, (None, 0)))(clients, queries)

    def local_step(state: Any, _: None) -> tuple[Any, None]:
        queries = method.ask(state)
        return method.tell(state, queries, evaluated(queries)), None

    def one_round(state: Any, _: None) -> tuple[Any, Float[Array, "d"]]:
        queries = method.ask_server(state)
        state = method.tell_server(state, queries, evaluated(queries))
        state, _ = jax.lax.scan(local_step, state, length=method.local_steps)
        return state, method.recommend(state)

    return jax.lax.scan(one_round, state, length=rounds)


def begun(x: Float[Array, "d"], clients: int) -> Descent:
    """The local descent of clients that are all at ``x``."""
    x = jnp.broadcast_to(x, (clients, *x.shape))
    return Descent(x=x, m=jnp.zeros_like(x), v=jnp.zeros_like(x), steps=jnp.zeros(clients, jnp.int32))


def stepped(
    descent: Descent, gradient: Float[Array, "clients d"], known: Bool[Array, "clients"], lr: Any, adam: bool
) -> Descent:
    """One local step, down the gradient or by Adam, of those clients whose gradient is known."""
    gradient = bounded(gradient)
    m, v, step = descent.m, descent.v, gradient
    steps = descent.steps + 1
    if adam:
        m = BETA1 * m + (1 - BETA1) * gradient
        v = BETA2 * v + (1 - BETA2) * gradient**2
        t = steps[:, None].astype(m.dtype)
        step = (m / (1 - BETA1**t)) / (jnp.sqrt(v / (1 - BETA2**t)) + EPSILON)
    new = Descent(x=bounded(descent.x - lr * step), m=m, v=v, steps=steps)
    return jax.tree.map(lambda a, b: jnp.where(known.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, descent)


def unit_directions(
    key: Key, generation: Int[Array, ""], shape: tuple[int, int, int], orthogonal: bool, like: Float[Array, "..."]
) -> Float[Array, "clients directions d"]:
    """Uniform on the unit sphere; those of a client independent, or orthogonal to each other."""
    z = normal(key, generation, shape, leaf=1, like=like)
    if orthogonal:
        return orthonormal_rows(z)
    return z / jnp.linalg.norm(z, axis=-1, keepdims=True)


def difference_queries(
    key: Key, generation: Int[Array, ""], x: Float[Array, "clients d"], directions: int, mu: Any, orthogonal: bool
) -> Float[Array, "clients 1+directions d"]:
    """Each client's x, and x + mu v for its directions v."""
    v = unit_directions(key, generation, (x.shape[0], directions, x.shape[1]), orthogonal, x)
    return jnp.concatenate([x[:, None], x[:, None] + mu * v], axis=1)


def difference_gradient(
    queries: Float[Array, "clients 1+directions d"], values: Float[Array, "clients 1+directions"]
) -> tuple[Float[Array, "clients d"], Bool[Array, "clients"]]:
    """The gradient at the first of each client's queries, by the differences of the others; and for whom there is one.

    It reads the steps off the queries as they were rounded, which are those whose values were measured.
    """
    steps = queries[:, 1:] - queries[:, :1]
    squares = jnp.sum(steps**2, axis=-1)
    usable = succeeded(values[:, 1:]) & succeeded(values[:, :1]) & (squares > 0)
    difference = jnp.where(usable, values[:, 1:] - values[:, :1], 0) / jnp.where(squares > 0, squares, 1)
    count = jnp.sum(usable, axis=1)
    scale = queries.shape[-1] / jnp.maximum(count, 1)
    gradient = jnp.einsum("ij,ijk->ik", difference, steps) * scale[:, None].astype(queries.dtype)
    return gradient, count > 0


def succeeded(values: Float[Array, "..."]) -> Bool[Array, "..."]:
    """Which values are numbers to work with."""
    return jnp.abs(values) <= float(np.finfo(values.dtype).max) ** 0.4  # false of NaN


def bounded(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x`` with no entry so large that squares of many could not be added up; 0 for NaN."""
    largest = float(np.finfo(x.dtype).max) ** 0.45
    return jnp.nan_to_num(jnp.clip(x, -largest, largest), nan=0.0)


def told_queries(
    queries: Any, values: Any, clients: int, points: int | None, x: Float[Array, "d"]
) -> tuple[Float[Array, "clients points d"], Float[Array, "clients points"]]:
    """What was told, in the precision of the state; a query at a point that is none has failed.

    Raises:
        TellError: other shapes than those asked for; of another number of points if ``points`` is None.
    """
    if (
        getattr(queries, "ndim", None) != 3
        or queries.shape[0] != clients
        or queries.shape[2] != x.shape[0]
        or points not in (None, queries.shape[1])
    ):
        due = (clients, "points" if points is None else points, x.shape[0])
        raise TellError(
            f"queries must be points of shape ({', '.join(map(str, due))}), as asked; got {described(queries)}"
        )
    if getattr(values, "shape", None) != queries.shape[:2]:
        raise TellError(f"values must be an array of shape {queries.shape[:2]}, got {described(values)}")
    with np.errstate(over="ignore"):  # large float64 numbers become infinite, and count as failed
        queries, values = jnp.asarray(queries, x.dtype), jnp.asarray(values, x.dtype)
    usable = jnp.all(succeeded(queries), axis=-1)
    return jnp.where(usable[..., None], queries, x), jnp.where(usable, values, jnp.nan)


def require_directions(directions: int, orthogonal: bool, x0: Shaped[Array, "d"]) -> None:
    """Raise :class:`SettingError` if there cannot be so many orthogonal directions."""
    if orthogonal and directions > x0.shape[0]:
        raise SettingError(f"directions must be at most d = {x0.shape[0]} where they are orthogonal, got {directions}")
