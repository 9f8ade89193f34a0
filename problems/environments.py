"""Environments as pure functions of a state: a protocol, our own, and those of gymnax and brax under it.

An environment of one's own is any object with these members; in turn it may wrap another. Episodes of them are played
by :func:`blackbox.problems.episodes.episode_return`, which steps many side by side. Environments of gymnasium are no
such functions: see :mod:`blackbox.problems.gymnasium_episodes`.

================  =====================================================  ==================================
adapter           environments                                           install
================  =====================================================  ==================================
ClassicControl    CartPole, Pendulum, Acrobot, MountainCarContinuous     ``blackbox-engine[jax]``
Gymnax            these, MinAtar's and more                              ``blackbox-engine[gymnax]``
Brax              ant and other robots                                   ``blackbox-engine[brax]``
================  =====================================================  ==================================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from blackbox.arrays import Array
from blackbox.errors import SettingError, missing_extra
from blackbox.kernels import environments as classic
from blackbox.kernels.arguments import require_count

from .actions import Action, Continuous, Discrete

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    Observation = Float[Array, "..."]
    Step = tuple[Any, Observation, Float[Array, ""], Bool[Array, ""]]


class Environment(Protocol):
    """What is played. A state is any pytree; luck in later steps is drawn from a key within it."""

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of what a policy sees."""

    @property
    def action(self) -> Action:
        """What ``step`` takes, and how a policy's outputs name it."""

    @property
    def steps(self) -> int:
        """Of the longest episode; whoever plays it stops there."""

    def reset(self, key: Any) -> tuple[Any, Observation]:
        """The first state of the episode that a key begins, and its observation."""

    def step(self, state: Any, action: Array) -> Step:
        """The next state, its observation, the reward and whether the episode is over."""


@dataclass(frozen=True)
class ClassicControl:
    """gymnasium's classic control with its own physics, those of :class:`blackbox.problems.control.JaxControl`.

    Observations are those of gymnasium less ``center``, divided by ``deviation``: mean and deviation of what random
    networks see, so that policies of all tasks have weights of one size. The first state is uniform, as gymnasium's,
    but drawn from the key.

    Raises:
        SettingError: an unknown name.
    """

    env: str

    def __post_init__(self) -> None:
        classic.named(self.env)

    @property
    def _inner(self) -> classic.Environment:
        return classic.named(self.env)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (len(self._inner.scale),)

    @property
    def center(self) -> tuple[float, ...]:
        """Of observations; what it is in units of gymnasium."""
        return _SEEN[self.env][0]

    @property
    def deviation(self) -> tuple[float, ...]:
        """Of observations; what it is in units of gymnasium."""
        return _SEEN[self.env][1]

    @property
    def action(self) -> Action:
        force = self._inner.force
        return Discrete(self._inner.outputs) if force is None else Continuous((-force,), (force,))

    @property
    def steps(self) -> int:
        return self._inner.steps

    def reset(self, key: Any) -> tuple[Any, Observation]:
        import jax
        import jax.numpy as jnp

        low, high = (jnp.asarray(bound, jnp.float32) for bound in (self._inner.low, self._inner.high))
        state = tuple(jax.random.uniform(key, low.shape, jnp.float32, low, high))
        return state, self._observe(state)

    def step(self, state: Any, action: Array) -> Step:
        import jax.numpy as jnp

        chosen = action if self._inner.force is None else action[0]
        state, reward, is_over = self._inner.step(state, chosen, jnp, _sin_cos)
        return state, self._observe(state), reward, is_over

    def _observe(self, state: Any) -> Observation:
        import jax.numpy as jnp

        seen = jnp.stack(self._inner.observe(state, jnp, _sin_cos))
        return (seen - jnp.asarray(self.center, seen.dtype)) / jnp.asarray(self.deviation, seen.dtype)


