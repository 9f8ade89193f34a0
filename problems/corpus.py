"""A real text that every Python ships: the sources of its standard library, documentation strings and all.

A document is a module. Modules whose name's BLAKE2b digest begins with a byte divisible by ten are held out, about one
in ten, so that which they are depends on nothing but the name. Documents are in the order of their names, each after a
zero byte. Modules with other than ASCII characters are left out, as are generated tables and whatever some
distributions of Python do not install (tests, Tk, ``idlelib``, ``lib2to3``). About 7.5 MB and 0.6 MB, which depends on
the version of Python: ``digest`` identifies a text.

The bounds that a model of the text is measured against, in bits per byte of the held-out part: ``unigram`` and
``bigram`` are counted on the training part, ``gzip`` is what gzip -9 makes of the held-out part.
"""

from __future__ import annotations

import gzip
import hashlib
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

VOCABULARY = 128
"""Bytes are ASCII."""

_LEFT_OUT = {
    *("__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "tkinter"),
    *("turtledemo", "distutils", "ensurepip", "encodings", "pydoc_data"),
}


class Corpus(NamedTuple):
    """A text in two parts, as bytes."""

    train: UInt8[np.ndarray, "n"]
    held_out: UInt8[np.ndarray, "m"]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that identify the text and its split."""
        both = hashlib.blake2b(self.train.tobytes(), digest_size=8)
        both.update(b"\0\0" + self.held_out.tobytes())
        return both.hexdigest()


def standard_library(root: Path | None = None) -> Corpus:
    """The text of the modules below ``root``; by default those of the running Python's standard library."""
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in root.rglob("*.py")):
        folders, module = name.split("/")[:-1], name.rpartition("/")[2]
        if _LEFT_OUT.intersection(folders) or module.startswith("_sysconfigdata"):
            continue
        if any(folder.startswith("config-") for folder in folders):  # written when this Python was built
            continue
        source = path.read_bytes().replace(b"\r\n", b"\n")
        if source and source.isascii() and b"\0" not in source:
            parts[_is_held_out(name)].append(b"\0" + source)
    train, held_out = (np.frombuffer(b"".join(part), np.uint8) for part in parts)
    return Corpus(train, held_out)


def _is_held_out(name: str) -> bool:
    return hashlib.blake2b(name.encode(), digest_size=1).digest()[0] % 10 == 0


def unigram(corpus: Corpus) -> float:
    """Bits per byte of the held-out part under the frequencies of the training part."""
    return float(-np.log2(_frequencies(corpus.train))[corpus.held_out].mean())


def bigram(corpus: Corpus, prior: float = 10.0) -> float:
    """As :func:`unigram`, each byte given the one before; ``prior`` is the weight of the unigram, in counts."""
    counts: Int[np.ndarray, "v v"] = np.zeros((VOCABULARY, VOCABULARY), np.int64)
    np.add.at(counts, (corpus.train[:-1], corpus.train[1:]), 1)
    rows = counts.sum(axis=1, keepdims=True)
    probability = (counts + prior * _frequencies(corpus.train)) / (rows + prior)
    before, after = np.concatenate([[np.uint8(0)], corpus.held_out[:-1]]), corpus.held_out
    return float(-np.log2(probability[before, after]).mean())


def gzip_bits(corpus: Corpus) -> float:
    """Bits per byte of the held-out part compressed with gzip -9."""
    text = corpus.held_out.tobytes()
    return 8 * len(gzip.compress(text, 9, mtime=0)) / len(text)


def _frequencies(text: UInt8[np.ndarray, "n"]) -> Float[np.ndarray, "v"]:
    counts = np.bincount(text, minlength=VOCABULARY) + 0.5  # every byte is possible
    return counts / counts.sum()
