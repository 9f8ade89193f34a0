"""Episodes of one policy, played side by side: the objective of a search for policies.

A population is played by :func:`blackbox.evaluate`, here with observations that are normalized for all alike::

    play = Play(env, policy)
    for generation in range(100):
        population = strategy.ask(state)
        keys = episode_keys(key, generation, 4)  # the same for all members, others in each generation
        played = bb.evaluate(play, population, keys, normalizer)
        state = strategy.tell(state, population, -played.returns.mean(axis=1))
        normalizer = merge(normalizer, played.moments)

The same keys mean the same luck: two members differ by themselves. That others come in each generation keeps a search
from learning one start by heart; what it has learned is seen with :func:`held_out_keys`, which no generation has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from blackbox.arrays import Array, Key
from blackbox.errors import SettingError
from blackbox.kernels.arguments import require_count
from blackbox.kernels.environments import named
from blackbox.kernels.noise import fold, fold_many

from .environments import ClassicControl, Environment
from .normalizer import Moments, Normalizer, moments, normalize
from .policies import MLP
from .streams import data_key

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt32

    Policy = Callable[[Any, Float[Array, "..."]], Float[Array, "outputs"]]
    Behaviour = Callable[[Any, Float[Array, "..."]], Any]

_TRAINING, _HELD_OUT = 0, 1


class Episodes(NamedTuple):
    """What a policy has done in each episode."""

    returns: Float[Array, "episodes"]
    """Sums of rewards; the higher the better."""
    steps: Int[Array, "episodes"]
    """Taken before the episode was over."""
    behaviour: Any = None
    """Of each episode where it ended; None if it was not asked for."""
    moments: Moments | None = None
    """Sums over all observations that the policy acted on; None without a normalizer."""


def episode_keys(key: Key, generation: Array | int, episodes: int) -> UInt32[Array, "episodes 2"]:
    """Keys of a generation's episodes, for all of its members."""
    require_count("episodes", episodes, 1)
    return fold_many(fold(fold(data_key(key), _TRAINING), generation), episodes)


def held_out_keys(key: Key, episodes: int) -> UInt32[Array, "episodes 2"]:
    """Keys of episodes that no generation plays."""
    require_count("episodes", episodes, 1)
    return fold_many(fold(data_key(key), _HELD_OUT), episodes)


def last_observation(state: Any, observation: Float[Array, "..."]) -> Float[Array, "..."]:
    """An episode's last observation as its behaviour."""
    return observation


def episode_return(
    env: Environment,
    policy: Policy,
    params: Any,
    keys: UInt32[Array, "episodes 2"],
    *,
    steps: int | None = None,
    normalizer: Normalizer | None = None,
    behaviour: Behaviour | None = None,
) -> Episodes:
    """One candidate's episodes; all are stepped until the last one is over. Those over before no longer count.

    Args:
        env: what is played.
        policy: ``(params, observation)`` to outputs, of which ``env.action`` makes an action.
        params: the candidate.
        keys: one for each episode, such as :func:`episode_keys` gives.
        steps: of the longest episode; None: as many as the environment has.
        normalizer: frozen statistics by which the policy's observations are normalized.
        behaviour: ``(state, observation)`` at an episode's end, to any arrays, such as :func:`last_observation`.

    Raises:
        SettingError: ``keys`` is no array of keys, or ``steps`` is below 1.
    """
    import jax
    import jax.numpy as jnp

    limit = env.steps if steps is None else steps
    require_count("steps", limit, 1)
    keys = jnp.asarray(keys)
    if keys.ndim != (1 if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else 2) or not len(keys):
        raise SettingError(f"keys must be one for each episode; got {keys.dtype} of shape {keys.shape}")

    def described(state: Any, observation: Array) -> Any:
        return None if behaviour is None else behaviour(state, observation)

    def act(observation: Array) -> Array:
        seen = observation if normalizer is None else normalize(normalizer, observation)
        return env.action.of(policy(params, seen))

    def is_running(carry: Any) -> Array:
        time, _, _, is_over, _ = carry
        return (time < limit) & ~jnp.all(is_over)

    def advance(carry: Any) -> Any:
        time, states, observations, is_over, so_far = carry
        gathered = so_far.moments
        if normalizer is not None:
            gathered = jax.tree.map(jnp.add, gathered, moments(normalizer, observations, ~is_over))
        states, observations, rewards, is_end = jax.vmap(env.step)(states, jax.vmap(act)(observations))

        def until_over(new: Array, old: Array) -> Array:
            return jnp.where(is_over.reshape(-1, *(1,) * (new.ndim - 1)), old, new)

        played = Episodes(
            so_far.returns + jnp.where(is_over, 0.0, rewards).astype(so_far.returns.dtype),
            so_far.steps + ~is_over,
            jax.tree.map(until_over, jax.vmap(described)(states, observations), so_far.behaviour),
            gathered,
        )
        return time + 1, states, observations, is_over | is_end, played

    states, observations = jax.vmap(env.reset)(keys)
    n = len(keys)
    nobody = jnp.zeros(n, bool)
    begin = Episodes(
        jnp.zeros(n),
        jnp.zeros(n, jnp.int32),
        jax.vmap(described)(states, observations),
        None if normalizer is None else moments(normalizer, observations, nobody),
    )
    return jax.lax.while_loop(is_running, advance, (jnp.asarray(0), states, observations, nobody, begin))[-1]


