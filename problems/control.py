"""Classic control as policy search: a flat vector of network weights in, minus the mean return out.

:class:`ControlTask` plays gymnasium's environments; :class:`JaxControl` has them as pure JAX programs, for
populations and whole runs inside one compiled function. Both use the same policy, a tanh network, and the same
episodes, fixed in advance: common random numbers, so that two policies differ by themselves and not by their luck.
:meth:`JaxControl.cost` takes any other network, as a function, and any episode; :func:`blackbox.kernels.rollout` plays
the same episodes for a population at once.

=========================  ============  =======================  ==================================================
environment                steps         return per episode       solved, by gymnasium's convention
=========================  ============  =======================  ==================================================
CartPole-v1                at most 500   1 per step               475
Pendulum-v1                200           minus squared errors     no convention; -150 swings up and holds
Acrobot-v1                 at most 500   -1 per step              no convention; -100 is good
MountainCarContinuous-v0   at most 999   100 minus squared force  90
=========================  ============  =======================  ==================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.arrays import Array
from blackbox.errors import SettingError, missing_extra
from blackbox.kernels.environments import ENVIRONMENTS, dimension_of, named
from blackbox.space import Box

if TYPE_CHECKING:
    from jaxtyping import Float as FloatArray
    from jaxtyping import Shaped

    Network = Callable[[FloatArray[Array, "observation"]], FloatArray[Array, "outputs"]]
    Layer = tuple[FloatArray[Array, "inputs outputs"], FloatArray[Array, "outputs"]]

HELD_OUT = 50  # episodes of a test score


class Trajectory(NamedTuple):
    """One episode of ``t`` steps."""

    observations: FloatArray[np.ndarray, "t+1 observation"]
    actions: Shaped[np.ndarray, "t ..."]
    rewards: FloatArray[np.ndarray, "t"]


@dataclass(frozen=True)
class Policy:
    """A network with tanh between its layers, for one environment; () as ``hidden`` makes it linear.

    The weights are one flat vector: per layer the matrix (inputs, outputs), row by row, then the biases.
    """

    env: str
    hidden: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of all layers, from the observation to the outputs."""
        return ENVIRONMENTS[self.env].sizes(self.hidden)

    @property
    def dimension(self) -> int:
        """Number of weights d."""
        return dimension_of(self.sizes)

    def layers(self, parameters: FloatArray[Array, "d"]) -> list[Layer]:
        """The matrix and bias of each layer."""
        if parameters.shape != (self.dimension,):
            raise SettingError(f"parameters must have shape ({self.dimension},); got {parameters.shape}")
        layers, start = [], 0
        for inputs, outputs in itertools.pairwise(self.sizes):
            stop = start + inputs * outputs
            layers.append((parameters[start:stop].reshape(inputs, outputs), parameters[stop : stop + outputs]))
            start = stop + outputs
        return layers

    def act(self, layers: list[Layer], observation: FloatArray[Array, "observation"], xp: Any) -> Any:
        """The action at an observation; ``xp`` is numpy or jax.numpy."""
        return self.chosen(self.outputs(layers, self.scaled(observation, layers[0][0].dtype, xp), xp), xp)

    def scaled(self, observation: FloatArray[Array, "observation"], dtype: Any, xp: Any) -> Any:
        """The observation as a network sees it, of the order of one."""
        return observation / xp.asarray(ENVIRONMENTS[self.env].scale, dtype=dtype)

    @staticmethod
    def outputs(layers: list[Layer], values: FloatArray[Array, "observation"], xp: Any) -> Any:
        """What the network makes of a scaled observation."""
        for depth, (matrix, bias) in enumerate(layers):
            values = (xp.tanh(values) if depth else values) @ matrix + bias
        return values

    def chosen(self, outputs: FloatArray[Array, "outputs"], xp: Any) -> Any:
        """The action that a network's outputs stand for."""
        force = ENVIRONMENTS[self.env].force
        return xp.argmax(outputs) if force is None else force * xp.tanh(outputs)


def _check(env: str, hidden: tuple[int, ...], episodes: int, seed: int) -> None:
    named(env)
    if not isinstance(hidden, tuple):
        raise SettingError(f"hidden must be a tuple of integers >= 1; got {hidden!r}")
    for name, number, least in (
        *(("hidden", width, 1) for width in hidden),
        ("episodes", episodes, 1),
        ("seed", seed, 0),
    ):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise SettingError(f"{name} must be integer and >= {least}; got {number!r}")


def _episode_seeds(seed: int, purpose: int, count: int, generation: int = 0) -> list[int]:
    return [int(word) for word in np.random.SeedSequence((seed, purpose, generation)).generate_state(count)]


