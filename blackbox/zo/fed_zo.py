"""FedZO and FedProx: federated averaging where local steps estimate their gradients by differences of values.

Sources: Fang, Yu, Jiang, Shi, Jones & Zhou 2022, "Communication-Efficient Stochastic Zeroth-Order Optimization for
Federated Learning" (arXiv:2201.09531), algorithm 1, with all clients in every round. Li, Sahu, Zaheer, Sanjabi,
Talwalkar & Smith 2020, "Federated Optimization in Heterogeneous Networks" (arXiv:1812.06127), algorithm 2, with a fixed
number of local steps for the inexact solution of the local problem. From the server's point x, ``local_steps`` times
at each client i,

    x_i <- x_i - lr (g_i(x_i) + proximal (x_i - x))         g_i by differences, see :mod:`blackbox.zo.federated`
    x   <- mean of x_i                                      at the end of the round

FedZO has no proximal term. FedProx has one, whose weight is the paper's mu, tuned there over 0.001, 0.01, 0.1 and 1.
Local steps by Adam, begun anew each round, and orthogonal directions are those of the experiments of Shu et al. 2023
(arXiv:2308.04077), as are the defaults, and 1 for FedProx; ``adam=False, orthogonal=False`` is Fang's method.

Cost per round and client: ``local_steps (directions + 1)`` evaluations; d numbers sent and received.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from blackbox.strategy import algorithm, require_bool, require_integer, require_number
from blackbox.zo.federated import (
    Cost,
    Descent,
    begun,
    difference_gradient,
    difference_queries,
    require_directions,
    stepped,
    told_queries,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt32

    from blackbox.arrays import Key


class FedZOState(NamedTuple):
    key: UInt32[Array, "2"]
    generation: Int[Array, ""]
    """Local steps before this one, over all rounds."""
    x: Float[Array, "d"]
    """The server's point at the start of the round."""
    local: Descent


@algorithm
class FedZO:
    """Federated averaging with zeroth-order gradients; with ``proximal`` it is FedProx.

    Args:
        clients: how many.
        local_steps: of each client in a round.
        lr: learning rate of local steps; with Adam about the length of a step in each coordinate, in units of x.
        proximal: weight of half the squared distance from the server's point, in units of values by squared units of x.
        adam: whether local steps are Adam's or along the gradient itself.
        directions: of differences for one gradient.
        mu: length of the differences, in units of x.
        orthogonal: whether the directions of a gradient are orthogonal to each other, or independent.
    """

    clients: int = 5
    local_steps: int = 10
    lr: float = 0.01
    proximal: float = 0.0
    adam: bool = True
    directions: int = 20
    mu: float = 0.01
    orthogonal: bool = True

    def __post_init__(self) -> None:
        for name in ("adam", "orthogonal"):
            require_bool(name, getattr(self, name))
        for name in ("clients", "local_steps", "directions"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        for name in ("lr", "mu"):
            require_number(name, getattr(self, name), above=0)
        require_number("proximal", self.proximal, low=0)

    def init(self, key: Key, x0: Float[Array, "d"]) -> FedZOState:
        """All clients at ``x0``.

        Raises:
            SettingError: more orthogonal directions than dimensions.
        """
        require_directions(self.directions, self.orthogonal, x0)
        x = jnp.asarray(x0)
        return FedZOState(jnp.asarray(key), jnp.asarray(0), x, begun(x, self.clients))

    def ask_server(self, state: FedZOState) -> Float[Array, "clients 0 d"]:
        """Nothing is asked about the server's point."""
        return jnp.zeros((self.clients, 0, state.x.shape[0]), state.x.dtype)

    def tell_server(self, state: FedZOState, queries: Float[Array, "clients 0 d"], values: Any) -> FedZOState:
        """The mean of all clients' points, from which they begin anew.

        Raises:
            TellError: other shapes than those asked for.
        """
        told_queries(queries, values, self.clients, 0, state.x)
        x = self.recommend(state)
        return state._replace(x=x, local=begun(x, self.clients))

    def ask(self, state: FedZOState) -> Float[Array, "clients 1+directions d"]:
        """Each client's point, and those about it."""
        return difference_queries(
            state.key, state.generation, state.local.x, self.directions, self.mu, self.orthogonal
        )  # fmt: skip

    def tell(
        self,
        state: FedZOState,
        population: Float[Array, "clients 1+directions d"],
        fitness: Float[Array, "clients 1+directions"],
    ) -> FedZOState:
        """One local step of each client."""
        queries, values = told_queries(population, fitness, self.clients, None, state.x)
        gradient, known = difference_gradient(queries, values)
        held = gradient + self.proximal * (state.local.x - state.x)
        local = stepped(state.local, held, known, self.lr, self.adam)
        return state._replace(generation=state.generation + 1, local=local)

    def recommend(self, state: FedZOState) -> Float[Array, "d"]:
        """The mean of the clients' points."""
        return jnp.mean(state.local.x, axis=0)

    def cost(self, d: int) -> Cost:
        """Of a client in a round."""
        return Cost(self.local_steps * (1 + self.directions), sent=d, received=d)
