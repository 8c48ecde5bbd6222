"""CUDA graphs for decoding: a step in which everybody adds one token is recorded once for each shape, and repeated.

An operator a step is what a GPU waits for: a large model has 1,400 and more of them, each sent by Python. Repeating a
recorded step sends one thing. Nothing of a step may then come from the host but through tensors that stay where they
are: `fixed_step.py` has those of attention, the manager those of the inputs, the sampler its own. A layer of experts
asks the device which of them to compute, so such a model has no graphs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from bot.inference.attention import STEP
from bot.inference.fixed_step import FixedTables, Shape, shape_of
from bot.inference.layout import Request
from bot.inference.run import let_go_of_frames
from bot.inference.sizes import is_on_gpu
from bot.inference.whole_device import recording

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MOST_GRAPHS = 48  # each takes some memory of the device, beside what all of them share

Repeat = Callable[[], object]


class Capture(Protocol):
    """How the steps of one run of a batch's thread are recorded.

    Attributes:
        is_able: whether it is worth another try.
    """

    @property
    def is_able(self) -> bool:
        """See above."""
        ...

    def taken(self, run: Callable[[], None]) -> Repeat | None:
        """Take a step by `run`, which may be called again, and return what takes it once more, with whatever its
        tensors hold then; None if it was not recorded."""
        ...


class CudaCapture:
    """By CUDA. Its graphs share their memory: one is repeated at a time.

    Attributes:
        has_failed: whether CUDA could not record a step. Another try would fail too, and PyTorch does not recover well.
    """

    has_failed: ClassVar[bool] = False

    def __init__(self) -> None:
        self._pool: Any = None

    @property
    def is_able(self) -> bool:
        """See `Capture`."""
        return not CudaCapture.has_failed

    def taken(self, run: Callable[[], None]) -> Repeat | None:
        """See `Capture.taken`."""
        import torch

        run()  # which also has libraries make what they make once: that cannot be recorded
        with recording() as may:
            if not may:
                return None
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(
                    graph,
                    pool=self._pool,
                    stream=torch.cuda.current_stream(),
                    capture_error_mode="thread_local",  # other threads may allocate meanwhile
                ):
                    run()
            except (
                Exception
            ) as error:  # the step has been taken, and the next one tells of a GPU that has failed
                log.warning("CUDA_GRAPHS has no effect: a step could not be recorded", exc_info=error)
                let_go_of_frames(error)
                self._give_up(graph)
                return None
        return graph.replay

    def _give_up(self, graph: Any) -> None:
        """Where the end of a recording fails, PyTorch's allocator goes on as if it were under way: emptying its cache
        would fail from then on, and with it every load."""
        import torch

        CudaCapture.has_failed = True
        _abandoned.append(graph)
        native: Any = torch._C
        with suppress(Exception):  # which had ended after all
            native._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
            native._cuda_releasePool(torch.cuda.current_device(), self._pool)


_abandoned: list[Any] = []  # PyTorch's allocators keep a pointer to them


class DecodeGraphs:
    """The recorded steps of one batch.

    Args:
        capture: records.
        cache: transformers' paged cache.
        requests: how many are in a step at most.
        device: where they are.

    Attributes:
        recorded, repeated: how many steps were.
    """

    def __init__(self, capture: Capture, cache: Any, requests: int, device: torch.device) -> None:
        self._capture = capture
        self._cache = cache
        self._requests = requests
        self._device = device
        self._page_tokens: int = min(one.tokens_per_page for one in cache.cache_allocators.values())
        self._tables: dict[Shape, FixedTables] = {}
        self._all: dict[Hashable, Repeat] = {}
        self.recorded = 0
        self.repeated = 0

    def tables(self, requests: Sequence[Request]) -> FixedTables | None:
        """Where such a step is written down; None for one that is taken as it is."""
        shape = shape_of(requests, self._page_tokens, self._requests) if self._capture.is_able else None
        if shape is None:
            return None
        if shape not in self._tables:
            self._tables[shape] = FixedTables(self._cache, shape, self._device)
        return self._tables[shape]

    def take(self, key: Hashable, run: Callable[[], None]) -> None:
        """Take a step: by `run`, or by repeating one with the same key."""
        if (repeat := self._all.pop(key, None)) is not None:
            self._all[key] = repeat  # the newest stand at the end
            self.repeated += 1
            repeat()
            return
        repeat = self._capture.taken(run)
        if repeat is None:
            return
        while len(self._all) >= MOST_GRAPHS:
            del self._all[next(iter(self._all))]
        self._all[key] = repeat
        self.recorded += 1


def cuda_capture(model: Any) -> type[CudaCapture] | None:
    """What records this model's steps; None where they cannot be, which is said in the log."""
    if not is_on_gpu(model):
        log.warning("CUDA_GRAPHS is on, and there is no GPU: steps are taken one by one")
    elif not can_be_recorded(model):
        log.warning(
            "CUDA_GRAPHS is on, and %s is a model of experts: its steps are taken one by one",
            type(model).__name__,
        )
    elif not CudaCapture.has_failed:
        return CudaCapture
    return None


def can_be_recorded(model: Any) -> bool:
    """Whether nothing in a step of this model waits for what the device has found."""
    return not any(hasattr(module, "experts") for module in model.modules())


@cache
def runner_class() -> type[Any]:
    """What takes the steps of a batch whose inputs have `decoding`."""
    from transformers.generation.continuous_batching.model_runner import ModelRunner
    from transformers.generation.continuous_batching.utils import stream_context

    class Runner(ModelRunner):  # type: ignore[misc, unused-ignore]
        """transformers' own, which repeats recorded steps."""

        def compute_batch(self, model: Any, batch_data: Any) -> None:
            inputs: Any = self.inputs_and_outputs
            sampler: Any = self.logit_processor
            fixed: FixedTables | None = inputs.fixed
            if fixed is None:
                super().compute_batch(model, batch_data)
                return
            if self.supports_logits_to_keep(model):
                batch_data["logits_to_keep"] = batch_data["logits_indices"]

            def run() -> None:
                data = {**batch_data, STEP: fixed.step()}
                self._forward_process_and_sample(model, data, *inputs.get_cb_kwargs())

            with stream_context(inputs.compute_stream):
                inputs.decoding.take((fixed.shape, sampler.step), run)

    return Runner
