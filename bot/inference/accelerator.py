"""Whether the driver, PyTorch and bitsandbytes fit together, as facts: who judges them is elsewhere."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from bot.inference.device import DeviceReading, read_device


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What each of them says of itself.

    Attributes:
        device: what models run on.
        torch, bitsandbytes: their versions.
        torch_cuda: the CUDA (or ROCm) that PyTorch was built for; None for a build without.
        driver, driver_cuda: the driver's version, and the newest CUDA it can run; None without a driver.
        driver_gpus: how many GPUs the driver sees.
        visible: CUDA_VISIBLE_DEVICES, where it is set.
        capability: of the GPU, as in (9, 0).
        kernels: what PyTorch was compiled for, as in "sm_90".
        library_has_gpu: whether bitsandbytes has loaded a library for a GPU.
        nf4_error: the largest error of a number that was quantized and brought back, of numbers up to 1; None if it
            could not be done.
        nf4_failure: why not.
    """

    device: DeviceReading
    torch: str
    torch_cuda: str | None
    bitsandbytes: str
    driver: str | None = None
    driver_cuda: str | None = None
    driver_gpus: int = 0
    visible: str | None = None
    capability: tuple[int, int] | None = None
    kernels: tuple[str, ...] = ()
    library_has_gpu: bool = False
    nf4_error: float | None = None
    nf4_failure: str = ""


def read_accelerator() -> Accelerator:
    """Look, and quantize a few numbers for real; imports torch. On a thread that ends with it, as all torch work.

    Raises:
        ImportError: torch or bitsandbytes cannot be imported.
    """
    import bitsandbytes
    import torch
    from bitsandbytes.cextension import lib

    driver, driver_cuda, driver_gpus = _driver()
    device = read_device()
    nf4_error, nf4_failure = _nf4_round_trip("cuda" if device.is_gpu else "cpu")
    return Accelerator(
        device=device,
        torch=torch.__version__,
        torch_cuda=torch.version.cuda or torch.version.hip,
        bitsandbytes=bitsandbytes.__version__,
        driver=driver,
        driver_cuda=driver_cuda,
        driver_gpus=driver_gpus,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        capability=torch.cuda.get_device_capability() if device.is_gpu else None,
        kernels=tuple(torch.cuda.get_arch_list()) if device.is_gpu else (),
        library_has_gpu=bool(getattr(lib, "compiled_with_cuda", False)),
        nf4_error=nf4_error,
        nf4_failure=nf4_failure,
    )


def _nf4_round_trip(device: str) -> tuple[float | None, str]:
    """Quantize as models are, and bring back."""
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    try:
        numbers = torch.sin(torch.arange(64.0 * 64, device=device)).reshape(64, 64).to(torch.bfloat16)
        packed, state = quantize_4bit(numbers, quant_type="nf4", compress_statistics=True)
        back = dequantize_4bit(packed, state)
        return float((back.float() - numbers.float()).abs().max()), ""
    except Exception as error:  # whatever a mismatch of native libraries raises
        return None, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def _driver() -> tuple[str | None, str | None, int]:
    """The driver's version, its CUDA, and how many GPUs it sees, whatever PyTorch says."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, or none with NVML
        return None, None, 0
    try:
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        gpus = int(pynvml.nvmlDeviceGetCount())
        return str(pynvml.nvmlSystemGetDriverVersion()), f"{cuda // 1000}.{cuda % 1000 // 10}", gpus
    except pynvml.NVMLError:
        return None, None, 0
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
