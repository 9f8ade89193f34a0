"""FZooS: federated descent along gradients of Gaussian processes fitted to each client's own queries.

Source: Shu, Lin, Dai & Low 2023, "Federated Zeroth-Order Optimization using Trajectory-Informed Surrogate Gradients"
(arXiv:2308.04077), algorithm 2. A client's queries give the gradient mu_i' of a Gaussian process, so that a local step
costs one evaluation; random Fourier features phi, the same at all clients, let it send its process as a vector w_i
(:mod:`blackbox.zo.surrogate`). A round:

    x    <- mean of x_i
    each client queries ``active`` points about x, fits w_i to all that it knows, and sends it;  w <- mean of w_i
    ``local_steps`` times at each client, which begins at x:
        query x_i
        x_i  <- x_i - lr (mu_i'(x_i) + gamma_i (w - w_i)^T phi'(x_i))

As in the paper's experiments: Adam with lr 0.01. Of ``candidates`` points uniform in a cube about x the ``active`` ones
are those where the gradient is most uncertain; the half side of that cube is half the mean distance by which the
client's coordinates moved in the last round, ``radius`` at least. The paper has 5 of 100 points in a cube of half side
0.01, anew in each local step.

``correction`` is how gamma_i is set: "constant", which the paper has in an ablation; "inverse", gamma over the number
of the local step, which its experiments have; or "uncertainty", for each client,

    gamma_i  =  gamma G / (G + E),    G = |(w - w_i)^T phi'(x_i)|^2,  E = variance of mu_i'(x_i)

which is least in expected square error for a disparity of G known up to an error of E. The paper's gamma depends on the
surrogates' uncertainty, too, but on a bound of the disparity that nobody knows; this form with an estimate is ours.

Departures: the kernel is squared exponential for both surrogates, where the authors' code has Matern 5/2 for the local
one; the lengthscale is the likeliest of 2, 4 and 8 times the root mean square distance of what a client remembers, the
geometric mean over clients, once a round, where theirs is fitted at each step by each client; a client remembers its
last ``history`` queries; frequencies are orthogonal in blocks of d, with which 1,200 features do at d = 300 what 10,000
independent ones do (``orthogonal=False``); each round begins, not ends, with the active queries, so that the first is
corrected, too; and the server takes the mean of the clients' points even where it is worse, as it cannot know.

Cost per round and client: ``active + local_steps`` evaluations; d + features + 1 numbers sent and received, the last
being the lengthscale. With n for history, O(local_steps n^2 (d + n) + n^2 features) operations. State O(clients n d +
features d).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.kernels.noise import uniform
from blackbox.strategy import algorithm, require_bool, require_integer, require_number, require_one_of
from blackbox.zo.federated import Cost, Descent, begun, stepped, succeeded, told_queries
from blackbox.zo.surrogate import (
    Features,
    Posterior,
    Queries,
    drawn_features,
    explained_variance,
    feature_gradient,
    feature_weights,
    inverse_of,
    likely_lengthscale,
    mean_gradient,
    posterior,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, UInt32

    from blackbox.arrays import Key


class FZooSState(NamedTuple):
    key: UInt32[Array, "2"]
    round: Int[Array, ""]
    x: Float[Array, "d"]
    """The server's point at the start of the round."""
    local: Descent
    queries: Queries
    """Of each client the last ones, with a leading axis of clients; the oldest is overwritten."""
    told: Int[Array, ""]
    """How many each client has made so far."""
    features: Features
    lengthscale: Float[Array, ""]
    """Of all surrogates in this round, in units of x, and of the next choice of points."""
    weights: Float[Array, "clients features"]
    """w_i"""


