"""Clusters of Ray on this machine, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Ray's own: sockets and logs that it leaves to the garbage collector, and announcements of its next versions.
RAYS_OWN = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),  # JAX's, where a test has imported it
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),  # Python 3.12's, likewise
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


@contextlib.contextmanager
def local_ray(folder: Path, num_cpus: int, **options: Any) -> Iterator[Any]:
    """A cluster whose workers can import the modules in ``folder``, and those that all tests share."""
    ray = pytest.importorskip("ray")
    folders = [str(folder), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    ray.init(
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(folders)}},
        **options,
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield ray
    ray.shutdown()
    for number, handler in handlers.items():  # Ray Tune leaves its own behind, which swallow a Ctrl-C
        signal.signal(number, handler)
