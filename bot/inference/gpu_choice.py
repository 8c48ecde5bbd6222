"""Which GPU models run on, where a machine has several: one, for the whole process.

The weights and the cache of a model are on one device, and every reading is of that device. So it is chosen before
CUDA is asked anything, and from then on CUDA sees no other: no thread and no library can use memory of another GPU by
mistake. What there is to choose from is asked of NVML: CUDA takes half a gigabyte on each GPU that it is asked about.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from bot.errors import SettingsError

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_ORDER = "CUDA_DEVICE_ORDER"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver tells of it.

    Attributes:
        number: as `nvidia-smi` counts.
        is_split: into instances (MIG), of which CUDA uses one whatever is chosen here.
    """

    number: int
    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    is_split: bool = False


def gpus_of_driver() -> tuple[Gpu, ...]:
    """All GPUs of this machine, in the order of their numbers; none without a driver, or one without NVML."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, or none with NVML
        return ()
    try:
        return tuple(_gpu(number) for number in range(int(pynvml.nvmlDeviceGetCount())))
    except pynvml.NVMLError:
        return ()
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _gpu(number: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    is_split = False
    with suppress(pynvml.NVMLError):  # most GPUs cannot be split
        is_split = bool(pynvml.nvmlDeviceGetMigMode(handle)[0])
    name, uuid = str(pynvml.nvmlDeviceGetName(handle)), str(pynvml.nvmlDeviceGetUUID(handle))
    return Gpu(number, uuid, name, int(memory.total), int(memory.free), is_split)


class GpuChoice:
    """What the operator wants, and what came of it; one for a process.

    Attributes:
        wanted: GPU_DEVICE: a number of `nvidia-smi`'s, or a UUID; None for the GPU with most free memory.
        visible: what CUDA_VISIBLE_DEVICES was before the choice; None where it was not set.
        gpus: all that the driver told of.
        chosen: one of them, once that is settled.
    """

    def __init__(self, wanted: str | None = None) -> None:
        self.wanted = wanted
        self.visible = os.environ.get(_VISIBLE)
        self.gpus: tuple[Gpu, ...] = ()
        self.chosen: Gpu | None = None
        self._settled = False
        self._lock = threading.Lock()

    def settle(self) -> Gpu | None:
        """The GPU, chosen by the first call; None where the driver tells of none.

        Raises:
            SettingsError: GPU_DEVICE names one that is not there, or that CUDA may not see.
        """
        with self._lock:
            if not self._settled:
                self.gpus = gpus_of_driver()
                allowed = _visible(self.gpus, self.visible)
                self.chosen = self._found(allowed)
                if self.chosen is not None and len(allowed) > 1 and not self.chosen.is_split:
                    os.environ[_ORDER] = "PCI_BUS_ID"
                    os.environ[_VISIBLE] = self.chosen.uuid
                self._settled = True
            return self.chosen

    def _found(self, allowed: Sequence[Gpu]) -> Gpu | None:
        if self.wanted is None or not self.gpus:
            return max(allowed, key=lambda gpu: gpu.free_bytes, default=None)
        found = [gpu for gpu in self.gpus if _is(gpu, self.wanted)]
        if len(found) != 1:
            raise SettingsError(
                f"GPU_DEVICE names no GPU of this machine, which has {listed(self.gpus)}: write one of these numbers, "
                "or a UUID that `nvidia-smi -L` shows, or leave it out for the one with most free memory."
            )
        if found[0] not in allowed:
            raise SettingsError(
                f"GPU_DEVICE names GPU {found[0].number}, which {_VISIBLE} hides from the bot: unset {_VISIBLE}, or "
                "leave GPU_DEVICE out."
            )
        return found[0]


def listed(gpus: Sequence[Gpu]) -> str:
    """GPUs for people: "0 (NVIDIA L4), 1 (NVIDIA L4)"."""
    return ", ".join(f"{gpu.number} ({gpu.name})" for gpu in gpus)


def _is(gpu: Gpu, named: str) -> bool:
    """Whether a number or the beginning of a UUID names this one."""
    return int(named) == gpu.number if named.isdecimal() else gpu.uuid.lower().startswith(named.lower())


def _visible(gpus: Sequence[Gpu], variable: str | None) -> list[Gpu]:
    """Those of a CUDA_VISIBLE_DEVICES. As CUDA does, it stops at the first entry that names none."""
    if variable is None:
        return list(gpus)
    found: list[Gpu] = []
    for entry in map(str.strip, variable.split(",")):
        named = [gpu for gpu in gpus if entry and _is(gpu, entry)]
        if len(named) != 1:
            break
        found.extend(named)
    return found


# Set by whoever reads the settings, before anything asks CUDA.
_choice = GpuChoice()


def choose_gpu(wanted: str | None) -> None:
    """Say what the operator wants. Counts for nothing once CUDA has been asked."""
    global _choice
    _choice = GpuChoice(wanted)


def choice() -> GpuChoice:
    """What was said, and what came of it."""
    return _choice
