"""FedCBO: agents with data of their own find those whose models serve them, and agree with these; no one knows groups.

Source: Carrillo, Garcia Trillos, Li & Zhu 2024, "FedCBO: Reaching group consensus in clustered federated learning
through consensus-based optimization" (JMLR 25), as in the authors' code. Agent i with the model theta_i and the loss
L_i takes in each round the models of some peers j, and

    m_i      =  sum_j theta_j exp(-alpha L_i(theta_j)), normalized, over the peers
    theta_i <-  theta_i - drift (theta_i - m_i)
    p_ij    <-  p_ij + L_i(theta_i) - L_i(theta_j)                      for the peers

A share epsilon of an agent's peers is drawn at random, the others are those with the highest p_ij, which has added up
how much better than its own model theirs have been; all are drawn in the first round. epsilon falls by
``epsilon_decay`` a round down to ``epsilon_least``. ``drift`` is the paper's lambda gamma. Between rounds agents train
on their own data, in any way, and :meth:`FedCBO.update` takes the models of that. The paper's noise, in proportion to
the distance from m_i, is left out as in that code, where that training explores.

Cost per round, besides agents times peers evaluations: O(agents peers d + agents^2 log agents). State O(agents (d +
agents)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from blackbox.arrays import Array, Key, described, namespace
from blackbox.cbo.consensus import mean_of, softmin
from blackbox.cbo.swarm import bounded, no_steps
from blackbox.errors import SettingError, TellError
from blackbox.kernels.noise import normal, uniform
from blackbox.shaping import finite_or_worst
from blackbox.strategy import algorithm, require_integer, require_number

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class FedCBOState(NamedTuple):
    key: Key
    generation: Int[Array, "*runs"]
    """Rounds before this one."""
    models: Float[Array, "*runs agents d"]
    gain: Float[Array, "*runs agents agents"]
    """p: how much better each other's models were for an agent than its own, added up over rounds."""