@dataclass(frozen=True)
class Gymnax:
    """An environment of gymnax by its name, with its default parameters.

    Its ``step_env`` is called, which does not make the first state of another episode in each step.

    Raises:
        MissingExtra: gymnax is not installed.
        SettingError: an unknown name, or actions that are neither a number of choices nor a vector within bounds.
    """

    env: str

    def __post_init__(self) -> None:
        _ = self.action

    @cached_property
    def _made(self) -> tuple[Any, Any]:
        try:
            import gymnax
        except ImportError as error:  # also of six, which gymnax needs and does not name
            raise missing_extra("gymnax", "gymnax") from error
        try:
            return gymnax.make(self.env)
        except ValueError as error:
            raise SettingError(f"env must be an environment of gymnax; got {self.env!r}") from error

    @property
    def observation_shape(self) -> tuple[int, ...]:
        env, params = self._made
        return tuple(env.observation_space(params).shape)

    @cached_property
    def action(self) -> Action:
        env, params = self._made
        space = env.action_space(params)
        if hasattr(space, "n"):
            return Discrete(int(space.n))
        if len(getattr(space, "shape", ())) == 1:
            return _box(space)
        raise SettingError(f"env must have discrete or continuous actions; those of {self.env!r} are {space}")

    @property
    def steps(self) -> int:
        return int(self._made[1].max_steps_in_episode)

    def reset(self, key: Any) -> tuple[Any, Observation]:
        import jax

        env, params = self._made
        key, first = jax.random.split(key)
        observation, state = env.reset_env(first, params)
        return (key, state), observation

    def step(self, state: Any, action: Array) -> Step:
        import jax

        env, params = self._made
        key, now = jax.random.split(state[0])
        observation, inner, reward, is_over, _ = env.step_env(now, state[1], action, params)
        return (key, inner), observation, reward, is_over


@dataclass(frozen=True)
class Brax:
    """An environment of brax by its name.

    Args:
        env: such as "ant".
        backend: the physics: "spring", "positional" or "generalized".
        steps: of an episode.

    Raises:
        MissingExtra: brax is not installed.
        SettingError: an unknown name, or a number below 1.
    """

    env: str
    backend: str = "spring"
    steps: int = 1000

    def __post_init__(self) -> None:
        require_count("steps", self.steps, 1)
        _ = self._made

    @cached_property
    def _made(self) -> Any:
        try:
            from brax import envs
        except ImportError as error:
            raise missing_extra("brax", "brax") from error
        try:
            return envs.get_environment(self.env, backend=self.backend)
        except (KeyError, ValueError) as error:
            raise SettingError(f"env and backend must be ones of brax; got {self.env!r}, {self.backend!r}") from error

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return (int(self._made.observation_size),)

    @property
    def action(self) -> Action:
        size = int(self._made.action_size)
        return Continuous((-1.0,) * size, (1.0,) * size)

    @property
    def system(self) -> Any:
        """The robot's bodies and joints, as brax has them."""
        return self._made.sys

    def reset(self, key: Any) -> tuple[Any, Observation]:
        state = self._made.reset(key)
        return state, state.obs

    def step(self, state: Any, action: Array) -> Step:
        state = self._made.step(state, action)
        return state, state.obs, state.reward, state.done > 0


_SEEN: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "CartPole-v1": ((0.0, 0.0, 0.0, 0.0), (0.35, 0.54, 0.06, 0.57)),
    "Pendulum-v1": ((-0.46, 0.0, 0.0), (0.64, 0.62, 3.5)),
    "MountainCarContinuous-v0": ((-0.52, 0.0), (0.2, 0.013)),
    "Acrobot-v1": ((0.96, 0.0, 0.89, 0.0, 0.0, 0.0), (0.18, 0.23, 0.28, 0.35, 0.7, 1.1)),
}
"""Mean and deviation of observations of 64 networks with 16 tanh units and the first weights of Such et al. 2017, in 4
episodes each; what is zero by symmetry is zero."""


def _box(space: Any) -> Continuous:
    low, high = (np.broadcast_to(np.asarray(bound, float), space.shape) for bound in (space.low, space.high))
    return Continuous(tuple(low.tolist()), tuple(high.tolist()))


def _sin_cos(x: Array) -> tuple[Array, Array]:
    import jax.numpy as jnp

    return jnp.sin(x), jnp.cos(x)
