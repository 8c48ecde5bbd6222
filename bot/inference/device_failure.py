"""A device that has failed for good: every later call to it fails too, and only a new process has another one.

A failed assertion in a kernel, an illegal address, an uncorrectable memory error or a GPU that fell off the bus (Xid in
the kernel's log) leaves a CUDA context in which nothing works any more. PyTorch says so with `AcceleratorError`; its
libraries, and some paths of its own, with a plain `RuntimeError` in CUDA's words.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

from bot.errors import DeviceFailed
from bot.inference.device import is_out_of_memory

_WORDS = re.compile(
    r"""
      CUDA\ (?:driver\ )?error(?!:\ CUBLAS_) | HIP\ error | CUDA_ERROR_ | cudaError
    | (?:CUBLAS|CUDNN)_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)
    | device-side\ assert | illegal\ (?:memory\ access|instruction|address)\ was | unspecified\ launch\ failure
    | uncorrectable\ ECC | misaligned\ address | GPU\ (?:is\ lost|has\ fallen\ off)
    """,
    re.VERBOSE | re.IGNORECASE,
)
# A call that CUDA has refused, or that PyTorch was not built for: the next one works.
_REFUSED = re.compile(
    r"""
      no\ kernel\ image | invalid\ (?:device\ function|configuration\ argument|argument|resource\ handle)
    | too\ many\ resources\ requested | operation\ not\ (?:supported|permitted)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SAID = "The GPU has failed, and the bot must start anew. Please ask again in a minute."


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of, the newest first."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def is_device_failure(error: BaseException) -> bool:
    """Whether this error, or one that it came of, says that the device has failed for another reason than memory."""
    for one in chain_of(error):
        if is_out_of_memory(one) or "out of memory" in str(one):
            return False
        if is_of_device(one) and not _REFUSED.search(str(one)):
            return True
    return False


def is_of_device(error: BaseException) -> bool:
    """Whether this error itself, whatever it came of, is one of the device, and no fault of files."""
    import torch

    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None
    )


class DeviceFailure:
    """Whether the device has failed, and who waits for that: whoever runs the process ends it then.

    To be used on the event loop.
    """

    def __init__(self) -> None:
        self._happened = asyncio.Event()

    @property
    def has_happened(self) -> bool:
        """Whether it has."""
        return self._happened.is_set()

    @property
    def error(self) -> DeviceFailed:
        """What people read who ask from then on."""
        return DeviceFailed(_SAID)

    def happen(self) -> None:
        """It has failed."""
        self._happened.set()

    async def wait(self) -> None:
        """Return when it has."""
        await self._happened.wait()
