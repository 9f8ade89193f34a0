"""Recordings are the episodes that count, and pictures show them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.problems.actions import Discrete
from blackbox.problems.environments import ClassicControl
from blackbox.problems.episodes import episode_keys, episode_return, recorded
from blackbox.problems.maze import Maze
from blackbox.problems.normalizer import fresh, merge
from blackbox.problems.pictures import draw, film, strip
from blackbox.problems.policies import MLP


@dataclass(frozen=True)
class Board:
    """A piece that moves through an image of two kinds of pieces, three steps long."""

    steps: int = 3
    observation_shape: tuple[int, ...] = (4, 5, 2)

    @property
    def action(self) -> Discrete:
        return Discrete(2)

    def reset(self, key: Any) -> tuple[Any, Any]:
        return jnp.asarray(0), self.observe(0)

    def step(self, state: Any, action: Any) -> tuple[Any, Any, Any, Any]:
        return state + 1, self.observe(state + 1), jnp.asarray(1.0), state + 1 >= self.steps

    def observe(self, state: Any) -> Any:
        return jnp.zeros(self.observation_shape).at[1, state, 1].set(1.0)


def recording(env: Any, steps: int | None = None) -> Any:
    policy = MLP((int(np.prod(env.observation_shape)), 4, env.action.outputs), last_std=1.0)
    play = jax.jit(lambda params, key: recorded(env, policy, params, key, steps=steps))
    return play(policy.init(bb.key(0)), episode_keys(bb.key(1), 0, 1)[0])


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_a_recording_is_the_episode_that_counts(name: str) -> None:
    env, keys = ClassicControl(name), episode_keys(bb.key(3), 0, 2)
    policy = MLP((*env.observation_shape, 8, env.action.outputs))
    params = policy.init(bb.key(0))
    first = episode_return(env, policy, params, keys, normalizer=fresh(env.observation_shape))
    normalizer = merge(fresh(env.observation_shape), first.moments)
    played = episode_return(env, policy, params, keys, normalizer=normalizer)
    for i, key in enumerate(keys):
        seen = recorded(env, policy, params, key, normalizer=normalizer)
        assert int(seen.length) == int(played.steps[i])
        np.testing.assert_allclose(seen.rewards.sum(), played.returns[i], rtol=1e-4)
        assert len(seen.observations) == env.steps + 1
        np.testing.assert_array_equal(seen.observations[int(seen.length)], seen.observations[-1])


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0", "maze", "board"]
)
def test_episodes_are_drawn(name: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    env: Any = {"maze": Maze(), "board": Board()}.get(name) or ClassicControl(name)
    seen = recording(env, steps=80)
    film(env, seen, tmp_path / "episode.gif", moments=4)
    strip(env, seen, tmp_path / "episode.png", moments=3)
    with image.open(tmp_path / "episode.gif") as found:
        assert 2 <= found.n_frames <= 4  # the same picture is kept once
        frames = []
        for i in range(found.n_frames):
            found.seek(i)
            frames.append(np.asarray(found.convert("RGB")))
    assert (frames[0] != frames[-1]).any()
    assert (tmp_path / "episode.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(bb.SettingError, match="env must be of classic control, have images"):
        draw(_Axes(), object(), recording(ClassicControl("CartPole-v1"), 2), 0)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(bb.MissingExtra, match=r"blackbox-engine\[plot\]"):
        film(Board(), recording(Board()), tmp_path / "episode.gif")


class _Axes:
    def set_axis_off(self) -> None: ...
