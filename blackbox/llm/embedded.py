"""A small model of our own that continues lists of scored solutions, so that everything works without a network.

It is a transformer over coordinates (:mod:`blackbox.llm.coordinate_transformer`) behind the text of
:mod:`blackbox.llm.scored_list`: it reads the list that a language model would read and answers in the same words. Its
weights come with the package; ``bench/embedded_training.py`` makes them.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray

from blackbox.errors import ProviderError
from blackbox.llm import coordinate_transformer as network
from blackbox.llm.provider import Reply, Request
from blackbox.llm.scored_list import Asked, read

if TYPE_CHECKING:
    from jaxtyping import Float

WEIGHTS = Path(__file__).with_name("embedded.safetensors")
CAUTION = 0.25  # of the posterior's deviations, as the spread; chosen on the landscapes of the training


class _Weights(NamedTuple):
    parameters: dict[str, Float[ndarray, "..."]]
    digest: str
    """Of the file, so that answers of other weights are not taken for theirs."""


@functools.lru_cache(maxsize=4)
def _parsed(content: bytes) -> _Weights:
    from safetensors.numpy import load

    stored = {name: value.astype(np.float32) for name, value in load(content).items()}
    width, layers = stored["norm"].shape[0], sum(name.endswith("attention.in") for name in stored)
    if {name: value.shape for name, value in stored.items()} != network.shapes(width, layers):
        raise ValueError("its tensors have other names or shapes")
    return _Weights(stored, hashlib.sha256(content).hexdigest()[:12])


def weights_of(path: Path) -> _Weights:
    """The weights in a file; ProviderError if it is none of the embedded model's."""
    from safetensors import SafetensorError

    try:
        return _parsed(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError, IndexError) as error:
        raise ProviderError(f"path must be weights of the embedded model; {str(path)!r} is not: {error}") from error


class Embedded:
    """The provider that needs no network, for :class:`EvoLLM`::

        bb.minimize(f, bb.Box(low, high), method="evollm", budget=200, seed=0)
        bb.llm.EvoLLM(provider=bb.llm.Embedded())

    It reads lists of solutions and nothing else; temperature does not matter to it.

    Args:
        path: safetensors of other weights.

    Raises:
        ProviderError: the file is missing or holds something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = WEIGHTS if path is None else Path(path)
        self._weights = weights_of(self.path)
        self.model = f"embedded-{self._weights.digest}"

    def complete(self, request: Request, seconds: float) -> Reply:
        """Mean and spread of the solution that is asked for, as integers of the list.

        Raises:
            ProviderError: the request is no list of solutions.
        """
        asked = read(request.messages[-1].content)
        if asked is None:
            raise ProviderError(
                "the embedded model continues lists of solutions, as EvoLLM asks them; for texts and programs give a"
                f" provider such as OpenAI(...); got a request that begins {request.messages[-1].content[:60]!r}"
            )
        text = _continued(asked, self._weights.parameters)
        size_in = sum(len(content) for _, content in request.messages)
        return Reply(
            (text,) * request.n, -(-size_in // 3), request.n * -(-len(text) // 3), ("stop",) * request.n, self.model
        )


def _continued(asked: Asked, parameters: dict[str, Float[ndarray, "..."]]) -> str:
    """The last line of the list."""
    solutions = asked.integers[::-1][: network.ROWS].astype(np.float64)
    losses = asked.losses[::-1][: network.ROWS]
    count = len(losses)
    rows = np.zeros((1, network.ROWS, solutions.shape[1]))
    values = np.zeros((1, network.ROWS))
    rows[0, :count], values[0, :count] = solutions, losses
    read_ = network.tokens(rows, values, np.array([count]), np.array([asked.desired]))
    found = network.posterior(read_, network.logits(np, parameters, read_.features))
    most = asked.resolution - 1
    mean = np.clip(np.rint(found.mean[0]), 0, most).astype(int)
    text = " ".join(map(str, mean.tolist()))
    if asked.spread:
        text += "; " + " ".join(map(str, np.clip(np.rint(CAUTION * found.deviation[0]), 0, most).astype(int).tolist()))
    return text
