"""Whether the driver, PyTorch and bitsandbytes fit together, as facts: who judges them is elsewhere."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from bot.errors import SettingsError
from bot.inference import gpu_choice
from bot.inference.device import DeviceReading, gpu, read_device, read_machine
from bot.inference.gpu_choice import Gpu


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What each of them says of itself.

    Attributes:
        device: what models run on.
        torch, bitsandbytes: their versions.
        torch_cuda: the CUDA (or ROCm) that PyTorch was built for; None for a build without.
        driver, driver_cuda: the driver's version, and the newest CUDA it can run; None without a driver.
        gpus: those that the driver sees.
        visible: CUDA_VISIBLE_DEVICES, where the operator has set it.
        capability: of the GPU, as in (9, 0).
        kernels: what PyTorch was compiled for, as in "sm_90".
        library_has_gpu: whether bitsandbytes has loaded a library for a GPU.
        nf4_error: the largest error of a number that was quantized and brought back, of numbers up to 1; None if it
            could not be done.
        nf4_failure: why not.
        refused: why GPU_DEVICE cannot be followed, where it names a GPU that is not there.
    """

    device: DeviceReading
    torch: str
    torch_cuda: str | None
    bitsandbytes: str
    driver: str | None = None
    driver_cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    visible: str | None = None
    capability: tuple[int, int] | None = None
    kernels: tuple[str, ...] = ()
    library_has_gpu: bool = False
    nf4_error: float | None = None
    nf4_failure: str = ""
    refused: str = ""


def read_accelerator() -> Accelerator:
    """Look, and quantize a few numbers for real; imports torch. On a thread that ends with it, as all torch work.

    Raises:
        ImportError: torch or bitsandbytes cannot be imported.
    """
    chosen, refused = None, ""
    try:
        chosen = gpu()  # before bitsandbytes is imported, which asks CUDA
    except SettingsError as error:
        if gpu_choice.choice().chosen is None:  # else it is the other facts that say why it cannot be had
            refused = str(error)
    import bitsandbytes
    import torch
    from bitsandbytes.cextension import lib

    driver, driver_cuda = _driver()
    device = read_machine() if chosen is None else read_device()
    nf4_error, nf4_failure = _nf4_round_trip("cpu" if chosen is None else str(chosen))
    return Accelerator(
        device=device,
        torch=torch.__version__,
        torch_cuda=torch.version.cuda or torch.version.hip,
        bitsandbytes=bitsandbytes.__version__,
        driver=driver,
        driver_cuda=driver_cuda,
        gpus=gpu_choice.choice().gpus,
        visible=gpu_choice.choice().visible,
        capability=None if chosen is None else torch.cuda.get_device_capability(chosen),
        kernels=tuple(torch.cuda.get_arch_list()) if device.is_gpu else (),
        library_has_gpu=bool(getattr(lib, "compiled_with_cuda", False)),
        nf4_error=nf4_error,
        nf4_failure=nf4_failure,
        refused=refused,
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


def _driver() -> tuple[str | None, str | None]:
    """The driver's version and its CUDA, whatever PyTorch says."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, or none with NVML
        return None, None
    try:
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        return str(pynvml.nvmlSystemGetDriverVersion()), f"{cuda // 1000}.{cuda % 1000 // 10}"
    except pynvml.NVMLError:
        return None, None
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
