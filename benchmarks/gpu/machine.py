"""Versions, the device, whether NVML means the same GPU, whether NF4 computes, and how fast memory is copied."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from dataclasses import asdict
from typing import Any

from benchmarks.gpu.stage import Context
from bot.bench.bare import copy_rate

_LIBRARIES = (
    *("torch", "transformers", "tokenizers", "safetensors", "accelerate", "bitsandbytes", "huggingface_hub"),
    *("triton", "numpy", "discord.py", "SQLAlchemy", "pydantic", "nvidia-ml-py", "pytest"),
    *("nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "flash-attn", "kernels"),
)
_COPIED_BYTES = 2**30
_NF4_ERROR = 0.25  # of numbers up to 1, as the bot's own check has it


async def look(context: Context) -> None:
    """The stage."""
    found = {name: _version(name) for name in _LIBRARIES}
    context.tell(python=platform.python_version(), libraries=found)
    context.say(", ".join(f"{name} {version}" for name, version in found.items() if version))
    import torch

    from bot.inference.accelerator import read_accelerator

    accelerator = read_accelerator()
    context.tell(accelerator=asdict(accelerator), allocator=_allocator())
    device = accelerator.device
    context.say(
        f"{device.name}, {device.total_bytes / 1e9:.1f} GB, {device.free_bytes / 1e9:.1f} GB free, driver "
        f"{accelerator.driver}, CUDA {accelerator.torch_cuda}, capability {accelerator.capability}"
    )
    context.check(
        "NF4 there and back is near the numbers",
        accelerator.nf4_error is not None and accelerator.nf4_error < _NF4_ERROR,
        accelerator.nf4_failure or f"largest error {accelerator.nf4_error}",
    )
    if context.cuda:
        _tell_of_gpus(context)
        context.check("the kernels of bitsandbytes are for a GPU", accelerator.library_has_gpu)
    rate = copy_rate("cuda" if context.cuda else "cpu", 2**26 if context.tiny else _COPIED_BYTES)
    context.tell(copy_bytes_per_s=rate, threads=torch.get_num_threads())
    context.say(f"memory is copied at {rate / 1e9:.0f} GB/s, read and written")
    if context.cuda:
        _tell_of_host_copies(context)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _allocator() -> dict[str, str | None]:
    import os

    return {name: os.environ.get(name) for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")}


def _tell_of_gpus(context: Context) -> None:
    """All GPUs, and whether NVML knows the one that PyTorch uses by its uuid: sensors are read by that."""
    import torch

    from bot.inference.device import read_device

    gpus = []
    for number in range(torch.cuda.device_count()):
        one = torch.cuda.get_device_properties(number)
        gpus.append(
            {
                "name": one.name,
                "bytes": one.total_memory,
                "processors": one.multi_processor_count,
                "uuid": str(getattr(one, "uuid", "")),
            }
        )
    context.tell(gpus=gpus, cudnn=torch.backends.cudnn.version(), kernels=torch.cuda.get_arch_list())
    context.tell(attention={name: bool(is_on()) for name, is_on in _attention_switches().items()})
    sensors = read_device().sensors
    context.tell(sensors=asdict(sensors))
    context.check(
        "NVML knows the GPU by the uuid that PyTorch tells",
        sensors.driver is not None,
        f"uuid {gpus[0]['uuid']}, {sensors}",
    )
    context.say(f"{len(gpus)} GPU(s) visible, cuDNN {torch.backends.cudnn.version()}")


def _attention_switches() -> dict[str, Any]:
    import torch

    cuda = torch.backends.cuda
    return {
        "cudnn": cuda.cudnn_sdp_enabled,
        "flash": cuda.flash_sdp_enabled,
        "efficient": cuda.mem_efficient_sdp_enabled,
        "math": cuda.math_sdp_enabled,
    }


def _tell_of_host_copies(context: Context) -> None:
    """How fast the way to the GPU is: with it a load takes at least its bytes by that."""
    import torch

    rates = {}
    for name, pinned in (("pageable", False), ("pinned", True)):
        source = torch.ones(2**28, dtype=torch.uint8, pin_memory=pinned)
        target = torch.empty(2**28, dtype=torch.uint8, device="cuda")
        best_s = float("inf")
        for _ in range(4):
            torch.cuda.synchronize()
            began_s = time.perf_counter()
            target.copy_(source)
            torch.cuda.synchronize()
            best_s = min(best_s, time.perf_counter() - began_s)
        rates[name] = 2**28 / best_s
    context.tell(to_gpu_bytes_per_s=rates)
    context.say("to the GPU: " + ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in rates.items()))
