"""The device as it says of itself; what only a GPU has is tried with a driver's library of our own."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from bot.inference.device import Sensors, is_out_of_memory, read_device, read_sensors

# What PyTorch and the libraries below it really say, word for word.
SHORT = [
    torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.56 GiB"
    ),
    torch.AcceleratorError(
        "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia"
    ),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    MemoryError(),
]
BROKEN = [
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    ValueError("out of memory"),
]

UUID = "0b8ba6ee-1b9c-6a73-1e7f-d2b3a1f0c001"


class _NVMLError(Exception):
    pass


def driver(**failing: bool) -> Any:
    """A stand-in for pynvml; what is named fails."""

    def answer(name: str, value: object) -> Any:
        def ask(*_: object) -> object:
            asked.append((name, *_))
            if failing.get(name):
                raise _NVMLError(name)
            return value

        return ask

    asked: list[tuple[object, ...]] = []
    module = ModuleType("pynvml")
    vars(module).update(
        NVMLError=_NVMLError,
        NVML_TEMPERATURE_GPU=0,
        asked=asked,
        nvmlInit=answer("init", None),
        nvmlShutdown=answer("shutdown", None),
        nvmlDeviceGetHandleByUUID=answer("handle", "the handle"),
        nvmlDeviceGetTemperature=answer("temperature", 54),
        nvmlDeviceGetUtilizationRates=answer("utilization", SimpleNamespace(gpu=91)),
        nvmlSystemGetDriverVersion=answer("driver", "550.1"),
    )
    return module


def test_without_a_gpu_it_is_the_machine_and_its_ram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reading = read_device()
    assert (reading.name, reading.is_gpu, reading.sensors) == ("CPU", False, Sensors())
    assert reading.total_bytes == psutil.virtual_memory().total
    assert 0 < reading.process_bytes < reading.total_bytes
    assert 0 < reading.free_bytes < reading.total_bytes


def test_a_gpu_tells_its_memory_and_what_its_driver_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    module = driver()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: {0: (6, 24)}[index])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: {0: 17}[index])
    properties = SimpleNamespace(name="A GPU", uuid=UUID)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: {0: properties}[index])
    reading = read_device()
    assert (reading.name, reading.is_gpu) == ("A GPU", True)
    assert (reading.total_bytes, reading.free_bytes, reading.process_bytes) == (24, 6, 17)
    assert reading.sensors == Sensors(54, 91, "550.1")
    assert ("handle", f"GPU-{UUID}") in module.asked
    assert module.asked[-1] == ("shutdown",)


@pytest.mark.parametrize(
    ("failing", "told"),
    [
        ("temperature", Sensors(None, 91, "550.1")),
        ("utilization", Sensors(54, None, "550.1")),
        ("driver", Sensors(54, 91, None)),
        ("handle", Sensors()),
        ("init", Sensors()),
        ("shutdown", Sensors(54, 91, "550.1")),
    ],
)
def test_what_the_driver_does_not_tell_is_none_and_no_error(
    monkeypatch: pytest.MonkeyPatch, failing: str, told: Sensors
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(**{failing: True}))
    assert read_sensors(UUID) == told


def test_without_the_drivers_library_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_sensors(UUID) == Sensors()


def test_the_real_library_on_a_machine_without_a_driver_is_no_error() -> None:
    assert read_sensors("GPU-there-is-none-of-this-name") == Sensors()


@pytest.mark.parametrize("error", SHORT, ids=lambda error: str(error)[:40])
def test_whatever_says_that_memory_is_short_is_known(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", BROKEN, ids=lambda error: str(error)[:40])
def test_a_gpu_that_has_failed_is_not_short_of_memory(error: BaseException) -> None:
    assert not is_out_of_memory(error)