class Recording(NamedTuple):
    """One episode, step by step; what comes after its end repeats the last state."""

    states: Any
    """A pytree with a leading axis of ``steps + 1``."""
    observations: Float[Array, "steps+1 ..."]
    rewards: Float[Array, "steps"]
    length: Int[Array, ""]
    """Steps taken."""


def recorded(
    env: Environment,
    policy: Policy,
    params: Any,
    key: UInt32[Array, "2"],
    *,
    steps: int | None = None,
    normalizer: Normalizer | None = None,
) -> Recording:
    """One candidate's episode to look at; arguments are those of :func:`episode_return`, with one key."""
    import jax
    import jax.numpy as jnp

    limit = env.steps if steps is None else steps
    require_count("steps", limit, 1)
    first = env.reset(jnp.asarray(key))

    def advance(carry: Any, _: None) -> tuple[Any, Any]:
        (state, observation), is_over, length = carry
        seen = observation if normalizer is None else normalize(normalizer, observation)
        *after, reward, is_end = env.step(state, env.action.of(policy(params, seen)))
        now = jax.tree.map(lambda new, old: jnp.where(is_over, old, new), tuple(after), (state, observation))
        carry = now, is_over | is_end, length + ~is_over
        return carry, (now, jnp.where(is_over, 0.0, reward))

    begin = first, jnp.asarray(False), jnp.asarray(0)
    (_, _, length), (later, rewards) = jax.lax.scan(advance, begin, length=limit)
    states, observations = jax.tree.map(lambda x, rest: jnp.concatenate([jnp.asarray(x)[None], rest]), first, later)
    return Recording(states, observations, rewards, length)


@dataclass(frozen=True)
class Play:
    """:func:`episode_return` as an objective for :func:`blackbox.evaluate`: ``(params, keys, normalizer)`` to episodes.

    :class:`blackbox.problems.policies.MLP` in classic control, without a normalizer and a behaviour, is played by
    :func:`blackbox.kernels.rollout`, the whole population in one call; episodes differ from those of one candidate by
    roundings, which lets some end earlier or later.

    Args:
        env: what is played.
        policy: ``(params, observation)`` to outputs.
        steps: of the longest episode; None: as many as the environment has.
        behaviour: ``(state, observation)`` at an episode's end, to any arrays.
    """

    env: Environment
    policy: Policy
    steps: int | None = None
    behaviour: Behaviour | None = None

    def __call__(
        self, params: Any, keys: UInt32[Array, "episodes 2"], normalizer: Normalizer | None = None
    ) -> Episodes:
        """One candidate's episodes."""
        return episode_return(
            self.env, self.policy, params, keys, steps=self.steps, normalizer=normalizer, behaviour=self.behaviour
        )

    def of_population(
        self, population: Any, keys: UInt32[Array, "episodes 2"], normalizer: Normalizer | None = None
    ) -> Episodes:
        """Those of all members, or NotImplemented where there is no faster way than one by one."""
        is_known = type(self.env) is ClassicControl and type(self.policy) is MLP
        if not is_known or normalizer is not None or self.behaviour is not None:
            return NotImplemented
        return _rolled_out()(self, population, keys)


@cache
def _rolled_out() -> Callable[[Play, Any, Array], Episodes]:
    """Compiled once for each kind of population."""
    import jax
    import jax.numpy as jnp

    from blackbox.kernels import rollout

    def rolled_out(play: Any, population: Any, keys: Array) -> Episodes:
        members = population.stacked() if hasattr(population, "stacked") else population
        flat = jnp.concatenate([x.reshape(x.shape[0], -1) for x in jax.tree.leaves(members)], axis=1)
        flat = jax.vmap(lambda weights: _rescaled(play.env, play.policy, weights))(flat)
        starts, _ = jax.vmap(play.env.reset)(keys)
        hidden = play.policy.sizes[1:-1]
        return Episodes(*rollout(play.env.env, hidden, flat, jnp.stack(starts, axis=-1), steps=play.steps))

    return jax.jit(rolled_out, static_argnums=0)


def _rescaled(env: ClassicControl, policy: MLP, flat: Float[Array, "d"]) -> Float[Array, "d"]:
    """The network that makes of the kernel's observations what this one makes of the environment's."""
    import jax.numpy as jnp

    scale, center, deviation = (jnp.asarray(x, flat.dtype) for x in (named(env.env).scale, env.center, env.deviation))
    inputs, outputs = policy.sizes[:2]
    size = inputs * outputs
    matrix, bias, rest = flat[:size].reshape(inputs, outputs), flat[size : size + outputs], flat[size + outputs :]
    matrix = matrix / deviation[:, None]
    return jnp.concatenate([jnp.ravel(matrix * scale[:, None]), bias - center @ matrix, rest])
