"""A deceptive maze: whoever always comes nearer to the goal ends in a cul-de-sac.

Source: the hard maze of Lehman & Stanley 2011, "Abandoning objectives: evolution through the search for novelty alone",
with the robot of Such et al. 2017 (arXiv:1712.06567): six range finders, four slices that say in which quarter the goal
lies, a turn rate and a speed that change by a bounded amount in each step, and one score, at the end. The map is our
own, and a picture: one character a pixel.

Departures: a network's outputs are within -1 and 1, where the sources have 0 and 1, so that zero is rest.

The way leads back from the start, over the top, down at the right and up to the goal from below; the pocket between
start and goal ends 25 units from it. Tried with networks 11-16-16-2, 256 of them, the best 32 as parents and mutations
of 0.05: selected by novelty (25 neighbours, 2 % archived) they arrived in 20 of 20 runs, after 23 to 95 generations;
selected by distance they were all in the pocket after 150.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blackbox.errors import SettingError, missing_extra

from .actions import Continuous

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from .episodes import Recording

    Network = Callable[[Any, Float[Array, "11"]], Float[Array, "2"]]

WALL, START, GOAL = "#SG"

HARD = (
    "################################################",
    "#                                              #",
    "#                                              #",
    "#                                              #",
    "#                                              #",
    "#                                              #",
    "#                                              #",
    "#      ##################################      #",
    "#                               #       #      #",
    "#                               #       #      #",
    "#                               #       #      #",
    "#                               #       #      #",
    "#                               #       #      #",
    "#   S                           #       #      #",
    "#                               #       #      #",
    "#                               #       #      #",
    "#                               #  G    #      #",
    "#                               #       #      #",
    "#                               #       #      #",
    "#         #######################       #      #",
    "#                            #                 #",
    "#                            #                 #",
    "#                            #                 #",
    "#                            #                 #",
    "#                            #                 #",
    "#                            #                 #",
    "################################################",
)

_FINDERS = np.deg2rad((-90.0, -45.0, 0.0, 45.0, 90.0, 180.0))  # relative to the heading
_SLACK = 1e-4  # by which faces are longer at each end: no ray slips through a corner by rounding


class Robot(NamedTuple):
    """Where a robot is and how it moves; x grows to the right of the picture, y downwards, angles from x to y."""

    x: Float[Array, ""]
    y: Float[Array, ""]
    heading: Float[Array, ""]
    """In radians."""
    turn: Float[Array, ""]
    """Degrees per step."""
    speed: Float[Array, ""]
    """Units per step."""
    time: Int[Array, ""]
    """Steps taken."""


class Walk(NamedTuple):
    """What an episode comes to."""

    fitness: Float[Array, ""]
    """Distance to the goal at the end."""
    behaviour: Float[Array, "2"]
    """Where the robot is at the end."""


class Faces(NamedTuple):
    """Borders between wall and floor in one direction: a line, and from where to where on it."""

    line: Float[np.ndarray, "faces"]
    start: Float[np.ndarray, "faces"]
    stop: Float[np.ndarray, "faces"]


@dataclass(frozen=True)
class Maze:
    """The task: ``play`` is one episode of one candidate; it has no luck.

    It is also an :class:`blackbox.problems.environments.Environment`, whose only reward comes in the last step.

    Args:
        picture: rows of equal length; "#" is wall, "S" the start, "G" the goal, all else floor. Outside is wall.
        pixel: side of a pixel, in units of length.
        heading: of the robot at the start, in degrees; 0 looks to the right, 90 down.
        radius: of the robot.
        reach: of its range finders.
        steps: of an episode.
        fastest: greatest turn rate in degrees per step, and greatest speed in units per step; at most the radius, so
            that no wall is jumped over.
        slew: by how much these change in a step, at most.
        near: distance from the goal that counts as success.

    Raises:
        SettingError: a picture without one goal and one start with room for the robot, or a number outside its range.
    """

    picture: tuple[str, ...] = HARD
    pixel: float = 5.0
    heading: float = 0.0
    radius: float = 8.0
    reach: float = 100.0
    steps: int = 400
    fastest: float = 3.0
    slew: float = 0.2
    near: float = 10.0

    def __post_init__(self) -> None:
        if len({len(row) for row in self.picture}) != 1:
            raise SettingError("picture must be rows of equal length")
        for mark, name in ((START, "start"), (GOAL, "goal")):
            if (count := "".join(self.picture).count(mark)) != 1:
                raise SettingError(f"picture must have one {name}, {mark!r}; got {count}")
        for name in ("pixel", "radius", "reach", "steps", "fastest", "slew", "near"):
            if not getattr(self, name) > 0:
                raise SettingError(f"{name} must be positive; got {getattr(self, name)!r}")
        if self.fastest > self.radius:
            raise SettingError(f"fastest must be at most the radius, {self.radius}; got {self.fastest!r}")
        with jax.ensure_compile_time_eval():
            if not self.has_room(*self.start):
                raise SettingError(f"picture must have room for a robot of radius {self.radius} at the start")

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """A one, six distances as shares of the reach, and a one for the goal ahead, left, behind or right."""
        return (11,)

    @property
    def action(self) -> Continuous:
        """Shares of the greatest turn rate and speed, towards which the robot changes its own."""
        return Continuous((-1.0, -1.0), (1.0, 1.0))

    @cached_property
    def walls(self) -> Bool[np.ndarray, "height width"]:
        """Which pixels are wall."""
        return np.array([list(row) for row in self.picture]) == WALL

    @property
    def start(self) -> tuple[float, float]:
        """Where the robot begins: the middle of the pixel."""
        return self._place(START)

    @property
    def goal(self) -> tuple[float, float]:
        """Where it is to end."""
        return self._place(GOAL)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height: behaviours are within zero and these."""
        return self.pixel * self.walls.shape[1], self.pixel * self.walls.shape[0]

    def _place(self, mark: str) -> tuple[float, float]:
        ((row, column),) = np.argwhere(np.array([list(row) for row in self.picture]) == mark)
        return self.pixel * (float(column) + 0.5), self.pixel * (float(row) + 0.5)

    @cached_property
    def faces(self) -> tuple[Faces, Faces]:
        """Sides of the walls, vertical and horizontal; neighbouring pixels have theirs in common."""
        return _faces(self.walls, self.pixel), _faces(self.walls.T, self.pixel)

    def has_room(self, x: Float[Array, ""] | float, y: Float[Array, ""] | float) -> Bool[Array, ""]:
        """Whether no wall is nearer to a point of the floor than the robot's radius."""
        vertical, horizontal = self.faces
        nearest = jnp.minimum(_squared_distance(x, y, vertical), _squared_distance(y, x, horizontal))
        return nearest >= self.radius * self.radius

    def ranges(self, x: Float[Array, ""], y: Float[Array, ""], heading: Float[Array, ""]) -> Float[Array, "6"]:
        """How far it is to a wall in the directions of the range finders, at most their reach."""
        cosine, sine = jnp.cos(heading), jnp.sin(heading)
        along = np.cos(_FINDERS) * cosine - np.sin(_FINDERS) * sine
        across = np.sin(_FINDERS) * cosine + np.cos(_FINDERS) * sine
        vertical, horizontal = self.faces
        nearest = jnp.minimum(
            _ray_lengths(x, y, along, across, vertical), _ray_lengths(y, x, across, along, horizontal)
        )
        return jnp.minimum(nearest, self.reach)

    def observe(self, robot: Robot) -> Float[Array, "11"]:
        """What the network sees."""
        x, y = self.goal[0] - robot.x, self.goal[1] - robot.y
        cosine, sine = jnp.cos(robot.heading), jnp.sin(robot.heading)
        ahead, right = x * cosine + y * sine, y * cosine - x * sine
        slices = jnp.stack(
            [
                ahead >= jnp.abs(right),
                -right > jnp.abs(ahead),
                -ahead >= jnp.abs(right),
                right > jnp.abs(ahead),
            ]
        )
        ranges = self.ranges(robot.x, robot.y, robot.heading) / self.reach
        return jnp.concatenate([jnp.ones(1), ranges, slices.astype(ranges.dtype)])

    def move(self, robot: Robot, action: Float[Array, "2"]) -> Robot:
        """The robot a step later; where there is no room it stays, and only turns."""
        target = self.fastest * jnp.clip(action, -1.0, 1.0)
        turn = robot.turn + jnp.clip(target[0] - robot.turn, -self.slew, self.slew)
        speed = robot.speed + jnp.clip(target[1] - robot.speed, -self.slew, self.slew)
        heading = robot.heading + math.pi / 180 * turn
        x, y = robot.x + speed * jnp.cos(heading), robot.y + speed * jnp.sin(heading)
        is_free = self.has_room(x, y)
        x, y = jnp.where(is_free, x, robot.x), jnp.where(is_free, y, robot.y)
        return Robot(x, y, heading, turn, speed, robot.time + 1)

    def first(self) -> Robot:
        """The robot at the start, at rest."""
        zero = jnp.zeros(())
        x, y = self.start
        return Robot(zero + x, zero + y, zero + math.radians(self.heading), zero, zero, jnp.zeros((), jnp.int32))

    def distance(self, robot: Robot) -> Float[Array, ""]:
        """From the goal."""
        return jnp.hypot(robot.x - self.goal[0], robot.y - self.goal[1])

    def play(self, network: Network, params: Any) -> Walk:
        """One episode.

        Args:
            network: ``(params, observation)`` to two outputs, the action; it is clipped to -1 and 1.
            params: one candidate.
        """
        end = jax.lax.fori_loop(0, self.steps, lambda _, robot: self._act(network, params, robot), self.first())
        return Walk(self.distance(end), jnp.stack([end.x, end.y]))

    def path(self, network: Network, params: Any) -> Float[Array, "steps+1 2"]:
        """Where the robot is at the start and after each step of the episode."""

        def advance(robot: Robot, _: None) -> tuple[Robot, Array]:
            robot = self._act(network, params, robot)
            return robot, jnp.stack([robot.x, robot.y])

        _, places = jax.lax.scan(advance, self.first(), length=self.steps)
        return jnp.concatenate([jnp.asarray(self.start)[None], places])

    def _act(self, network: Network, params: Any, robot: Robot) -> Robot:
        return self.move(robot, network(params, self.observe(robot)))

    def solved(self, fitness: Float[Array, "*n"]) -> Bool[Array, "*n"]:
        """Whether an episode of this fitness has reached the goal."""
        return fitness < self.near

    def reset(self, key: Any) -> tuple[Robot, Float[Array, "11"]]:
        """The start, which is always the same."""
        robot = self.first()
        return robot, self.observe(robot)

    def step(
        self, state: Robot, action: Float[Array, "2"]
    ) -> tuple[Robot, Float[Array, "11"], Float[Array, ""], Bool[Array, ""]]:
        """A step; its reward is zero, but in the last one minus the distance to the goal."""
        robot = self.move(state, action)
        is_over = robot.time >= self.steps
        return robot, self.observe(robot), jnp.where(is_over, -self.distance(robot), 0.0), is_over

    def draw(self, file: str | Path, paths: Sequence[Float[np.ndarray, "points 2"]] = ()) -> None:
        """The map as a picture, with ways through it; the format is that of the file's ending, such as .png.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise missing_extra("matplotlib", "plot") from error
        width, height = self.size
        figure = Figure(figsize=(6.0, 6.0 * height / width), layout="constrained")
        self._show(figure.subplots(), paths)
        figure.savefig(Path(file), dpi=120)

    def draw_moment(self, axes: Any, recording: Recording, moment: int) -> None:
        """The way until some step of an episode, into axes of matplotlib."""
        path = np.stack([recording.states.x, recording.states.y], axis=1)[: moment + 1]
        self._show(axes, [path])
        axes.plot(*path[-1], "o", color="#009E73", markersize=9)

    def _show(self, axes: Any, paths: Sequence[Float[np.ndarray, "points 2"]]) -> None:
        width, height = self.size
        axes.imshow(self.walls, cmap="Greys", vmax=1.5, extent=(0.0, width, height, 0.0), interpolation="nearest")
        for path in paths:
            axes.plot(*np.asarray(path).T, linewidth=1.0, alpha=max(0.2, 1.0 / len(paths) ** 0.5))
        axes.plot(*self.start, "o", color="#0072B2", markersize=9, label="start")
        axes.plot(*self.goal, "*", color="#D55E00", markersize=13, label="goal")
        axes.set_axis_off()


def _faces(walls: Bool[np.ndarray, "rows columns"], pixel: float) -> Faces:
    """The vertical ones: where wall and floor are side by side, joined along each line."""
    closed = np.pad(walls, 1, constant_values=True)
    is_face = closed[1:-1, :-1] != closed[1:-1, 1:]  # (rows, columns + 1)
    ends = np.diff(np.pad(is_face, ((1, 1), (0, 0))).astype(int), axis=0).T  # 1 where a face begins, -1 after its end
    line, start = np.nonzero(ends == 1)
    _, stop = np.nonzero(ends == -1)
    return Faces(line * pixel, start * pixel, stop * pixel)


def _squared_distance(across: Array | float, along: Array | float, faces: Faces) -> Array:
    """From a point to the nearest of the faces, in their coordinates."""
    gap = jnp.maximum(jnp.maximum(faces.start - along, along - faces.stop), 0.0)
    offset = faces.line - across
    return jnp.min(offset * offset + gap * gap)


def _ray_lengths(
    across: Array, along: Array, ray_across: Float[Array, "rays"], ray_along: Float[Array, "rays"], faces: Faces
) -> Float[Array, "rays"]:
    """From a point in each direction to the nearest of the faces, in their coordinates; infinity if it meets none."""
    length = (faces.line - across) * (1.0 / ray_across)[:, None]
    place = along + length * ray_along[:, None]
    is_met = (length >= 0.0) & (place >= faces.start - _SLACK) & (place <= faces.stop + _SLACK)
    return jnp.min(jnp.where(is_met, length, jnp.inf), axis=-1)
