"""One CUDA stream for all that a batch's thread does on the GPU, in order with what the loader does on the default one.

transformers' batching copies a step's inputs on the current stream and computes on another, which waits for nothing:
with a load queued on the default stream, a late copy would let a step read wrong pages. Here both are one stream, so
each operation sees what was queued before it. All batches share it, for one runs at a time: PyTorch keeps the memory
that is freed, and cuBLAS its workspace, for each stream apart. On the CPU there are no streams, and nothing happens.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from functools import cache
from typing import Any

from bot.inference.whole_device import whole_device


def keep_to_one_stream(manager: Any) -> None:
    """Have a batching manager's thread do everything on the batches' stream of its model's device."""
    device = manager.model.device
    if device.type != "cuda":
        return
    run, create = manager._run_generation_loop, manager._create_batch_processor

    @functools.wraps(run)
    def on_the_stream() -> None:
        import torch

        with torch.cuda.device(device), torch.cuda.stream(_stream(device)):
            run()

    @functools.wraps(create)
    def with_the_stream() -> Any:
        processor = create()
        processor.inputs_and_outputs.compute_stream = _stream(device)
        processor.offloading_manager._compute_stream = _stream(device)
        return processor

    manager._run_generation_loop = on_the_stream
    manager._create_batch_processor = with_the_stream


def wait_for_loads(device: Any) -> None:
    """Return when everything that loads have queued is done: a batch does not wait for the default stream by itself."""
    if device.type == "cuda":
        import torch

        torch.cuda.default_stream(device).synchronize()


def wait_for_steps(device: Any) -> None:
    """Return when the batches' stream has nothing to do: a step that failed may have left kernels that still read what
    is about to be freed, and the default stream would write there without waiting."""
    if device.type == "cuda":
        # Another model's steps are on it too, and may be recorded; a device that has failed computes nothing any more.
        with whole_device(), suppress(RuntimeError):
            _stream(device).synchronize()


@cache
def _stream(device: Any) -> Any:
    import torch

    return torch.cuda.Stream(device)
