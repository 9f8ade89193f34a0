"""What ``blackbox.kernels.cuda`` uses of CuPy, with arrays in the CPU's memory and kernels that the simulator runs."""

from __future__ import annotations

import ctypes
import types
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import simulator


class ndarray(np.ndarray):  # noqa: N801  CuPy's name
    @property
    def data(self) -> Any:  # type: ignore[override]
        return types.SimpleNamespace(ptr=self.ctypes.data)

    @property
    def device(self) -> Any:  # type: ignore[override]
        return Device()

    def __array_namespace__(self, **_: Any) -> Any:
        return module()


class Device:
    """Of CuPy: which one is current is for its arrays' sake alone."""

    id = 0
    compute_capability = "90"
    attributes = MappingProxyType({"MaxSharedMemoryPerBlockOptin": 227 << 10})

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Kernel:
    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, blocks: Any, threads: Any, arguments: tuple[np.ndarray], *, shared_mem: int) -> None:
        (argument,) = arguments
        assert argument.size == 1  # all that CuPy passes by value
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        code = simulator.library().bb_simulate(
            self.name.encode(), (ctypes.c_uint * 3)(*blocks), *threads, shared_mem,
            ctypes.c_void_p(argument.ctypes.data), 0,
        )  # fmt: skip
        assert code == 0


class RawModule:
    def __init__(self, path: str) -> None:
        if not Path(path).read_bytes():
            raise CUDADriverError("CUDA_ERROR_INVALID_IMAGE")

    def get_function(self, name: str) -> Kernel:
        return Kernel(name)


class CUDADriverError(RuntimeError):
    pass


def module() -> Any:
    """The module ``cupy``."""

    def owned(make: Any) -> Any:
        return lambda *arguments, **more: make(*arguments, **more).view(ndarray)

    return types.SimpleNamespace(
        ndarray=ndarray,
        float32=np.float32,
        uint32=np.uint32,
        int32=np.int32,
        arange=owned(np.arange),
        asarray=owned(np.asarray),
        ascontiguousarray=owned(np.ascontiguousarray),
        empty=owned(lambda shape, dtype: np.full(shape, np.nan if dtype == "float32" else -1, dtype)),
        asnumpy=lambda array: np.array(array),
        RawModule=RawModule,
        cuda=types.SimpleNamespace(
            Device=Device,
            is_available=lambda: True,
            driver=types.SimpleNamespace(CUDADriverError=CUDADriverError),
        ),
    )