@algorithm
class FZooS:
    """Federated zeroth-order optimization using trajectory-informed surrogate gradients.

    Args:
        clients: how many.
        local_steps: of each client in a round, and its evaluations on the way.
        lr: learning rate of local steps; with Adam about the length of a step in each coordinate, in units of x.
        adam: whether local steps are Adam's or along the gradient itself.
        active: evaluations of each client about the server's point, at the start of a round.
        candidates: points of which those are chosen, at least ``active``.
        radius: least half side of the cube in which they lie, in units of x.
        history: evaluations that a client remembers, at least ``active + local_steps``.
        features: random Fourier features by which surrogates are sent.
        orthogonal: whether their frequencies are orthogonal in blocks of d, or independent.
        lengthscale: of the kernel, in units of x; by default what is most likely, anew in each round.
        noise: variance of the noise of values, in units of the kernel's amplitude.
        correction: how the correction's factor is set, "constant", "inverse" or "uncertainty".
        gamma: that factor, or the greatest that it may be.
    """

    clients: int = 5
    local_steps: int = 10
    lr: float = 0.01
    adam: bool = True
    active: int = 50
    candidates: int = 200
    radius: float = 0.01
    history: int = 200
    features: int = 1000
    orthogonal: bool = True
    lengthscale: float | None = None
    noise: float = 1e-4
    correction: Literal["constant", "inverse", "uncertainty"] = "constant"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        for name in ("adam", "orthogonal"):
            require_bool(name, getattr(self, name))
        for name in ("clients", "local_steps", "active", "features"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        require_integer("candidates", self.candidates, low=self.active, optional=False)
        require_integer("history", self.history, low=self.active + self.local_steps, optional=False)
        for name in ("lr", "radius", "lengthscale"):
            require_number(name, getattr(self, name), above=0)
        require_number("noise", self.noise, above=0)
        require_number("gamma", self.gamma, low=0)
        require_one_of("correction", self.correction, ("constant", "inverse", "uncertainty"))

    def init(self, key: Key, x0: Float[Array, "d"]) -> FZooSState:
        """All clients at ``x0``, knowing nothing."""
        x = jnp.asarray(x0)
        slots = (self.clients, self.history)
        queries = Queries(jnp.zeros((*slots, *x.shape), x.dtype), jnp.zeros(slots, x.dtype), jnp.zeros(slots, bool))
        key = jnp.asarray(key)
        return FZooSState(
            key=key,
            round=jnp.asarray(0),
            x=x,
            local=begun(x, self.clients),
            queries=queries,
            told=jnp.asarray(0),
            features=drawn_features(key, self.features, self.orthogonal, x),
            lengthscale=jnp.asarray(1, x.dtype),
            weights=jnp.zeros((self.clients, self.features), x.dtype),
        )

    def ask_server(self, state: FZooSState) -> Float[Array, "clients active d"]:
        """Points about the server's next point where each client's gradient is most uncertain."""
        x = self.recommend(state)
        moved = jnp.mean(jnp.abs(state.local.x - x), axis=1) / 2
        side = jnp.maximum(moved, self.radius)[:, None, None]
        shape = (self.clients, self.candidates, x.shape[0])
        points = x + side * (2 * uniform(state.key, state.round, shape, leaf=1, like=x) - 1)
        if self.candidates == self.active:
            return points

        def chosen(queries: Queries, points: Float[Array, "candidates d"]) -> Float[Array, "active d"]:
            process = posterior(queries, x, state.lengthscale, self.noise)
            explained = jax.vmap(explained_variance, (None, None, 0))(process, inverse_of(process), points)
            return points[jax.lax.top_k(-explained, self.active)[1]]

        return jax.vmap(chosen)(state.queries, points)

    def tell_server(self, state: FZooSState, queries: Float[Array, "clients active d"], values: Any) -> FZooSState:
        """The server's point, and the weights that clients send.

        Raises:
            TellError: other shapes than those asked for.
        """
        x = self.recommend(state)
        known = self._remembered(state, *told_queries(queries, values, self.clients, self.active, state.x))
        lengthscale = self._shared_lengthscale(known)

        def sent(queries: Queries) -> Float[Array, "features"]:
            return feature_weights(queries, state.features, x, lengthscale, self.noise)

        return state._replace(
            round=state.round + 1,
            x=x,
            local=begun(x, self.clients),
            queries=known,
            told=state.told + self.active,
            lengthscale=lengthscale,
            weights=jax.vmap(sent)(known),
        )

    def ask(self, state: FZooSState) -> Float[Array, "clients 1 d"]:
        """Each client's point."""
        return state.local.x[:, None]

    def tell(
        self, state: FZooSState, population: Float[Array, "clients 1 d"], fitness: Float[Array, "clients 1"]
    ) -> FZooSState:
        """One corrected local step of each client."""
        queries = self._remembered(state, *told_queries(population, fitness, self.clients, 1, state.x))
        disparities = jnp.mean(state.weights, axis=0) - state.weights

        def direction(
            queries: Queries, x: Float[Array, "d"], disparity: Float[Array, "features"], steps: Int[Array, ""]
        ) -> Float[Array, "d"]:
            process = posterior(queries, state.x, state.lengthscale, self.noise)
            correction = feature_gradient(disparity, state.features, x, state.x, state.lengthscale)
            return mean_gradient(process, x) + self._factor(process, x, correction, steps) * correction

        gradient = jax.vmap(direction)(queries, state.local.x, disparities, state.local.steps)
        known = jnp.any(queries.known, axis=1)
        local = stepped(state.local, gradient, known, self.lr, self.adam)
        return state._replace(local=local, queries=queries, told=state.told + 1)

    def recommend(self, state: FZooSState) -> Float[Array, "d"]:
        """The mean of the clients' points."""
        return jnp.mean(state.local.x, axis=0)

    def cost(self, d: int) -> Cost:
        """Of a client in a round."""
        numbers = d + self.features + 1
        return Cost(self.active + self.local_steps, sent=numbers, received=numbers)

    def _remembered(
        self, state: FZooSState, points: Float[Array, "clients points d"], values: Float[Array, "clients points"]
    ) -> Queries:
        """What each client knows with some more queries in the place of the oldest."""
        slots = (state.told + jnp.arange(points.shape[1])) % self.history
        known = succeeded(values)
        old = state.queries
        return Queries(
            points=old.points.at[:, slots].set(points),
            values=old.values.at[:, slots].set(jnp.where(known, values, 0)),
            known=old.known.at[:, slots].set(known),
        )

    def _shared_lengthscale(self, queries: Queries) -> Float[Array, ""]:
        """Given, or the geometric mean of what is most likely for each client that can tell."""
        if self.lengthscale is not None:
            return jnp.asarray(self.lengthscale, queries.values.dtype)
        likely = jax.vmap(likely_lengthscale, (0, None))(queries, self.noise)
        able = likely > 0
        return jnp.exp(jnp.sum(jnp.log(jnp.where(able, likely, 1))) / jnp.maximum(jnp.sum(able), 1))

    def _factor(
        self, process: Posterior, x: Float[Array, "d"], correction: Float[Array, "d"], steps: Int[Array, ""]
    ) -> Float[Array, ""]:
        """gamma of a client at its point."""
        if self.correction == "constant":
            return jnp.asarray(self.gamma, x.dtype)
        if self.correction == "inverse":
            return (self.gamma / (1 + steps)).astype(x.dtype)
        scale = process.amplitude / process.lengthscale
        error = scale**2 * jnp.maximum(x.shape[0] - explained_variance(process, inverse_of(process), x), 0)
        disparity = jnp.sum(correction**2)
        return self.gamma * disparity / jnp.maximum(disparity + error, float(np.finfo(x.dtype).tiny))
