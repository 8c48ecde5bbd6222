"""The device that models run on, and its memory: one GPU where there is one, else this machine's RAM."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import psutil

from bot.errors import SettingsError
from bot.inference import gpu_choice
from bot.inference.whole_device import whole_device

if TYPE_CHECKING:
    import torch

_Value = TypeVar("_Value")

# What PyTorch keeps on a GPU beside tensors, for each stream that computes there: a workspace of cuBLAS, 32 MiB from
# compute capability 9.0 on and 8 before (`getChosenWorkspaceSize` in ATen's CublasHandlePool.cpp), and what is left of
# the 20 MiB in which its allocator takes memory for tensors of 1 to 10 MiB (kLargeBuffer in c10's
# CUDACachingAllocator). Two streams compute: one loads, one answers.
_STREAMS = 2
_STREAM_BYTES = (32 + 20) * 2**20

# How CUDA and its libraries say that memory is short where PyTorch's allocator does not say it. A launch that lacks
# memory for what it needs beside tensors is a torch.AcceleratorError.
_SHORT = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)


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


def gpu() -> torch.device | None:
    """The GPU that models run on, under PyTorch's number; None on a machine without.

    The first call chooses it (`gpu_choice.py`), and must come before anything else in this process asks CUDA.

    Raises:
        SettingsError: GPU_DEVICE names one that cannot be had.
    """
    import torch

    choice = gpu_choice.choice()
    chosen = choice.settle()
    if not torch.cuda.is_available():
        if choice.wanted is None:
            return None
        if choice.gpus:
            raise SettingsError(
                "GPU_DEVICE is set, and PyTorch can use no GPU here: `python -m bot check` says why; or leave it out."
            )
        raise SettingsError(
            "GPU_DEVICE is set, and no driver tells of a GPU here: see whether `nvidia-smi` works, or leave it out."
        )
    count = torch.cuda.device_count()
    numbers = range(count)
    if chosen is not None:  # where CUDA was asked before the choice, it sees all of them
        number = 0 if count == 1 else next((one for one in numbers if _uuid(one) == chosen.uuid), 0)
    elif choice.wanted is not None:
        named = [one for one in numbers if choice.wanted in (str(one), _uuid(one))]
        if not named:
            raise SettingsError(
                f"GPU_DEVICE names no GPU of this machine: write a number from 0 to {count - 1}, or leave it out."
            )
        number = named[0]
    elif count > 1:  # and a driver without NVML
        number = max(numbers, key=lambda one: torch.cuda.mem_get_info(one)[0])
    else:
        number = 0
    return torch.device("cuda", number)


def read_device() -> DeviceReading:
    """Look at the device; imports torch, and the first call on a GPU makes a CUDA context (about 0.5 GB).

    Raises:
        SettingsError: see `gpu`.
    """
    device = gpu()
    return read_machine() if device is None else _read_gpu(device)


def read_machine() -> DeviceReading:
    """Look at the processor and the RAM."""
    memory = psutil.virtual_memory()
    process_bytes = psutil.Process().memory_info().rss
    return DeviceReading("CPU", False, memory.total, memory.available, process_bytes)


def capability() -> tuple[int, int] | None:
    """The GPU's compute capability, as in (9, 0); None without a GPU."""
    import torch

    device = gpu()
    return None if device is None else torch.cuda.get_device_capability(device)


def budget_bytes() -> int:
    """What models may take together where the operator does not say: what is free, less a margin.

    On a GPU the margin is for fragments and other programs' fluctuations, and beside it there is what libraries keep
    there; in RAM it is larger, since the rest of the machine lives there too.
    """
    reading = read_device()
    if not reading.is_gpu:
        return max(0, int(0.8 * reading.free_bytes))
    margin_bytes = max(5e8, 0.05 * reading.total_bytes) + _STREAMS * _STREAM_BYTES
    return max(0, int(reading.free_bytes - margin_bytes))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is one of the ways in which PyTorch and what it calls say that memory is short, on a GPU or in
    RAM."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SHORT)


def free_memory() -> None:
    """Give back what nobody refers to any more: Python's cycles, PyTorch's cache, the C library's heap.

    A module of a model and its hooks refer to each other, so counting references alone frees nothing.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        with whole_device():
            torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Give what the C library's heap keeps for later back to the system: after a load that is more than the model."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _uuid(number: int) -> str:
    """A GPU's, as the driver writes it; empty where PyTorch does not know it."""
    import torch

    uuid = str(getattr(torch.cuda.get_device_properties(number), "uuid", ""))
    return uuid if not uuid or "-" in uuid[:4] else f"GPU-{uuid}"


def _read_gpu(device: torch.device) -> DeviceReading:
    """Everything that only a machine with a GPU can show."""
    import torch

    free_bytes, total_bytes = torch.cuda.mem_get_info(device.index)
    name, uuid = torch.cuda.get_device_properties(device.index).name, _uuid(device.index)
    gpus = gpu_choice.choice().gpus
    if len(gpus) > 1 and (number := next((one.number for one in gpus if one.uuid == uuid), None)) is not None:
        name = f"{name} (GPU {number} of {len(gpus)})"
    return DeviceReading(
        name=name,
        is_gpu=True,
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        process_bytes=torch.cuda.memory_reserved(device.index),
        sensors=read_sensors(uuid),
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