@dataclass(frozen=True)
class ControlTask:
    """Policy search on one of gymnasium's environments; call it with a vector of shape (d,).

    Args:
        env: the environment's name, as in the table above.
        hidden: widths of the policy's hidden layers.
        episodes: how many are averaged, >= 1.
        seed: which ones, >= 0.

    Raises:
        SettingError: an unknown environment, or a number outside its range.
    """

    env: str
    hidden: tuple[int, ...] = (8,)
    episodes: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.env, self.hidden, self.episodes, self.seed)

    @property
    def policy(self) -> Policy:
        return Policy(self.env, self.hidden)

    @property
    def dimension(self) -> int:
        """Number of weights d."""
        return self.policy.dimension

    def box(self) -> Box:
        """The search space: weights within [-5, 5]."""
        return Box(-5.0, 5.0, self.dimension)

    def __call__(self, parameters: FloatArray[np.ndarray, "d"]) -> float:
        """Minus the mean return over the task's episodes."""
        return self._cost(parameters, _episode_seeds(self.seed, 0, self.episodes))

    def test_score(self, parameters: FloatArray[np.ndarray, "d"]) -> float:
        """Minus the mean return over 50 episodes that the search never sees."""
        return self._cost(parameters, _episode_seeds(self.seed, 1, HELD_OUT))

    def _cost(self, parameters: FloatArray[np.ndarray, "d"], seeds: list[int]) -> float:
        return -float(np.mean([self.play(parameters, seed).rewards.sum() for seed in seeds]))

    def play(self, parameters: FloatArray[np.ndarray, "d"], seed: int = 0) -> Trajectory:
        """The episode that gymnasium's ``reset(seed=seed)`` begins."""
        try:
            import gymnasium
        except ImportError as error:
            raise missing_extra("gymnasium", "rl") from error
        policy = self.policy
        layers = policy.layers(np.asarray(parameters, dtype=np.float64))
        with gymnasium.make(self.env, disable_env_checker=True) as game:
            observation, _ = game.reset(seed=seed)
            observations, actions, rewards = [observation], [], []
            is_over = False
            while not is_over:
                action = policy.act(layers, observation.astype(np.float64), np)
                observation, reward, terminated, truncated, _ = game.step(action)
                observations.append(observation)
                actions.append(action)
                rewards.append(float(reward))
                is_over = terminated or truncated
        return Trajectory(np.array(observations), np.array(actions), np.array(rewards))


@dataclass(frozen=True)
class JaxControl:
    """The environments in JAX: (d,) -> scalar, under jit, vmap and scan.

    The same policy, episodes, dynamics and arguments as :class:`ControlTask`, in the dtype of the parameters.
    (gymnasium keeps its state in float64, but MountainCar's in float32, and rounds observations to float32.)
    """

    env: str
    hidden: tuple[int, ...] = (8,)
    episodes: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.env, self.hidden, self.episodes, self.seed)

    @property
    def policy(self) -> Policy:
        return Policy(self.env, self.hidden)

    @property
    def dimension(self) -> int:
        """Number of weights d."""
        return self.policy.dimension

    def box(self) -> Box:
        """The search space: weights within [-5, 5]."""
        return Box(-5.0, 5.0, self.dimension)

    def __call__(self, parameters: FloatArray[Array, "d"]) -> FloatArray[Array, ""]:
        """Minus the mean return over the task's episodes."""
        return self._mean_cost(self._network(parameters), self.starts().astype(parameters.dtype))

    def test_score(self, network: Network | FloatArray[Array, "d"]) -> FloatArray[Array, ""]:
        """Minus the mean return over 50 episodes that the search never sees, of weights or of any network."""
        starts = self._first_states(_episode_seeds(self.seed, 1, HELD_OUT))
        if callable(network):
            return self._mean_cost(network, starts.astype(np.float32))
        return self._mean_cost(self._network(network), starts.astype(network.dtype))

    def starts(self, generation: int = 0) -> FloatArray[np.ndarray, "episodes state"]:
        """The first states of the task's episodes as gymnasium draws them; each generation has its own."""
        return self._first_states(_episode_seeds(self.seed, 0, self.episodes, generation))

    def cost(self, network: Network, start: FloatArray[Array, "state"]) -> FloatArray[Array, ""]:
        """Minus the return of one episode; under vmap as many steps are taken as the longest has.

        Args:
            network: from an observation, scaled to the order of one, to the outputs; the largest names a discrete
                action, and tanh of the only one is a continuous action's share of its bound.
            start: the episode's first state, such as one of :meth:`starts`. In its dtype all is computed.
        """
        import jax
        import jax.numpy as jnp

        start = jnp.asarray(start)
        environment, policy, dtype = ENVIRONMENTS[self.env], self.policy, start.dtype

        def is_running(carry: Any) -> Any:
            time, _, _, is_over = carry
            return (time < environment.steps) & ~is_over

        def advance(carry: Any) -> Any:
            time, state, total, _ = carry
            seen = jnp.stack(environment.observe(state, jnp, _sin_cos))
            action = policy.chosen(network(policy.scaled(seen, dtype, jnp)), jnp).astype(dtype)
            if environment.force is not None:
                action = action[0]
            state, reward, is_over = environment.step(state, action, jnp, _sin_cos)
            return time + 1, state, total + reward, is_over

        begin = (jnp.asarray(0), tuple(start), jnp.zeros((), dtype), jnp.asarray(False))
        return -jax.lax.while_loop(is_running, advance, begin)[2]

    def _mean_cost(self, network: Network, starts: FloatArray[Array, "episodes state"]) -> FloatArray[Array, ""]:
        import jax
        import jax.numpy as jnp

        return jax.vmap(lambda start: self.cost(network, start))(jnp.asarray(starts)).mean()

    def _network(self, parameters: FloatArray[Array, "d"]) -> Network:
        try:
            import jax.numpy as jnp
        except ImportError as error:
            raise missing_extra("jax", "jax") from error
        layers = self.policy.layers(parameters)
        return lambda values: self.policy.outputs(layers, values, jnp)

    def _first_states(self, seeds: list[int]) -> FloatArray[np.ndarray, "episodes state"]:
        low, high = np.array(ENVIRONMENTS[self.env].low), np.array(ENVIRONMENTS[self.env].high)
        states = np.array([np.random.default_rng(seed).uniform(low, high) for seed in seeds])
        return states.astype(np.float32) if self.env == "Acrobot-v1" else states  # gymnasium rounds these, too


def _sin_cos(x: FloatArray[Array, "..."]) -> tuple[FloatArray[Array, "..."], FloatArray[Array, "..."]]:
    import jax.numpy as jnp

    return jnp.sin(x), jnp.cos(x)
