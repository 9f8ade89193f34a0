"""NS-ES, NSR-ES and NSRA-ES: evolution strategies that follow the gradient of novelty, alone or beside that of fitness.

Source: Conti, Madhavan, Such, Lehman, Stanley & Clune 2018, "Improving exploration in evolution strategies for deep
reinforcement learning via a population of novelty-seeking agents" (arXiv:1712.06560), algorithms 1 to 3. There are M
agents; in one generation one of them, drawn with a probability in proportion to the novelty of its behaviour, moves:

    theta_i    theta + sigma z_i                                           in mirrored pairs
    gradient   sum_i (w r(f_i) + (1 - w) r(-novelty_i)) z_i / (n sigma)    centered ranks r, best -1/2
    theta     <- Adam step along the gradient
    archive   <- + behaviour of theta

w is 0 in NS-ES and 1/2 in NSR-ES. In NSRA-ES it begins at 1, grows by 0.05 with each generation that beats the best
fitness, and falls by 0.05 after 50 generations in a row that did not.

Departures: a novelty is the mean distance to the k nearest in the archive alone, which the generation is not part of,
as in the authors' code; the behaviour of an agent is that of its centre before the step, which is member 0 of the
generation, so that no evaluation comes between; at first the agents take turns. The archive is a ring.

Cost per generation: O(popsize d + popsize capacity). State O(M d + capacity).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from blackbox.arrays import Array, Key, namespace
from blackbox.best import Best, better_of, none_yet
from blackbox.es.mirrored import default_popsize, mirrored_normal
from blackbox.kernels.noise import normal, uniform
from blackbox.qd.behaviour import Behaviours, nothing, novelty, remember
from blackbox.qd.descriptors import descriptors_of
from blackbox.shaping import centered_ranks, finite_or_worst
from blackbox.strategy import algorithm, require_integer, require_number, require_one_of

if TYPE_CHECKING:
    from jaxtyping import Float, Int

WEIGHT = {"ns-es": 0.0, "nsr-es": 0.5, "nsra-es": 1.0}  # of fitness, at first
STEP, PATIENCE = 0.05, 50  # of NSRA-ES


class NSESState(NamedTuple):
    key: Key
    generation: Int[Array, ""]
    agents: Float[Array, "M d"]
    m: Float[Array, "M d"]
    v: Float[Array, "M d"]
    """Adam's running means of each agent's gradient and of its square."""
    steps: Int[Array, "M"]
    """How often each agent has moved."""
    behaviours: Float[Array, "M k"]
    archive: Behaviours
    weight: Float[Array, ""]
    """Of fitness beside novelty."""
    barren: Int[Array, ""]
    """Generations since the best fitness was beaten, or the weight was lowered."""
    best: Best


@algorithm
class NSES:
    """Novelty-seeking evolution strategies.

    ``tell`` takes the behaviours of the population as its last argument, of shape (n, dimensions); without them, as in
    ``bb.minimize``, they are a member's first coordinates. Member 0 of a generation is the agent that moves.

    Args:
        variant: ``"ns-es"``: novelty alone; ``"nsr-es"``: novelty and fitness alike; ``"nsra-es"``: fitness, and the
            more novelty the longer it does not improve.
        popsize: perturbed candidates per generation, even; by default 2 (1 + floor(sqrt(d))), at most 200.
        agents: how many, M.
        dimensions: numbers that describe a behaviour.
        sigma0: standard deviation of the agents about x0.
        sigma: standard deviation of the perturbations, in units of x.
        lr: Adam's learning rate; by default ``sigma / 2``.
        k: nearest behaviours that novelty is the mean distance to.
        capacity: most behaviours of the archive.
        beta1: Adam's decay of the mean gradient.
        beta2: Adam's decay of the mean squared gradient.
    """

    variant: Literal["ns-es", "nsr-es", "nsra-es"] = "ns-es"
    popsize: int | None = None
    agents: int = 5
    dimensions: int = 2
    sigma0: float = 0.3
    sigma: float = 0.1
    lr: float | None = None
    k: int = 10
    capacity: int = 1000
    beta1: float = 0.9
    beta2: float = 0.999

    positional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_one_of("variant", self.variant, tuple(WEIGHT))
        require_integer("popsize", self.popsize, low=2, even=True)
        for name in ("agents", "dimensions", "k", "capacity"):
            require_integer(name, getattr(self, name), low=1, optional=False)
        for name in ("sigma0", "sigma", "lr"):
            require_number(name, getattr(self, name), above=0)
        require_number("beta1", self.beta1, low=0, high=0.9999)
        require_number("beta2", self.beta2, low=0, high=0.9999)

    def init(self, key: Key, x0: Float[Array, "d"]) -> NSESState:
        xp = namespace(x0)
        z = normal(key, 0, (self.agents, x0.shape[0]), leaf=2, like=x0)
        return NSESState(
            key=xp.asarray(key),
            generation=xp.asarray(0)[()],
            agents=x0 + self.sigma0 * z,
            m=xp.zeros_like(z),
            v=xp.zeros_like(z),
            steps=xp.zeros((self.agents,), dtype=xp.asarray(0).dtype),
            behaviours=xp.zeros((self.agents, self.dimensions), dtype=x0.dtype),
            archive=nothing(self.capacity, self.dimensions, x0),
            weight=xp.asarray(WEIGHT[self.variant], dtype=x0.dtype)[()],
            barren=xp.asarray(0)[()],
            best=none_yet(x0),
        )

    def ask(self, state: NSESState, first: int = 0) -> Float[Array, "n d"]:
        xp = namespace(state.agents)
        center = xp.take(state.agents, self.agent(state)[None], axis=0)
        popsize = self.popsize or default_popsize(state.agents.shape[1])
        rows = popsize if first == 0 else popsize + 1
        z = mirrored_normal(state.key, state.generation, rows, max(0, first - 1), like=center[0, :])
        samples = center + self.sigma * z
        return xp.concat([center, samples]) if first == 0 else samples

    def agent(self, state: NSESState) -> Int[Array, ""]:
        """The agent that moves in this generation."""
        xp = namespace(state.agents)
        everyone = xp.ones_like(state.behaviours[:, 0]) > 0
        far = xp.minimum(novelty(state.behaviours, everyone, state.archive, self.k, together=False), 1e30)
        share = xp.cumulative_sum(far / xp.maximum(xp.max(far), 1e-30) + 1e-12)
        u = uniform(state.key, state.generation, (1, 1), leaf=1, like=state.agents)[0, 0]
        drawn = xp.sum(xp.astype(share < u * share[-1], state.generation.dtype))
        return xp.where(state.generation < self.agents, state.generation, xp.minimum(drawn, self.agents - 1))

    def tell(
        self,
        state: NSESState,
        population: Float[Array, "n d"],
        fitness: Float[Array, "n"],
        descriptors: Float[Array, "n k"] | None = None,
    ) -> NSESState:
        xp = namespace(state.agents)
        dtype = state.agents.dtype
        moving = xp.arange(self.agents) == self.agent(state)
        is_moving = moving[:, None]
        center = xp.sum(xp.where(is_moving, state.agents, 0.0), axis=0)
        told = descriptors_of(population, descriptors, self.dimensions)
        valid = (fitness < xp.inf) & xp.all(xp.isfinite(told), axis=1)
        told = xp.where(valid[:, None], told, 0.0)
        archive = remember(state.archive, told[:1, :], valid[:1])

        far = xp.where(valid, novelty(told, valid, archive, self.k, together=False), -xp.inf)
        ranks = state.weight * xp.astype(centered_ranks(finite_or_worst(fitness)), dtype)
        ranks = ranks + (1 - state.weight) * xp.astype(centered_ranks(-far), dtype)
        z = (population - center) / self.sigma
        gradient = (ranks @ z) / (population.shape[0] * self.sigma)
        steps = state.steps + xp.astype(moving, state.steps.dtype)
        t = xp.astype(xp.maximum(steps, 1), dtype)[:, None]
        m = xp.where(is_moving, self.beta1 * state.m + (1 - self.beta1) * gradient, state.m)
        v = xp.where(is_moving, self.beta2 * state.v + (1 - self.beta2) * gradient * gradient, state.v)
        lr = self.sigma / 2 if self.lr is None else self.lr
        step = (m / (1 - self.beta1**t)) / (xp.sqrt(v / (1 - self.beta2**t)) + 1e-8)

        best = better_of(state.best, population, fitness)
        barren = xp.where(best.fitness < state.best.fitness, 0, state.barren + 1)
        weight = state.weight
        if self.variant == "nsra-es":
            change = STEP * (xp.astype(barren == 0, dtype) - xp.astype(barren >= PATIENCE, dtype))
            weight = xp.clip(weight + change, 0.0, 1.0)
        return NSESState(
            key=state.key,
            generation=state.generation + 1,
            agents=xp.where(is_moving, state.agents - lr * step, state.agents),
            m=m,
            v=v,
            steps=steps,
            behaviours=xp.where(is_moving & valid[0], told[0, :], state.behaviours),
            archive=archive,
            weight=weight,
            barren=xp.where(barren >= PATIENCE, 0, barren),
            best=best,
        )

    def recommend(self, state: NSESState) -> Float[Array, "d"]:
        """The fittest individual ever seen."""
        return state.best.x
