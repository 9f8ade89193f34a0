"""A run over several hosts, played by processes of this machine that know each other through ``jax.distributed``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import several_hosts

PROCESSES = 2
DEVICES = 2  # of each process


def test_hosts_agree_with_each_other_and_with_one_device(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(DEVICES),
        "PYTHONWARNINGS": "default",
    }
    paths = [tmp_path / f"{number}.npz" for number in range(PROCESSES)]
    hosts = [
        subprocess.Popen(
            [sys.executable, several_hosts.__file__, coordinator, str(PROCESSES), str(number), str(path)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number, path in enumerate(paths)
    ]  # fmt: skip
    try:
        one = several_hosts.runs(None)
        for host in hosts:
            output, _ = host.communicate(timeout=240)
            assert host.returncode == 0, output
    finally:
        for host in hosts:
            host.kill()
            host.wait()
    first, second = (dict(np.load(path, allow_pickle=False)) for path in paths)

    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name, strict=True)
        assert np.isfinite(value).all() and value.std() > 0
        run, array = name.split("/")
        alone = one[name]
        if run == "centered-ranks":  # whole numbers: their sums are exact in any order
            np.testing.assert_array_equal(value, alone, err_msg=name, strict=True)
        else:
            np.testing.assert_allclose(value, alone, rtol=1e-5, atol=1e-6, err_msg=name)
            if array == "fitness" and run != "rows":  # of the same means
                np.testing.assert_array_equal(value[0], alone[0], err_msg=name)
