"""The device that models run on, and its memory: the GPU where there is one, else this machine's RAM."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """What the device says of itself now. `process_bytes` is what this process holds of it."""

    name: str
    is_gpu: bool
    total_bytes: int
    free_bytes: int
    process_bytes: int


def read_device() -> DeviceReading:
    """Look at the device; imports torch, and the first call on a GPU makes a CUDA context (about 0.5 GB)."""
    import torch

    if torch.cuda.is_available():
        free_bytes, total_bytes = torch.cuda.mem_get_info()
        held_bytes = torch.cuda.memory_reserved()
        return DeviceReading(torch.cuda.get_device_name(), True, total_bytes, free_bytes, held_bytes)
    memory = psutil.virtual_memory()
    process_bytes = psutil.Process().memory_info().rss
    return DeviceReading("CPU", False, memory.total, memory.available, process_bytes)
