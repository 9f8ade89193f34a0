"""The maze: its robot sees what is there, passes no wall, and is led astray by nearness."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import blackbox as bb
from blackbox.problems.episodes import episode_keys, episode_return
from blackbox.problems.maze import Maze, Robot
from blackbox.problems.policies import MLP

POLICY = MLP((11, 8, 2), last_std=3.0)
ROOM = ("#####", "#S  #", "#  G#", "#####")


def boxes(maze: Maze) -> np.ndarray:
    """Corners (x0, y0, x1, y1) of every pixel of wall, and of a frame around the picture."""
    walls = np.pad(maze.walls, 1, constant_values=True)
    rows, columns = np.nonzero(walls)
    return maze.pixel * np.stack([columns - 1.0, rows - 1.0, columns * 1.0, rows * 1.0], axis=1)


def clearance(maze: Maze, points: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest pixel of wall."""
    x0, y0, x1, y1 = boxes(maze).T
    x, y = points[..., None, 0], points[..., None, 1]
    return np.hypot(np.maximum(np.maximum(x0 - x, x - x1), 0), np.maximum(np.maximum(y0 - y, y - y1), 0)).min(axis=-1)


def cast(maze: Maze, points: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """How far it is from each point in each direction to the first pixel of wall, by the slabs of every pixel."""
    ray = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[:, :, None]  # (n, rays, 1, 2)
    low, high = ((corners - points[:, None]) for corners in (boxes(maze)[:, :2], boxes(maze)[:, 2:]))
    first, second = low[:, None] / ray, high[:, None] / ray
    enter, leave = np.minimum(first, second).max(axis=-1), np.maximum(first, second).min(axis=-1)
    return np.where((enter <= leave) & (enter >= 0), enter, np.inf).min(axis=-1)


def scattered(seed: int) -> Maze:
    """Walls at random, which meet in every kind of corner."""
    pixels = np.where(np.random.default_rng(seed).random((14, 20)) < 0.15, "#", " ")
    pixels[5:8, 5:8], pixels[6, 6], pixels[0, 0] = " ", "S", "G"
    return Maze(tuple("".join(row) for row in pixels), pixel=7.0)


@pytest.mark.parametrize("maze", [Maze(), scattered(0), scattered(1)], ids=["hard", "scattered", "scattered again"])
def test_range_finders_see_the_nearest_wall_of_the_picture(maze: Maze) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, maze.size, (400, 2))
    points = points[clearance(maze, points) > 0.1]
    headings = rng.uniform(-10, 10, len(points))
    seen = jax.jit(jax.vmap(maze.ranges))(*jnp.asarray(points.T, jnp.float32), jnp.asarray(headings, jnp.float32))
    angles = headings[:, None] + np.deg2rad([-90, -45, 0, 45, 90, 180])
    # A ray that grazes a corner may see it or not.
    expected = [np.minimum(cast(maze, points, angles + slip), maze.reach) for slip in (0.0, -1e-3, 1e-3)]
    assert (expected[0] < maze.reach).mean() > 0.5
    off = np.min([np.abs(seen - distances) / (1 + distances) for distances in expected], axis=0)
    assert off.max() < 1e-3
    assert (np.abs(seen - expected[0]) < 0.01).mean() > 0.998


def test_right_angles_are_seen_along_and_across_walls() -> None:
    maze = Maze(ROOM, pixel=20.0)
    np.testing.assert_allclose(
        maze.ranges(*map(jnp.asarray, (30.0, 30.0, 0.0))), [10, 14.142, 50, 42.426, 30, 10], 1e-4
    )


@pytest.mark.parametrize("maze", [Maze(), scattered(2)], ids=["hard", "scattered"])
def test_walls_are_never_crossed_and_robots_move_as_they_may(maze: Maze) -> None:
    params = jax.vmap(POLICY.init)(jnp.asarray([[seed, 0] for seed in range(32)], jnp.uint32))
    paths = np.asarray(jax.jit(jax.vmap(lambda p: maze.path(POLICY, p)))(params), float)
    assert paths.shape == (32, maze.steps + 1, 2)
    clear = clearance(maze, paths)
    assert clear.min() >= maze.radius - 1e-3
    assert (clear.min(axis=1) < maze.radius + 0.5).mean() > 0.5  # most have run against a wall
    lengths = np.linalg.norm(np.diff(paths, axis=1), axis=-1)
    assert maze.fastest - 0.1 < lengths.max() <= maze.fastest + 1e-3
    assert (lengths[:, 0] <= maze.slew + 1e-3).all()


