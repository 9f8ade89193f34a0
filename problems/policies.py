"""Policies: a function of parameters and an observation. Here is a network with tanh; any other function does as well.

A model of flax is ``model.apply``, one of equinox ``lambda model, observation: model(observation)``.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blackbox.errors import SettingError
from blackbox.kernels.arguments import require_count
from blackbox.kernels.environments import dimension_of
from blackbox.kernels.noise import fold, normal

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from blackbox.arrays import Key

    Layer = tuple[Float[Array, "inputs outputs"], Float[Array, "outputs"]]


@dataclass(frozen=True)
class MLP:
    """Layers with tanh between them; call it with the parameters and an observation, which is flattened.

    Parameters are a list of layers, as :meth:`init` makes them, or all in one flat vector: per layer the matrix
    (inputs, outputs), row by row, then the biases.

    First weights as in Such et al. 2017 (arXiv:1712.06567): Gaussian with the deviation ``std / sqrt(inputs)``, that
    of the last layer ``last_std / sqrt(inputs)``; biases zero.

    Args:
        sizes: widths of all layers, from the observation to the outputs.
        std: of a unit's input at first, for inputs of the order of one.
        last_std: of an output at first.

    Raises:
        SettingError: fewer than two widths, or one below 1.
    """

    sizes: tuple[int, ...]
    std: float = 1.0
    last_std: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.sizes, tuple) or len(self.sizes) < 2:
            raise SettingError(f"sizes must be a tuple of at least two widths; got {self.sizes!r}")
        for size in self.sizes:
            require_count("sizes", size, 1)

    @property
    def dimension(self) -> int:
        """Number of weights and biases."""
        return dimension_of(self.sizes)

    def init(self, key: Key) -> list[Layer]:
        """First parameters in JAX: a matrix and a bias for each layer."""
        import jax.numpy as jnp

        layers: list[Layer] = []
        for depth, (inputs, outputs) in enumerate(itertools.pairwise(self.sizes)):
            std = self.last_std if depth == len(self.sizes) - 2 else self.std
            draw = normal(fold(key, depth), 0, (inputs, outputs), like=jnp.zeros((), jnp.float32))
            layers.append((draw * (std / inputs**0.5), jnp.zeros(outputs)))
        return layers

    def __call__(
        self, params: list[Layer] | Float[Array, "d"], observation: Float[Array, "..."]
    ) -> Float[Array, "outputs"]:
        """The outputs at one observation, in JAX."""
        import jax.numpy as jnp

        values = jnp.ravel(observation)
        for depth, (matrix, bias) in enumerate(params if isinstance(params, list) else self.layers(params)):
            values = (jnp.tanh(values) if depth else values) @ matrix + bias
        return values

    def layers(self, flat: Float[Array, "d"]) -> list[Layer]:
        """The layers of a flat vector."""
        if flat.shape != (self.dimension,):
            raise SettingError(f"params must be a list of layers or of shape ({self.dimension},); got {flat.shape}")
        layers: list[Layer] = []
        begin = 0
        for inputs, outputs in itertools.pairwise(self.sizes):
            end = begin + inputs * outputs
            layers.append((flat[begin:end].reshape(inputs, outputs), flat[end : end + outputs]))
            begin = end + outputs
        return layers

    def outputs(
        self, population: Float[np.ndarray, "n d"], observations: Float[np.ndarray, "n episodes ..."]
    ) -> Float[np.ndarray, "n episodes outputs"]:
        """The outputs of a population of flat vectors in NumPy, each member's at its own observations."""
        n, episodes = observations.shape[:2]
        if population.shape != (n, self.dimension):
            raise SettingError(f"population must have shape ({n}, {self.dimension}); got {population.shape}")
        values, begin = observations.reshape(n, episodes, -1), 0
        for depth, (inputs, outputs) in enumerate(itertools.pairwise(self.sizes)):
            end = begin + inputs * outputs
            matrix, bias = population[:, begin:end], population[:, end : end + outputs]
            values = (np.tanh(values) if depth else values) @ matrix.reshape(n, inputs, outputs) + bias[:, None]
            begin = end + outputs
        return values
