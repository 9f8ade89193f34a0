"""Classic control in one text for arrays of NumPy and JAX: what an observation, a step and a first state are.

Episodes are those of gymnasium 1.x. A state is a tuple of numbers or of arrays of one shape, one entry for each
environment that is stepped; ``xp`` is numpy or jax.numpy, and ``sin_cos`` gives the sine and the cosine. The order of
operations is that of ``csrc/environments.cuh``: in float32, with :func:`blackbox.kernels.exact.sin_cos`, the bits are
the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from blackbox.arrays import Array
from blackbox.errors import SettingError

State = tuple[Array, ...]
SinCos = Callable[[Array], tuple[Array, Array]]

# Two parts of 2 pi, the first so short that its product with a number of turns is exact.
_TURN_HIGH, _TURN_LOW = 6.28125, 0.0019353071795864769
_LARGEST_ANGLE = 12 * 2 * math.pi / 360  # of CartPole's pole


@dataclass(frozen=True)
class Environment:
    """One of the environments.

    Attributes:
        scale: typical size of each observation, by which it is divided for a policy.
        outputs: of a policy.
        force: bound of a continuous action; None where the largest output names a discrete one.
        steps: of the longest episode.
        low: first states are uniform from here
        high: to here.
        observe: ``(state, xp, sin_cos)``: what a policy sees, not yet divided.
        step: ``(state, action, xp, sin_cos)``: the next state, the reward, and whether the episode is over. A discrete
            action is a whole number, in the dtype of the state or of any integer.
    """

    scale: tuple[float, ...]
    outputs: int
    force: float | None
    steps: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    observe: Callable[[State, Any, SinCos], State]
    step: Callable[[State, Array, Any, SinCos], tuple[State, Array, Array]]

    @property
    def state(self) -> int:
        """Numbers in a state."""
        return len(self.low)

    def sizes(self, hidden: tuple[int, ...]) -> tuple[int, ...]:
        """Widths of all layers of a policy, from the observation to the outputs."""
        return len(self.scale), *hidden, self.outputs


def named(env: str) -> Environment:
    """The environment of this name.

    Raises:
        SettingError: if there is none.
    """
    if env not in ENVIRONMENTS:
        raise SettingError(f"env must be one of {', '.join(ENVIRONMENTS)}; got {env!r}")
    return ENVIRONMENTS[env]


def dimension_of(sizes: tuple[int, ...]) -> int:
    """Weights of a network of these widths: for each layer a matrix (inputs, outputs) and as many biases as outputs."""
    return sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(sizes))


def clipped(x: Array, bound: float, xp: Any) -> Array:
    """``x`` within minus and plus ``bound``."""
    return xp.maximum(xp.minimum(x, bound), -bound)


def wrapped(angle: Array, xp: Any) -> Array:
    """An angle within -pi and pi."""
    turns = xp.round(angle * (0.5 / math.pi))
    return (angle - turns * _TURN_HIGH) - turns * _TURN_LOW


def cartpole_step(state: State, action: Array, xp: Any, sin_cos: SinCos) -> tuple[State, Array, Array]:
    """A step of (position, velocity, angle, angular velocity).

    Barto, Sutton and Anderson 1983 without friction, as in gymnasium 1.x: explicit Euler, 0.02 s; cart 1 kg, pole
    0.1 kg and 1 m, force 10 N; over beyond 2.4 m or 12 degrees.
    """
    position, velocity, angle, spin = state
    sine, cosine = sin_cos(angle)
    push = (10.0 * (2.0 * action - 1.0) + 0.05 * spin * spin * sine) / 1.1
    turn = (9.8 * sine - cosine * push) / (0.5 * (4.0 / 3.0 - 0.1 * cosine * cosine / 1.1))
    pull = push - 0.05 * turn * cosine / 1.1
    state = (position + 0.02 * velocity, velocity + 0.02 * pull, angle + 0.02 * spin, spin + 0.02 * turn)
    is_over = (xp.abs(state[0]) > 2.4) | (xp.abs(state[2]) > _LARGEST_ANGLE)
    return state, xp.ones_like(angle), is_over


def pendulum_step(state: State, action: Array, xp: Any, sin_cos: SinCos) -> tuple[State, Array, Array]:
    """A step of (angle from upright, angular velocity); only time ends an episode.

    As in gymnasium 1.x: semi-implicit Euler, 0.05 s; 1 kg, 1 m, g = 10 m/s^2; torque within 2 N m, speed within 8.
    """
    angle, speed = state
    torque, error, (sine, _) = clipped(action, 2.0, xp), wrapped(angle, xp), sin_cos(angle)
    reward = -(error * error + 0.1 * speed * speed + 0.001 * torque * torque)
    speed = clipped(speed + (15.0 * sine + 3.0 * torque) * 0.05, 8.0, xp)
    return (angle + 0.05 * speed, speed), reward, xp.zeros_like(angle, dtype=bool)


def mountain_car_step(state: State, action: Array, xp: Any, sin_cos: SinCos) -> tuple[State, Array, Array]:
    """A step of (position, velocity); over at the goal, 0.45, if not moving back.

    Moore 1990 with a continuous force within 1, as in gymnasium 1.x: the reward is 100 at the goal, less a tenth of the
    squared action at each step.
    """
    position, velocity = state
    _, cosine = sin_cos(3.0 * position)
    velocity = clipped(velocity + (clipped(action, 1.0, xp) * 0.0015 - 0.0025 * cosine), 0.07, xp)
    position = xp.maximum(xp.minimum(position + velocity, 0.6), -1.2)
    velocity = xp.where((position <= -1.2) & (velocity < 0.0), xp.zeros_like(velocity), velocity)  # the left wall
    is_over = (position >= 0.45) & (velocity >= 0.0)
    spent = -(0.1 * (action * action))
    return (position, velocity), xp.where(is_over, 100.0 + spent, spent), is_over


def acrobot_step(state: State, action: Array, xp: Any, sin_cos: SinCos) -> tuple[State, Array, Array]:
    """A step of (two angles, two angular velocities); over when the tip is above the line.

    Sutton 1996 with the equations of Sutton and Barto's book, as in gymnasium 1.x: one Runge-Kutta step of 0.2 s;
    links of 1 m, 1 kg and moment 1 kg m^2, g = 9.8 m/s^2; torque -1, 0 or 1 N m at the second joint.
    """
    torque = action - 1.0

    def slope(state: State) -> State:
        angle1, angle2, speed1, speed2 = state
        sine, cosine = sin_cos(angle2)
        d1, d2 = 3.5 + cosine, 1.25 + 0.5 * cosine
        gravity2, ratio = 4.9 * sin_cos(angle1 + angle2)[0], d2 / d1
        coupling = 0.5 * speed2 * (speed2 + 2.0 * speed1) * sine
        gravity1 = 14.7 * sin_cos(angle1)[0] + gravity2 - coupling
        pull = torque + ratio * gravity1 - 0.5 * speed1 * speed1 * sine - gravity2
        turn2 = pull / (1.25 - d2 * ratio)
        return speed1, speed2, -(d2 * turn2 + gravity1) / d1, turn2

    def moved(time: float, slopes: State) -> State:
        return tuple(x + time * k for x, k in zip(state, slopes, strict=True))

    k1 = slope(state)
    k2 = slope(moved(0.1, k1))
    k3 = slope(moved(0.1, k2))
    k4 = slope(moved(0.2, k3))
    mean = tuple(a + 2.0 * b + 2.0 * c + d for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
    angle1, angle2, speed1, speed2 = moved(0.2 / 6.0, mean)
    angle1, angle2 = wrapped(angle1, xp), wrapped(angle2, xp)
    is_over = -sin_cos(angle1)[1] - sin_cos(angle1 + angle2)[1] > 1.0
    reward = xp.where(is_over, xp.zeros_like(angle1), -xp.ones_like(angle1))
    return (angle1, angle2, clipped(speed1, 4 * math.pi, xp), clipped(speed2, 9 * math.pi, xp)), reward, is_over


def _observe_pendulum(state: State, xp: Any, sin_cos: SinCos) -> State:
    sine, cosine = sin_cos(state[0])
    return cosine, sine, state[1]


def _observe_acrobot(state: State, xp: Any, sin_cos: SinCos) -> State:
    (sine1, cosine1), (sine2, cosine2) = sin_cos(state[0]), sin_cos(state[1])
    return cosine1, sine1, cosine2, sine2, state[2], state[3]


def _observe_state(state: State, xp: Any, sin_cos: SinCos) -> State:
    return state


# In the order of their numbers in csrc/rollout.cuh.
ENVIRONMENTS = {
    "CartPole-v1": Environment(
        (2.4, 3.0, 0.21, 3.0), 2, None, 500, (-0.05,) * 4, (0.05,) * 4, _observe_state, cartpole_step
    ),
    "Pendulum-v1": Environment(
        (1.0, 1.0, 8.0), 1, 2.0, 200, (-math.pi, -1.0), (math.pi, 1.0), _observe_pendulum, pendulum_step
    ),
    "MountainCarContinuous-v0": Environment(
        (1.2, 0.07), 1, 1.0, 999, (-0.6, 0.0), (-0.4, 0.0), _observe_state, mountain_car_step
    ),
    "Acrobot-v1": Environment(
        (1.0, 1.0, 1.0, 1.0, 4 * math.pi, 9 * math.pi), 3, None, 500, (-0.1,) * 4, (0.1,) * 4,
        _observe_acrobot, acrobot_step,
    ),
}  # fmt: skip