def test_an_episode_ends_where_its_path_does_and_scores_the_distance() -> None:
    maze, keys = Maze(steps=60), episode_keys(bb.key(0), 0, 2)

    def unsquashed(params: Any, observation: Any) -> Any:  # the environment takes tanh of outputs, play clips them
        return jnp.arctanh(jnp.clip(POLICY(params, observation), -0.999999, 0.999999))

    def place(robot: Robot, _: Any) -> Any:
        return jnp.stack([robot.x, robot.y])

    @jax.jit
    def all_ways(params: Any) -> Any:
        as_environment = episode_return(maze, unsquashed, params, keys, behaviour=place)
        return maze.play(POLICY, params), maze.path(POLICY, params), as_environment

    played, path, as_environment = all_ways(POLICY.init(bb.key(3)))
    np.testing.assert_allclose(played.behaviour, path[-1], rtol=1e-5)
    assert float(played.fitness) == pytest.approx(float(np.linalg.norm(path[-1] - np.asarray(maze.goal))), rel=1e-5)
    np.testing.assert_allclose(as_environment.returns, [-played.fitness] * 2, rtol=1e-3)
    np.testing.assert_allclose(as_environment.behaviour, np.stack([played.behaviour] * 2), rtol=1e-3)
    assert as_environment.steps.tolist() == [60, 60]
    assert maze.solved(jnp.asarray([9.9, 10.0])).tolist() == [True, False]


@pytest.mark.parametrize(("degrees", "index"), [(0, 0), (44, 0), (90, 1), (180, 2), (-90, 3), (-46, 3)])
def test_one_slice_says_where_the_goal_is(degrees: float, index: int) -> None:
    """The goal is to the right of the start: with the heading down it is to the left."""
    maze = Maze()
    seen = np.asarray(maze.observe(Maze(heading=degrees).first()))
    assert seen.shape == maze.observation_shape
    assert seen[0] == 1.0
    assert ((seen[1:7] >= 0) & (seen[1:7] <= 1)).all()
    np.testing.assert_array_equal(seen[7:], np.eye(4)[index])


def test_faces_are_the_borders_of_the_walls() -> None:
    for maze in (Maze(), scattered(3)):
        walls = np.pad(maze.walls, 1, constant_values=True).astype(int)
        for axis, faces in zip((1, 0), maze.faces, strict=True):
            borders = np.abs(np.diff(walls, axis=axis)).sum()
            assert (faces.stop - faces.start).sum() == borders * maze.pixel
    assert [len(faces.line) for faces in Maze(ROOM, pixel=20.0).faces] == [2, 2]


def test_nearness_leads_into_a_trap_and_yet_there_is_a_way() -> None:
    """On a lattice of places with room: who only ever comes nearer ends far from the goal, who turns back arrives."""
    maze, spacing = Maze(), 2.5
    width, height = (int(length / spacing) for length in maze.size)
    places = spacing * np.stack(np.meshgrid(np.arange(width), np.arange(height), indexing="ij"), axis=-1)
    has_room = clearance(maze, places) >= maze.radius
    distance = np.linalg.norm(places - maze.goal, axis=-1)

    def reached(*, only_nearer: bool) -> np.ndarray:
        is_reached = np.zeros_like(has_room)
        open_places = [tuple(int(coordinate / spacing) for coordinate in maze.start)]
        while open_places:
            place = open_places.pop()
            is_reached[place] = True
            for move in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
                other = place[0] + move[0], place[1] + move[1]
                is_nearer = distance[other] < distance[place]
                if has_room[other] and not is_reached[other] and (is_nearer or not only_nearer):
                    open_places.append(other)
        return is_reached

    assert distance[reached(only_nearer=False)].min() < spacing
    assert 2 * maze.near < distance[reached(only_nearer=True)].min() < 30


def test_populations_are_evaluated() -> None:
    maze = Maze(steps=30)
    flat, structured = jax.flatten_util.ravel_pytree(POLICY.init(bb.key(0)))
    population = flat + jax.random.normal(jax.random.key(0), (4, len(flat)))
    played = bb.evaluate(lambda x: maze.play(POLICY, structured(x)), population)
    assert len(np.unique(played.fitness)) == 4
    alone = jax.jit(lambda x: maze.play(POLICY, structured(x)))
    for i, member in enumerate(population):
        np.testing.assert_allclose(played.fitness[i], alone(member).fitness, rtol=1e-4)
        np.testing.assert_allclose(played.behaviour[i], alone(member).behaviour, rtol=1e-4)


def test_the_map_is_drawn_with_ways_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    maze = Maze()
    maze.draw(tmp_path / "map.png")
    maze.draw(str(tmp_path / "ways.png"), [np.array([maze.start, maze.goal])])
    plain, drawn = ((tmp_path / name).read_bytes() for name in ("map.png", "ways.png"))
    assert plain[:4] == drawn[:4] == b"\x89PNG"
    assert plain != drawn
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(bb.MissingExtra, match=r"blackbox-engine\[plot\]"):
        maze.draw(tmp_path / "map.png")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"picture": ("###", "#S")}, "equal length"),
        ({"picture": ("     ", "     ")}, "one start, 'S'; got 0"),
        ({"picture": ("S GG ", "     ")}, "one goal, 'G'; got 2"),
        ({"picture": ("S    ", "    G")}, "room for a robot of radius 8.0"),
        ({"slew": 0.0}, "slew must be positive; got 0.0"),
        ({"fastest": 9.0}, "fastest must be at most the radius, 8.0; got 9.0"),
    ],
)
def test_wrong_settings_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(bb.SettingError, match=named):
        Maze(**arguments)


def test_a_maze_can_be_made_within_a_program() -> None:
    def observed(x: Any) -> Any:
        return Maze().observe(Robot(x, x, x, x, x, jnp.asarray(0)))

    assert jax.jit(observed)(50.0).shape == (11,)
