"""Classic control as policy search: a flat vector of network weights in, minus the mean return out.

:class:`ControlTask` plays gymnasium's environments; :class:`JaxControl` has three of them as pure JAX programs, for
populations and whole runs inside one compiled function. Both use the same policy, a tanh network, and the same
episodes, fixed in advance: common random numbers, so that two policies differ by themselves and not by their luck.
:meth:`JaxControl.cost` takes any other network, as a function, and any episode.

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
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from blackbox.arrays import Array
from blackbox.errors import SettingError, missing_extra
from blackbox.space import Box

if TYPE_CHECKING:
    from jaxtyping import Float as FloatArray
    from jaxtyping import Shaped

    Network = Callable[[FloatArray[Array, "observation"]], FloatArray[Array, "outputs"]]
    Layer = tuple[FloatArray[Array, "inputs outputs"], FloatArray[Array, "outputs"]]

HELD_OUT = 50  # episodes of a test score


class _Environment(NamedTuple):
    scale: tuple[float, ...]  # typical size of each observation, by which it is divided
    outputs: int
    force: float | None  # bound of a continuous action; None where the largest output names a discrete one


_ENVIRONMENTS = {
    "CartPole-v1": _Environment((2.4, 3.0, 0.21, 3.0), 2, None),
    "Pendulum-v1": _Environment((1.0, 1.0, 8.0), 1, 2.0),
    "Acrobot-v1": _Environment((1.0, 1.0, 1.0, 1.0, 4 * math.pi, 9 * math.pi), 3, None),
    "MountainCarContinuous-v0": _Environment((1.2, 0.07), 1, 1.0),
}


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
        environment = _ENVIRONMENTS[self.env]
        return len(environment.scale), *self.hidden, environment.outputs

    @property
    def dimension(self) -> int:
        """Number of weights d."""
        return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(self.sizes))

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
        return observation / xp.asarray(_ENVIRONMENTS[self.env].scale, dtype=dtype)

    @staticmethod
    def outputs(layers: list[Layer], values: FloatArray[Array, "observation"], xp: Any) -> Any:
        """What the network makes of a scaled observation."""
        for depth, (matrix, bias) in enumerate(layers):
            values = (xp.tanh(values) if depth else values) @ matrix + bias
        return values

    def chosen(self, outputs: FloatArray[Array, "outputs"], xp: Any) -> Any:
        """The action that a network's outputs stand for."""
        force = _ENVIRONMENTS[self.env].force
        return xp.argmax(outputs) if force is None else force * xp.tanh(outputs)


def _check(known: Iterable[str], env: str, hidden: tuple[int, ...], episodes: int, seed: int) -> None:
    if env not in known:
        raise SettingError(f"env must be one of {', '.join(known)}; got {env!r}")
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
        _check(_ENVIRONMENTS, self.env, self.hidden, self.episodes, self.seed)

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
    """CartPole-v1, Pendulum-v1 or Acrobot-v1 in JAX: (d,) -> scalar, under jit, vmap and scan.

    The same policy, episodes, dynamics and arguments as :class:`ControlTask`, in the dtype of the parameters.
    (gymnasium keeps its state in float64 and rounds observations to float32.)
    """

    env: str
    hidden: tuple[int, ...] = (8,)
    episodes: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        _check(_DYNAMICS, self.env, self.hidden, self.episodes, self.seed)

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
        dynamics, policy, dtype = _DYNAMICS[self.env], self.policy, start.dtype

        def is_running(carry: Any) -> Any:
            time, _, _, is_over = carry
            return (time < dynamics.steps) & ~is_over

        def advance(carry: Any) -> Any:
            time, state, total, _ = carry
            outputs = network(policy.scaled(dynamics.observe(state), dtype, jnp))
            state, reward, is_over = dynamics.step(state, policy.chosen(outputs, jnp))
            return time + 1, state, total + reward, is_over

        begin = (jnp.asarray(0), start, jnp.zeros((), dtype), jnp.asarray(False))
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
        high = np.array(_DYNAMICS[self.env].spread)
        states = np.array([np.random.default_rng(seed).uniform(-high, high) for seed in seeds])
        return states.astype(np.float32) if self.env == "Acrobot-v1" else states  # gymnasium rounds these, too


