"""Driver, PyTorch and bitsandbytes: what is said of every way in which they do not fit together."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bot.inference.accelerator import Accelerator, read_accelerator
from bot.inference.device import DeviceReading
from bot.inference.gpu_choice import Gpu
from bot.ops.accelerator_checks import gpu_verdict, quantization_verdict
from bot.ops.findings import Verdict

L4 = Gpu(0, "GPU-0b8ba6ee-1b9c-6a73-1e7f-d2b3a1f0c001", "NVIDIA A GPU", 24 * 10**9, 20 * 10**9)
GPU = Accelerator(
    device=DeviceReading("NVIDIA A GPU", True, 24 * 10**9, 20 * 10**9, 0),
    torch="2.13.0",
    torch_cuda="13.0",
    bitsandbytes="0.50.2",
    driver="580.95.05",
    driver_cuda="13.0",
    gpus=(L4,),
    capability=(8, 9),
    kernels=("sm_80", "sm_86", "sm_90", "sm_120"),
    library_has_gpu=True,
    nf4_error=0.14,
)
CPU = replace(
    GPU,
    device=DeviceReading("CPU", False, 10**10, 10**10, 0),
    torch="2.13.0+cpu",
    torch_cuda=None,
    driver=None,
    driver_cuda=None,
    gpus=(),
    capability=None,
    kernels=(),
    library_has_gpu=False,
)


def test_a_gpu_that_fits_is_ok_with_its_numbers() -> None:
    verdict, text = gpu_verdict(GPU)
    assert verdict is Verdict.OK
    assert text == (
        "NVIDIA A GPU, 20 GB of 24 GB free, compute capability 8.9, driver 580.95.05 for CUDA up to 13.0"
    )
    assert quantization_verdict(GPU) == (
        Verdict.OK,
        "NF4 works (torch 2.13.0, bitsandbytes 0.50.2, CUDA 13.0)",
    )


def test_a_machine_without_a_gpu_says_so() -> None:
    assert gpu_verdict(CPU) == (Verdict.OK, "no GPU: models run on the CPU, which suits smol only")
    verdict, text = quantization_verdict(CPU)
    assert verdict is Verdict.OK
    assert "on the CPU: no CUDA is used" in text


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({}, "was built without CUDA: install a build for CUDA 13.0 or older"),
        (
            {"torch_cuda": "13.2"},
            "built for CUDA 13.2, and the driver runs up to 13.0: update the driver",
        ),
        ({"torch_cuda": "12.8"}, "see whether `nvidia-smi` works for this user"),
        ({"torch_cuda": "12.8", "visible": ""}, "CUDA_VISIBLE_DEVICES is '': unset it"),
    ],
    ids=["cpu-build", "old-driver", "rights", "hidden"],
)
def test_a_gpu_that_the_driver_sees_and_pytorch_does_not_fails_with_the_reason(
    found: dict[str, object], says: str
) -> None:
    hidden = replace(CPU, driver="580.95.05", driver_cuda="13.0", gpus=(L4,), **found)  # type: ignore[arg-type]
    verdict, text = gpu_verdict(hidden)
    assert verdict is Verdict.FAILED
    assert text.startswith("the driver 580.95.05 sees 1 GPU(s), and PyTorch none: ")
    assert says in text


@pytest.mark.parametrize(
    ("capability", "verdict"),
    [((7, 0), Verdict.FAILED), ((7, 5), Verdict.WARNING), ((8, 0), Verdict.OK), ((12, 0), Verdict.OK)],
)
def test_an_old_gpu_is_told_what_it_cannot_do(capability: tuple[int, int], verdict: Verdict) -> None:
    assert gpu_verdict(replace(GPU, capability=capability))[0] is verdict


def test_the_least_gpu_is_that_of_the_cuda_that_pytorch_was_built_for() -> None:
    verdict, text = gpu_verdict(replace(GPU, capability=(7, 0)))
    assert "too old, the least is 7.5 with CUDA 13.0: use another GPU" in text
    assert gpu_verdict(replace(GPU, capability=(7, 0), torch_cuda="12.6"))[0] is Verdict.WARNING
    verdict, text = gpu_verdict(replace(GPU, capability=(5, 2), torch_cuda="12.6"))
    assert verdict is Verdict.FAILED
    assert "the least is 6.0" in text


def test_a_gpu_without_bfloat16_is_told_what_models_compute_with() -> None:
    _, text = gpu_verdict(replace(GPU, capability=(7, 5)))
    assert "it has no bfloat16, so models compute in float16, and those" in text


def test_of_several_gpus_it_is_said_which_there_are_and_which_is_used() -> None:
    used = replace(GPU.device, name="NVIDIA A GPU (GPU 0 of 2)")
    other = replace(L4, number=1, name="NVIDIA B GPU", free_bytes=3 * 10**9)
    verdict, text = gpu_verdict(replace(GPU, device=used, gpus=(L4, other)))
    assert verdict is Verdict.OK
    assert text.startswith("NVIDIA A GPU (GPU 0 of 2), 20 GB of 24 GB free")
    assert text.endswith(
        "; the driver sees 0 (NVIDIA A GPU, 20 GB free), 1 (NVIDIA B GPU, 3.0 GB free), and the bot uses one: "
        "GPU_DEVICE says which"
    )


def test_a_gpu_device_that_is_not_there_fails_with_the_ones_that_are() -> None:
    refused = replace(
        CPU, gpus=(L4,), refused="GPU_DEVICE names no GPU of this machine, which has 0 (NVIDIA A GPU)"
    )
    assert gpu_verdict(refused) == (Verdict.FAILED, refused.refused)


def test_a_bitsandbytes_without_a_library_for_this_cuda_fails() -> None:
    verdict, text = quantization_verdict(
        replace(GPU, library_has_gpu=False, nf4_error=None, torch_cuda="14.0")
    )
    assert verdict is Verdict.FAILED
    assert text.startswith("bitsandbytes has no library for CUDA 14.0")


def test_a_quantization_that_raises_fails_with_what_it_said() -> None:
    broken = replace(GPU, nf4_error=None, nf4_failure="RuntimeError: no kernel image is available")
    verdict, text = quantization_verdict(broken)
    assert verdict is Verdict.FAILED
    assert "no kernel image is available" in text
    assert "constraints.txt" in text


@pytest.mark.parametrize("error", [0.3, 1.9, math.inf, math.nan])
def test_numbers_that_come_back_wrong_fail(error: float) -> None:
    assert quantization_verdict(replace(GPU, nf4_error=error))[0] is Verdict.FAILED


@pytest.mark.parametrize(
    ("capability", "kernels", "verdict"),
    [
        ((8, 9), ("sm_80", "sm_90"), Verdict.OK),  # 8.0's run on 8.9
        ((8, 0), ("sm_86", "sm_90"), Verdict.WARNING),
        ((7, 5), ("sm_80", "sm_90"), Verdict.WARNING),
        ((9, 0), ("sm_80", "sm_90a"), Verdict.OK),
        ((12, 1), ("sm_90", "sm_120"), Verdict.OK),
        ((12, 0), ("sm_80", "sm_90", "compute_90"), Verdict.WARNING),
        ((8, 9), (), Verdict.OK),  # not known
    ],
)
def test_a_pytorch_that_was_not_compiled_for_this_gpu_is_a_warning(
    capability: tuple[int, int], kernels: tuple[str, ...], verdict: Verdict
) -> None:
    assert quantization_verdict(replace(GPU, capability=capability, kernels=kernels))[0] is verdict


def test_this_machines_own_libraries_are_read_and_quantize() -> None:
    found = read_accelerator()
    assert found.nf4_failure == ""
    assert quantization_verdict(found)[0] is Verdict.OK
    assert found.torch in quantization_verdict(found)[1]
