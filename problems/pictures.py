"""Episodes as pictures, drawn by matplotlib: a film, or some moments side by side.

Drawn are the four of classic control, whatever has images as observations, such as MinAtar, and environments with a
method ``draw_moment(axes, recording, moment)``, such as the maze. Robots of brax are shown by a page of HTML.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blackbox.errors import SettingError, missing_extra

from .environments import Brax, ClassicControl, Environment
from .episodes import Recording

if TYPE_CHECKING:
    from jaxtyping import Float

    Points = Float[np.ndarray, "2 points"]

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#555555"
_SECONDS = 1 / 25  # that a moment of a film is shown


def film(env: Environment, recording: Recording, file: str | Path, *, moments: int = 100) -> None:
    """An episode as a GIF.

    Args:
        env: what was played.
        recording: the episode.
        file: where to, with the ending .gif.
        moments: at most so many, evenly over the episode.

    Raises:
        SettingError: an environment of which there are no pictures.
        MissingExtra: matplotlib is not installed.
    """
    figure = _figure(1)
    axes: Any = figure.subplots()
    from matplotlib.animation import PillowWriter

    writer = PillowWriter(fps=round(1 / _SECONDS))
    with writer.saving(figure, str(file), dpi=80):
        for moment in _spread(recording, moments):
            axes.clear()
            draw(axes, env, recording, moment)
            writer.grab_frame()


def strip(env: Environment, recording: Recording, file: str | Path, *, moments: int = 5) -> None:
    """Some moments of an episode side by side, the first and the last among them; arguments are those of `film`."""
    chosen = _spread(recording, moments)
    figure = _figure(len(chosen))
    for axes, moment in zip(np.ravel(figure.subplots(1, len(chosen))), chosen, strict=True):
        draw(axes, env, recording, moment)
        axes.set_title(f"step {moment}", fontsize=9)
    figure.savefig(Path(file), dpi=100)


def page(env: Brax, recording: Recording, file: str | Path) -> None:
    """An episode of a robot as a page of HTML, to be looked at from all sides."""
    import jax
    from brax.io import html

    states = recording.states.pipeline_state
    html.save(str(file), env.system, [jax.tree.map(lambda x, i=i: x[i], states) for i in range(int(recording.length))])


def draw(axes: Any, env: Environment, recording: Recording, moment: int) -> None:
    """One moment of an episode, into axes of matplotlib."""
    observation = np.asarray(recording.observations[moment])
    axes.set_axis_off()
    if hasattr(env, "draw_moment"):
        env.draw_moment(axes, recording, moment)
    elif isinstance(env, ClassicControl):
        state = [float(x[moment]) for x in recording.states]
        shapes, bounds = _CLASSIC[env.env](*state)
        for points, color, width in shapes:
            marker = "o" if points.shape[1] == 1 else None
            axes.plot(*points, color=color, linewidth=width, marker=marker, markersize=12, solid_capstyle="round")
        axes.set(xlim=bounds[:2], ylim=bounds[2:], aspect="equal")
    elif observation.ndim == 3:
        highest = np.where(observation.any(-1), 1 + observation.argmax(-1), 0)
        axes.imshow(highest, cmap="viridis", vmin=0, vmax=observation.shape[-1], interpolation="nearest")
    else:
        raise SettingError(
            f"env must be of classic control, have images as observations or a method picture; got {env!r}"
        )


def _spread(recording: Recording, moments: int) -> list[int]:
    last = int(recording.length)
    return sorted({round(x) for x in np.linspace(0, last, min(moments, last + 1))})


def _figure(columns: int) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plot") from error
    return Figure(figsize=(3.0 * columns, 3.0), layout="constrained")


# ---- shapes: points, color and width of lines; and the bounds of the picture


def _line(*points: tuple[float, float]) -> Points:
    return np.array(points, float).T


def _cartpole(position: float, _: float, angle: float, __: float) -> tuple[list[Any], tuple[float, ...]]:
    left, right = position - 0.25, position + 0.25
    cart = _line((left, 0.0), (right, 0.0), (right, 0.2), (left, 0.2), (left, 0.0))
    pole = _line((position, 0.2), (position + np.sin(angle), 0.2 + np.cos(angle)))
    return [(_line((-2.4, 0.0), (2.4, 0.0)), _GREY, 1), (cart, _BLUE, 2), (pole, _ORANGE, 4)], (-2.5, 2.5, -1.0, 2.0)


def _pendulum(angle: float, _: float) -> tuple[list[Any], tuple[float, ...]]:
    rod = _line((0.0, 0.0), (-np.sin(angle), np.cos(angle)))
    return [(rod, _ORANGE, 6), (rod[:, :1], _GREY, 1)], (-1.2, 1.2, -1.2, 1.2)


def _acrobot(first: float, second: float, *_: float) -> tuple[list[Any], tuple[float, ...]]:
    elbow = np.sin(first), -np.cos(first)
    tip = elbow[0] + np.sin(first + second), elbow[1] - np.cos(first + second)
    goal = _line((-2.2, 1.0), (2.2, 1.0))
    return [(goal, _GREY, 1), (_line((0.0, 0.0), elbow, tip), _ORANGE, 4)], (-2.2, 2.2, -2.2, 2.2)


def _mountain_car(position: float, _: float) -> tuple[list[Any], tuple[float, ...]]:
    x = np.linspace(-1.2, 0.6, 100)
    hill = np.stack([x, 0.45 * np.sin(3 * x) + 0.55])
    flag = _line((0.45, hill[1, -9]), (0.45, hill[1, -9] + 0.2))
    car = _line((position, 0.45 * np.sin(3 * position) + 0.6))
    return [(hill, _GREY, 1), (flag, _BLUE, 2), (car, _ORANGE, 1)], (-1.25, 0.65, 0.0, 1.3)


_CLASSIC: dict[str, Callable[..., tuple[list[Any], tuple[float, ...]]]] = {
    "CartPole-v1": _cartpole,
    "Pendulum-v1": _pendulum,
    "Acrobot-v1": _acrobot,
    "MountainCarContinuous-v0": _mountain_car,
}
