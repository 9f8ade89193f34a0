"""The random streams of problems' data, apart from those of strategies and their restarts.

Whoever gives a problem and a run the same seed must not find the run's first noise in the problem.
"""

from __future__ import annotations

from blackbox.arrays import Key
from blackbox.kernels import noise
from blackbox.kernels.arguments import require_words

_DATA = 0x70726F62  # a word that keeps them apart from those of generations and leaves


def data_key(key: Key) -> Key:
    """The key of the data that are drawn with a key.

    Raises:
        SettingError: if ``key`` is not two words.
    """
    require_words("key", key, (2,))
    return noise.fold(key, 0, _DATA)


def seed_key(seed: int) -> Key:
    """The key of the data of a seed.

    Raises:
        SettingError: if ``seed`` is not an integer from 0 to 2**64 - 1.
    """
    return data_key(noise.key(seed))
