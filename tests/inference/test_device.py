"""The device as it says of itself; what only a GPU has is tried with a driver's library of our own."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from bot.inference.device import Sensors, read_device, read_sensors

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
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6, 24))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 17)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    properties = SimpleNamespace(name="A GPU", uuid=UUID)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: {1: properties}[index])
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