def cartpole_step(state: FloatArray[Array, "4"], action: Any) -> tuple[FloatArray[Array, "4"], Any, Any]:
    """The next state (position, velocity, angle, angular velocity), the reward, and whether the episode is over.

    Barto, Sutton and Anderson 1983 without friction, as in gymnasium 1.x: explicit Euler, 0.02 s; cart 1 kg, pole
    0.1 kg and 1 m, force 10 N; over beyond 2.4 m or 12 degrees.
    """
    import jax.numpy as jnp

    _, velocity, angle, spin = state
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    push = (jnp.where(action == 1, 10.0, -10.0) + 0.05 * spin**2 * sine) / 1.1
    turn = (9.8 * sine - cosine * push) / (0.5 * (4.0 / 3.0 - 0.1 * cosine**2 / 1.1))
    pull = push - 0.05 * turn * cosine / 1.1
    state = state + 0.02 * jnp.stack([velocity, pull, spin, turn])
    is_over = (jnp.abs(state[0]) > 2.4) | (jnp.abs(state[2]) > 12 * 2 * math.pi / 360)
    return state, jnp.ones_like(angle), is_over


def pendulum_step(state: FloatArray[Array, "2"], action: Any) -> tuple[FloatArray[Array, "2"], Any, Any]:
    """The next state (angle from upright, angular velocity), the reward, and False: only time ends an episode.

    As in gymnasium 1.x: semi-implicit Euler, 0.05 s; 1 kg, 1 m, g = 10 m/s^2; torque within 2 N m, speed within 8.
    """
    import jax.numpy as jnp

    angle, speed = state
    torque = jnp.clip(action[0], -2.0, 2.0)
    error = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
    reward = -(error**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = jnp.clip(speed + (15.0 * jnp.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
    return jnp.stack([angle + 0.05 * speed, speed]), reward, jnp.asarray(False)


def acrobot_step(state: FloatArray[Array, "4"], action: Any) -> tuple[FloatArray[Array, "4"], Any, Any]:
    """The next state (two angles, two angular velocities), the reward, and whether the tip is above the line.

    Sutton 1996 with the equations of Sutton and Barto's book, as in gymnasium 1.x: one Runge-Kutta step of 0.2 s;
    links of 1 m, 1 kg and moment 1 kg m^2, g = 9.8 m/s^2; torque -1, 0 or 1 N m at the second joint.
    """
    import jax.numpy as jnp

    torque = action - 1.0

    def slope(state: Any) -> Any:
        angle1, angle2, speed1, speed2 = state
        cosine, sine = jnp.cos(angle2), jnp.sin(angle2)
        d1, d2 = 3.5 + cosine, 1.25 + 0.5 * cosine
        gravity2 = 4.9 * jnp.sin(angle1 + angle2)
        gravity1 = 14.7 * jnp.sin(angle1) + gravity2 - 0.5 * speed2 * (speed2 + 2.0 * speed1) * sine
        turn2 = (torque + d2 / d1 * gravity1 - 0.5 * speed1**2 * sine - gravity2) / (1.25 - d2**2 / d1)
        return jnp.stack([speed1, speed2, -(d2 * turn2 + gravity1) / d1, turn2])

    k1 = slope(state)
    k2 = slope(state + 0.1 * k1)
    k3 = slope(state + 0.1 * k2)
    k4 = slope(state + 0.2 * k3)
    angle1, angle2, speed1, speed2 = state + 0.2 / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    angle1, angle2 = ((angle + jnp.pi) % (2 * jnp.pi) - jnp.pi for angle in (angle1, angle2))
    speed1 = jnp.clip(speed1, -4 * jnp.pi, 4 * jnp.pi)
    speed2 = jnp.clip(speed2, -9 * jnp.pi, 9 * jnp.pi)
    is_over = -jnp.cos(angle1) - jnp.cos(angle1 + angle2) > 1.0
    return jnp.stack([angle1, angle2, speed1, speed2]), jnp.where(is_over, 0.0, -jnp.ones_like(angle1)), is_over


def _observe_pendulum(state: FloatArray[Array, "2"]) -> FloatArray[Array, "3"]:
    import jax.numpy as jnp

    return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])


def _observe_acrobot(state: FloatArray[Array, "4"]) -> FloatArray[Array, "6"]:
    import jax.numpy as jnp

    cosines, sines = jnp.cos(state[:2]), jnp.sin(state[:2])
    return jnp.stack([cosines[0], sines[0], cosines[1], sines[1], state[2], state[3]])


class _Dynamics(NamedTuple):
    step: Callable[..., Any]
    observe: Callable[[Any], Any]
    steps: int
    spread: tuple[float, ...]  # first states are uniform within plus and minus this


_DYNAMICS = {
    "CartPole-v1": _Dynamics(cartpole_step, lambda state: state, 500, (0.05,) * 4),
    "Pendulum-v1": _Dynamics(pendulum_step, _observe_pendulum, 200, (math.pi, 1.0)),
    "Acrobot-v1": _Dynamics(acrobot_step, _observe_acrobot, 500, (0.1,) * 4),
}
