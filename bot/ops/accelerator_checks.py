"""Judging whether the driver, PyTorch and bitsandbytes fit together. Pure: a machine with a GPU is not needed."""

from __future__ import annotations

from bot.inference.accelerator import Accelerator
from bot.inference.memory import gigabytes
from bot.inference.precision import BFLOAT16_CAPABILITY
from bot.ops.findings import Verdict

# What bitsandbytes has 4-bit kernels for; and what CUDA 13, for which PyTorch is built by default, compiles for.
_LEAST_CAPABILITY = (6, 0)
_LEAST_CAPABILITY_CUDA_13 = (7, 5)
_GREATEST_ERROR = 0.25  # of numbers up to 1: NF4's widest gap is 0.3, so that half of it is right


def gpu_verdict(found: Accelerator) -> tuple[Verdict, str]:
    """Whether models run on the GPU that is there."""
    device = found.device
    if device.is_gpu:
        capability = ".".join(map(str, found.capability or ()))
        free, total = gigabytes(device.free_bytes), gigabytes(device.total_bytes)
        text = f"{device.name}, {free} of {total} free, compute capability {capability}"
        if found.driver:
            text += f", driver {found.driver} for CUDA up to {found.driver_cuda}"
        if len(found.gpus) > 1:
            others = ", ".join(
                f"{one.number} ({one.name}, {gigabytes(one.free_bytes)} free)" for one in found.gpus
            )
            text += f"; the driver sees {others}, and the bot uses one: GPU_DEVICE says which"
        least = _LEAST_CAPABILITY_CUDA_13 if _version(found.torch_cuda) >= (13,) else _LEAST_CAPABILITY
        if found.capability is not None and found.capability < least:
            return Verdict.FAILED, (
                f"{text}: too old, the least is {least[0]}.{least[1]} with CUDA {found.torch_cuda}: use another GPU"
            )
        if found.capability is not None and found.capability < BFLOAT16_CAPABILITY:
            return Verdict.WARNING, (
                f"{text}: it has no bfloat16, so models compute in float16, and those whose numbers are too large for "
                "that (Gemma, gpt-oss) in float32, which takes more memory"
            )
        return Verdict.OK, text
    if found.refused:
        return Verdict.FAILED, found.refused
    if not found.gpus:
        return Verdict.OK, "no GPU: models run on the CPU, which suits smol only"
    there = f"the driver {found.driver} sees {len(found.gpus)} GPU(s), and PyTorch none"
    if found.visible is not None:
        return Verdict.FAILED, f"{there}: CUDA_VISIBLE_DEVICES is '{found.visible}': unset it"
    if found.torch_cuda is None:
        return Verdict.FAILED, (
            f"{there}: PyTorch {found.torch} was built without CUDA: install a build for CUDA {found.driver_cuda} or "
            "older, https://pytorch.org/get-started/locally"
        )
    if _version(found.torch_cuda) > _version(found.driver_cuda):
        return Verdict.FAILED, (
            f"{there}: PyTorch was built for CUDA {found.torch_cuda}, and the driver runs up to {found.driver_cuda}: "
            f"update the driver, or install a PyTorch for CUDA {found.driver_cuda} or older"
        )
    return Verdict.FAILED, (
        f"{there}: see whether `nvidia-smi` works for this user, who needs the rights of /dev/nvidia*; in a container, "
        "whether it was started with its GPUs"
    )


def quantization_verdict(found: Accelerator) -> tuple[Verdict, str]:
    """Whether bitsandbytes quantizes on the device that models run on, and right."""
    versions = f"torch {found.torch}, bitsandbytes {found.bitsandbytes}"
    versions += f", CUDA {found.torch_cuda}" if found.device.is_gpu else ", on the CPU: no CUDA is used"
    if found.device.is_gpu and not found.library_has_gpu:
        return Verdict.FAILED, (
            f"bitsandbytes has no library for CUDA {found.torch_cuda} ({versions}): install a newer bitsandbytes, or a "
            "PyTorch for a CUDA it knows; `python -m bitsandbytes` lists them"
        )
    if found.nf4_error is None:
        return Verdict.FAILED, (
            f"nothing can be quantized ({found.nf4_failure}; {versions}): install the versions in constraints.txt"
        )
    if not found.nf4_error < _GREATEST_ERROR:  # not a number counts as wrong too
        return Verdict.FAILED, (
            f"numbers come back wrong from NF4, by {found.nf4_error:.2f} ({versions}): install the versions in "
            "constraints.txt"
        )
    text = f"NF4 works ({versions})"
    kernels = {name.rpartition("_")[2] for name in found.kernels if name.startswith("sm_")}
    if found.capability is not None and kernels and not _runs_on(found.capability, kernels):
        return Verdict.WARNING, (
            f"{text}, but PyTorch has no kernels for compute capability {'.'.join(map(str, found.capability))}, only "
            f"for {', '.join(found.kernels)}: install a build that has them"
        )
    return Verdict.OK, text


def _runs_on(capability: tuple[int, int], kernels: set[str]) -> bool:
    """Whether one of these was compiled for this GPU: the same major version, and no newer minor one."""
    major, minor = capability
    digits = (name.rstrip("af") for name in kernels)
    return any(int(name[:-1]) == major and int(name[-1]) <= minor for name in digits if name.isdigit())


def _version(text: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (text or "0").split(".")[:2] if part.isdigit())
