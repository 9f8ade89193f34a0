"""What every test may rely on."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# A shell that starts the tests in the background lets them, and what they start, ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` need one: without the driver's device they are skipped, before anything is imported."""
    if not Path("/dev/nvidiactl").exists():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """XLA at its lowest effort, for modules of many small programs: it takes a quarter off their time."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
