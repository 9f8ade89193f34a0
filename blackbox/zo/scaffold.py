"""SCAFFOLD: local steps corrected by how each client's gradient differs from the mean of all.

Source: Karimireddy, Kale, Mohri, Reddi, Stich & Suresh 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated
Learning" (ICML; arXiv:1910.06378), algorithm 1, with gradients estimated from values as in FedZO. From the server's
point x, ``local_steps`` times at each client i,

    x_i <- x_i - lr (g_i(x_i) - c_i + c),    c the mean of the control variates c_i
    x   <- x + server_lr mean(x_i - x)       at the end of the round

The paper has two options for c_i:

    I    g_i(x)                              at the server's point, by ``directions + 1`` evaluations more
    II   the mean of g_i(x_i)                over the local steps of the last round; 0 in the first

II is the paper's c_i - c + (x - x_i) / (local_steps lr) where steps are along the gradient, and makes sense with Adam.

Departure: option I measures c_i at the point where the round begins, not at that of the round before, as is done in the
experiments of Shu et al. 2023 (arXiv:2308.04077); then x and c are two exchanges of a round. All clients take part.

Cost per round and client: ``local_steps (directions + 1)`` evaluations, with option I ``directions + 1`` more; 2d
numbers sent and received.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax.numpy as jnp

from blackbox.strategy import algorithm, require_bool, require_integer, require_number, require_one_of
from blackbox.zo.federated import (
    Cost,
    Descent,
    begun,
    bounded,
    difference_gradient,
    difference_queries,
    require_directions,
    stepped,
    told_queries,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt32

    from blackbox.arrays import Key


class ScaffoldState(NamedTuple):
    key: UInt32[Array, "2"]
    generation: Int[Array, ""]
    """Gradients estimated by each client so far."""
    x: Float[Array, "d"]
    """The server's point at the start of the round."""
    local: Descent
    control: Float[Array, "clients d"]
    """c_i"""
    gradients: Float[Array, "clients d"]
    """Sum of a client's estimates in this round, without correction."""
    estimates: Int[Array, "clients"]
    """How many there are."""


@algorithm
class Scaffold:
    """Stochastic controlled averaging with zeroth-order gradients.

    Args:
        clients: how many.
        option: "I", control variates measured at the server's point, or "II", means over the local steps.
        local_steps: of each client in a round.
        lr: learning rate of local steps; with Adam about the length of a step in each coordinate, in units of x.
        server_lr: part of the mean step of clients that the server goes.
        adam: whether local steps are Adam's or along the gradient itself.
        directions: of differences for one gradient.
        mu: length of the differences, in units of x.
        orthogonal: whether the directions of a gradient are orthogonal to each other, or independent.
    """

    clients: int = 5
    option: Literal["I", "II"] = "II"
    local_steps: int = 10
    lr: float = 0.01
    server_lr: float = 1.0
    adam: bool = True
    directions: int = 20
    mu: float = 0.01
    orthogonal: bool = True

    def __post_init__(self) -> None:
        for name in ("adam", "orthogonal"):
            require_bool(name, getattr(self, name))
        for name in ("clients", "local_steps", "directions"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        for name in ("lr", "server_lr", "mu"):
            require_number(name, getattr(self, name), above=0)
        require_one_of("option", self.option, ("I", "II"))

    def init(self, key: Key, x0: Float[Array, "d"]) -> ScaffoldState:
        """All clients at ``x0``, without control variates.

        Raises:
            SettingError: more orthogonal directions than dimensions.
        """
        require_directions(self.directions, self.orthogonal, x0)
        x = jnp.asarray(x0)
        local = begun(x, self.clients)
        zeros = jnp.zeros_like(local.x)
        return ScaffoldState(jnp.asarray(key), jnp.asarray(0), x, local, zeros, zeros, jnp.zeros_like(local.steps))

    def ask_server(self, state: ScaffoldState) -> Float[Array, "clients points d"]:
        """With option I the server's point and those about it, each client's own; else nothing."""
        x = self.recommend(state)
        if self.option == "II":
            return jnp.zeros((self.clients, 0, x.shape[0]), x.dtype)
        return self._queries(state, jnp.broadcast_to(x, (self.clients, *x.shape)))

    def tell_server(
        self, state: ScaffoldState, queries: Float[Array, "clients points d"], values: Any
    ) -> ScaffoldState:
        """The server's step and the control variates of the round; one that cannot be had stays as it was.

        Raises:
            TellError: other shapes than those asked for.
        """
        x = self.recommend(state)
        points = 0 if self.option == "II" else 1 + self.directions
        queries, values = told_queries(queries, values, self.clients, points, state.x)
        if self.option == "I":
            control, known = difference_gradient(queries, values)
        else:
            control, known = state.gradients / jnp.maximum(state.estimates, 1)[:, None], state.estimates > 0
        return state._replace(
            generation=state.generation + (self.option == "I"),
            x=x,
            local=begun(x, self.clients),
            control=jnp.where(known[:, None], bounded(control), state.control),
            gradients=jnp.zeros_like(state.gradients),
            estimates=jnp.zeros_like(state.estimates),
        )

    def ask(self, state: ScaffoldState) -> Float[Array, "clients 1+directions d"]:
        """Each client's point, and those about it."""
        return self._queries(state, state.local.x)

    def tell(
        self,
        state: ScaffoldState,
        population: Float[Array, "clients 1+directions d"],
        fitness: Float[Array, "clients 1+directions"],
    ) -> ScaffoldState:
        """One corrected local step of each client."""
        queries, values = told_queries(population, fitness, self.clients, None, state.x)
        gradient, known = difference_gradient(queries, values)
        gradient = bounded(gradient)
        corrected = gradient - state.control + jnp.mean(state.control, axis=0)
        return state._replace(
            generation=state.generation + 1,
            local=stepped(state.local, corrected, known, self.lr, self.adam),
            gradients=state.gradients + gradient,  # 0 where there is none
            estimates=state.estimates + known,
        )

    def recommend(self, state: ScaffoldState) -> Float[Array, "d"]:
        """The server's point after this round, if it ended here."""
        return bounded(state.x + self.server_lr * (jnp.mean(state.local.x, axis=0) - state.x))

    def cost(self, d: int) -> Cost:
        """Of a client in a round."""
        return Cost((self.local_steps + (self.option == "I")) * (1 + self.directions), sent=2 * d, received=2 * d)

    def _queries(self, state: ScaffoldState, x: Float[Array, "clients d"]) -> Float[Array, "clients 1+directions d"]:
        return difference_queries(state.key, state.generation, x, self.directions, self.mu, self.orthogonal)
