"""The device that models run on, and its memory: the GPU where there is one, else this machine's RAM."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import psutil

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Sensors:
    """What the driver tells beside memory; each is None where it does not tell."""

    temperature_c: int | None = None
    utilization_percent: int | None = None
    driver: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """What the device says of itself now. `process_bytes` is what this process holds of it."""

    name: str
    is_gpu: bool
    total_bytes: int
    free_bytes: int
    process_bytes: int
    sensors: Sensors = Sensors()


def read_device() -> DeviceReading:
    """Look at the device; imports torch, and the first call on a GPU makes a CUDA context (about 0.5 GB)."""
    import torch

    if torch.cuda.is_available():
        return _read_gpu()
    memory = psutil.virtual_memory()
    process_bytes = psutil.Process().memory_info().rss
    return DeviceReading("CPU", False, memory.total, memory.available, process_bytes)


def budget_bytes() -> int:
    """What models may take together where the operator does not say: what is free, less a margin.

    On a GPU the margin is for fragments and other programs' fluctuations; in RAM it is larger, since the rest
    of the machine lives there too.
    """
    reading = read_device()
    margin_bytes = max(5e8, 0.05 * reading.total_bytes) if reading.is_gpu else 0.2 * reading.free_bytes
    return max(0, int(reading.free_bytes - margin_bytes))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is one of the ways in which PyTorch says that memory is short, on a GPU or in RAM."""
    import torch

    told = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return told or isinstance(error, torch.OutOfMemoryError | MemoryError)


def free_memory() -> None:
    """Give back what nobody refers to any more: Python's cycles, PyTorch's cache, the C library's heap.

    A module of a model and its hooks refer to each other, so counting references alone frees nothing.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Give what the C library's heap keeps for later back to the system: after a load that is more than the model."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _read_gpu() -> DeviceReading:
    """Everything that only a machine with a GPU can show."""
    import torch

    free_bytes, total_bytes = torch.cuda.mem_get_info()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return DeviceReading(
        name=properties.name,
        is_gpu=True,
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        process_bytes=torch.cuda.memory_reserved(),
        sensors=read_sensors(str(getattr(properties, "uuid", ""))),
    )


def read_sensors(uuid: str) -> Sensors:
    """What NVML says of the GPU with this uuid: torch counts only the GPUs it may see, NVML all of them.

    A driver without NVML, or a GPU without a sensor, is no error.
    """
    try:
        import pynvml
    except ImportError:
        return Sensors()

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return Sensors()
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        return Sensors(
            temperature_c=_or_none(
                lambda: int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
            ),
            utilization_percent=_or_none(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            driver=_or_none(lambda: str(pynvml.nvmlSystemGetDriverVersion())),
        )
    except pynvml.NVMLError:
        return Sensors()
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _or_none(look: Callable[[], _Value]) -> _Value | None:
    import pynvml

    try:
        return look()
    except pynvml.NVMLError:
        return None
