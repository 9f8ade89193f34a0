"""What every test may rely on."""

import gc
import os
import signal
from pathlib import Path

import pytest

# XLA at its lowest effort, here and in what tests start: most programs run once, for less time than they compile.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# The older of two code generators takes half as long; flags that somebody has set come last, and count.
FAST = "--xla_cpu_use_fusion_emitters=false --xla_cpu_opt_preset=FAST_COMPILE"
if FAST not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{FAST} {os.environ.get('XLA_FLAGS', '')}".strip()

# Traces of programs are long-lived garbage by the million; looking at them less often saves a twentieth of all time.
gc.set_threshold(20_000, 20, 20)

# A shell that starts the tests in the background lets them, and what they start, ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` need one: without the driver's device they are skipped, before anything is imported."""
    if not Path("/dev/nvidiactl").exists():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))