@algorithm
class FedCBO:
    """Consensus-based optimization for clustered federated learning.

    ``ask`` gives for each agent the models that it has to evaluate on its own data, its own first; ``peers_of`` says
    whose they are. ``tell`` takes the losses, ``update`` the models after the agents' own training.

    Args:
        agents: how many, at least 2.
        peers: models of others that each agent evaluates in a round, less than ``agents``.
        sigma0: standard deviation of the first models about x0.
        drift: part of the distance from its peers' mean that an agent goes, from 0 to 1.
        alpha: how sharp the weights of peers are.
        epsilon: share of peers drawn at random, from 0 to 1, at first.
        epsilon_decay: by how much it falls in a round.
        epsilon_least: what it falls to.
    """

    agents: int = 100
    peers: int = 20
    sigma0: float = 0.3
    drift: float = 0.98
    alpha: float = 10.0
    epsilon: float = 0.5
    epsilon_decay: float = 0.01
    epsilon_least: float = 0.1

    batched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_integer("agents", self.agents, low=2, optional=False)
        require_integer("peers", self.peers, low=1, optional=False)
        if self.peers >= self.agents:
            raise SettingError(f"peers must be less than agents = {self.agents}, got {self.peers}")
        for name in ("sigma0", "alpha"):
            require_number(name, getattr(self, name), above=0)
        require_number("drift", self.drift, above=0, high=1)
        for name in ("epsilon", "epsilon_decay", "epsilon_least"):
            require_number(name, getattr(self, name), low=0, high=1)

    def init(self, key: Key, x0: Float[Array, "*runs d"]) -> FedCBOState:
        """Models about ``x0``; those that agents already have, :meth:`update` puts in their place."""
        xp = namespace(x0)
        z = normal(key, 0, (*x0.shape[:-1], self.agents, x0.shape[-1]), leaf=1, like=x0)
        models = x0[..., None, :] + self.sigma0 * z
        return FedCBOState(
            key=xp.asarray(key),
            generation=no_steps(x0),
            models=models,
            gain=xp.zeros_like(models[..., :1]) + xp.zeros((self.agents,), dtype=x0.dtype),
        )

    def peers_of(self, state: FedCBOState) -> Int[Array, "*runs agents 1+peers"]:
        """Whose models each agent has to evaluate in this round: first its own, then those of its peers."""
        xp = namespace(state.models)
        n, dtype = self.agents, state.models.dtype
        itself = xp.asarray(np.eye(n, dtype=bool))
        lots = uniform(state.key, state.generation, state.gain.shape, leaf=2, like=state.models)
        lots = xp.where(itself, xp.asarray(2.0, dtype=dtype), lots)
        drawn = xp.argsort(lots, axis=-1, stable=True)
        share = self.epsilon - self.epsilon_decay * xp.astype(state.generation, dtype)
        share = xp.maximum(share, xp.zeros_like(share) + self.epsilon_least)
        share = xp.where(state.generation == 0, xp.ones_like(share), share)
        count = xp.floor(share * self.peers + 1e-3)[..., None, None]  # of those drawn; 0.3 * 10 may be 2.9999999
        # In the order of the lots, so that of equal gains a random one comes first; an agent is the last of its own.
        gain = xp.take_along_axis(xp.where(itself, xp.asarray(-xp.inf, dtype=dtype), state.gain), drawn, axis=-1)
        by_lot = xp.asarray(np.arange(n), dtype=dtype) < count
        gain = xp.where(by_lot, xp.asarray(xp.inf, dtype=dtype), gain)
        order = xp.argsort(-gain, axis=-1, stable=True)[..., : self.peers]
        chosen = xp.take_along_axis(drawn, order, axis=-1)
        own = xp.zeros_like(chosen[..., :1]) + xp.asarray(np.arange(n)[:, None], dtype=chosen.dtype)
        return xp.concat([own, chosen], axis=-1)

    def ask(self, state: FedCBOState) -> Float[Array, "*runs agents 1+peers d"]:
        """The models of :meth:`peers_of`."""
        xp = namespace(state.models)
        indices = self.peers_of(state)
        flat = xp.reshape(indices, (*indices.shape[:-2], -1))
        models = xp.take_along_axis(state.models, flat[..., None], axis=-2)
        return xp.reshape(models, (*indices.shape, state.models.shape[-1]))

    def tell(
        self,
        state: FedCBOState,
        population: Float[Array, "*runs agents 1+peers d"],
        fitness: Float[Array, "*runs agents 1+peers"],
    ) -> FedCBOState:
        """One round, from each agent's losses of the models of ``ask``."""
        xp = namespace(state.models)
        due = (*state.models.shape[:-1], 1 + self.peers, state.models.shape[-1])
        if population.shape != due:
            raise TellError(f"population must be models of shape {due}, as asked; got {described(population)}")
        loss = finite_or_worst(fitness, state.models.dtype)
        weights = softmin(loss[..., 1:], self.alpha)
        mean = mean_of(weights, population[..., 1:, :])
        helps = xp.any(loss[..., 1:] < xp.inf, axis=-1, keepdims=True)  # else an agent stays where it is
        step = xp.where(helps, self.drift * (state.models - mean), xp.zeros_like(mean))

        better = _gains(loss)
        whose = self.peers_of(state)[..., 1:, None] == xp.asarray(np.arange(self.agents))  # agents, peers, agents
        gain = state.gain + xp.sum(xp.where(whose, better[..., None], xp.zeros_like(better[..., None])), axis=-2)
        largest = float(xp.finfo(gain.dtype).max) / 4
        return FedCBOState(
            key=state.key,
            generation=state.generation + 1,
            models=bounded(state.models - step),
            gain=xp.clip(gain, -largest, largest),
        )

    def update(self, state: FedCBOState, models: Float[Array, "*runs agents d"]) -> FedCBOState:
        """The state with the models that agents have after training on their own."""
        if getattr(models, "shape", None) != state.models.shape or models.dtype != state.models.dtype:
            raise TellError(f"models must be {described(state.models)}; got {described(models)}")
        return state._replace(models=models)

    def recommend(self, state: FedCBOState) -> Float[Array, "*runs agents d"]:
        """The model of each agent."""
        return state.models


def _gains(loss: Float[Array, "*runs agents 1+peers"]) -> Float[Array, "*runs agents peers"]:
    """How much better each peer's model is for an agent than its own; one that failed counts as the agent's worst."""
    xp = namespace(loss)
    largest = float(xp.finfo(loss.dtype).max) / 8
    failed = loss == xp.inf
    loss = xp.clip(loss, -largest, largest)
    worst = xp.max(xp.where(failed, xp.asarray(-largest, dtype=loss.dtype), loss), axis=-1, keepdims=True)
    loss = xp.where(failed, worst, loss)
    return loss[..., :1] - loss[..., 1:]
