"""Episodes of gymnasium's environments for a whole population, with NumPy alone.

Every member plays every episode, each in its own copy of the environment; one call of the policy acts for them all::

    policy = MLP((8, 16, 4))
    with Copies("LunarLander-v3", 64 * 4) as copies:  # 64 members, 4 episodes
        for generation in range(100):
            population = strategy.ask(state)
            played = copies.play(policy.outputs, population, episode_keys(key, generation, 4))
            state = strategy.tell(state, population, -played.returns.mean(axis=1))

The classic four are played much faster by :func:`blackbox.kernels.rollout`, in compiled code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from blackbox.errors import SettingError, missing_extra
from blackbox.kernels.arguments import require_count

from .actions import Action, Continuous, Discrete
from .episodes import Episodes
from .normalizer import Moments, Normalizer, moments, normalize

try:
    import gymnasium
except ImportError as error:
    raise missing_extra("gymnasium", "rl") from error

if TYPE_CHECKING:
    from jaxtyping import Float, UInt32

    from blackbox.arrays import Array

    Policy = Callable[[Any, Float[np.ndarray, "n episodes ..."]], Float[Array, "n episodes outputs"]]


class Copies:
    """Copies of an environment that are stepped together, and kept from generation to generation.

    Args:
        env: an environment's name in gymnasium.
        copies: how many, one for each episode of each member.
        mode: "sync" steps them one after the other, "async" each in a process of its own.

    Raises:
        SettingError: an environment whose observations are no arrays, or whose actions are neither a number of choices
            nor a vector within bounds; ``copies`` below 1.
        MissingExtra: on import, if gymnasium is not installed.
    """

    def __init__(self, env: str, copies: int, mode: Literal["sync", "async"] = "sync") -> None:
        require_count("copies", copies, 1)
        self.copies = copies
        self._vector: Any = gymnasium.make_vec(env, copies, vectorization_mode=mode, wrappers=[_OneEpisode])
        if not isinstance(self._vector.single_observation_space, gymnasium.spaces.Box):
            self.close()
            raise SettingError(f"env must have arrays as observations; {env} has not")
        self.action = _action(env, self._vector.single_action_space)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of what a policy sees."""
        return tuple(self._vector.single_observation_space.shape)

    def play(
        self,
        policy: Policy,
        population: Any,
        keys: UInt32[np.ndarray, "episodes 2"],
        *,
        steps: int | None = None,
        normalizer: Normalizer | None = None,
    ) -> Episodes:
        """The same episodes for all members: returns, steps and last observations of shape (n, episodes, ...).

        Args:
            policy: ``(population, observations)`` to outputs, for all members and episodes at once.
            population: handed to the policy; it has a length, n.
            keys: one for each episode; its first word is the seed of gymnasium.
            steps: of the longest episode; None: until all are over.
            normalizer: frozen statistics by which the policy's observations are normalized.

        Raises:
            SettingError: n times the episodes are not as many as there are copies.
        """
        n, episodes = len(population), len(keys)
        if n * episodes != self.copies:
            raise SettingError(f"there are {self.copies} copies for {n} members with {episodes} episodes each")
        observations, _ = self._vector.reset(seed=[int(key[0]) for key in keys] * n)
        returns, lengths = np.zeros(self.copies), np.zeros(self.copies, int)
        is_over, gathered = np.zeros(self.copies, bool), None
        while not is_over.all() and (steps is None or lengths.max() < steps):
            seen = observations.astype(np.float32)
            if normalizer is not None:
                now = moments(normalizer, seen, ~is_over)
                gathered = now if gathered is None else Moments(*map(np.add, gathered, now))
                seen = normalize(normalizer, seen)
            outputs = policy(population, seen.reshape(n, episodes, *self.observation_shape))
            actions = np.asarray(self.action.of(np.asarray(outputs))).reshape(self.copies, -1)
            if isinstance(self.action, Discrete):
                actions = actions[:, 0] + self._vector.single_action_space.start
            observations, rewards, terminated, truncated, _ = self._vector.step(actions)
            returns += np.where(is_over, 0.0, rewards)
            lengths += ~is_over
            is_over |= terminated | truncated
        last = observations.reshape(n, episodes, *self.observation_shape)
        return Episodes(returns.reshape(n, episodes), lengths.reshape(n, episodes), last, gathered)

    def close(self) -> None:
        """Closes all copies."""
        self._vector.close()

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _OneEpisode(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that rests after its episode, until a seed begins another; a vector of them would not wait."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._is_over, self._last = True, None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._last, _ = self.env.reset(seed=seed)
            self._is_over = False
        return self._last, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = 0.0
        if not self._is_over:
            self._last, given, terminated, truncated, _ = self.env.step(action)
            reward, self._is_over = float(given), terminated or truncated
        return self._last, reward, self._is_over, False, {}


def _action(env: str, space: Any) -> Action:
    if isinstance(space, gymnasium.spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and space.is_bounded():
        return Continuous(tuple(space.low.tolist()), tuple(space.high.tolist()))
    raise SettingError(f"env must have discrete actions or a bounded vector; those of {env} are {space}")
