"""Requests for one model, answered together: a request joins the batch at the next token and leaves it when done.

The batching is transformers' (`ContinuousBatchingManager`: paged cache, shared prefixes, prompts read in pieces); here
are its set-up, the drawing of tokens (`sampler.py`), the order in which prompts are read (`reading_order.py`), and the
way from its thread to the event loop.

All share a cache of one full context. What begins alike is read once: whole pages of 32 tokens stay in the cache when
an answer ends, its own words included, so that a conversation that goes on reads only what is new. They go when less
than 15 % of the cache is free. If it is still short then, the newest lose their memory, and read what they were asked
and had said again when somebody has ended. Layers with a sliding window keep nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

from bot.inference import reading_order
from bot.inference.answer import Answer
from bot.inference.attention import use_rows
from bot.inference.device import is_out_of_memory
from bot.inference.engine import Event
from bot.inference.loader import LoadedModel
from bot.inference.run import DeviceMemoryExhausted
from bot.inference.sampler import Draw, processors

log = logging.getLogger(__name__)

PAGE_TOKENS = 32
# The most that one step reads: a long prompt is read in such pieces, beside the others' tokens.
STEP_TOKENS = 256
SPARING_STEP_TOKENS = 64  # the same after memory ran out

_END_TIMEOUT_S = 10.0  # a thread that has failed its requests says why when it ends, right after


def is_batchable(model_class: type[Any]) -> bool:
    """Whether models of this class can answer several requests together: those whose attention transformers can
    replace, and that keep no other state than a cache of keys and values."""
    return bool(model_class._supports_attention_backend) and not model_class._is_stateful


class Batch:
    """One model's batch, and the thread that it runs on.

    Args:
        loaded: the model.
        requests: how many are answered at a time.
        step_tokens: how many tokens one step reads at most.
    """

    def __init__(self, loaded: LoadedModel, *, requests: int, step_tokens: int = STEP_TOKENS) -> None:
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        self._loaded = loaded
        self._draws: dict[str, Draw] = {}
        self._numbers = itertools.count()
        self._ending = asyncio.Lock()
        model: Any = loaded.model
        reading_order.register()
        self._manager = model.init_continuous_batching(
            GenerationConfig(
                do_sample=False,  # our sampler draws
                eos_token_id=list(loaded.eos_token_ids),
                pad_token_id=loaded.tokenizer.pad_token_id,
            ),
            ContinuousBatchingConfig(
                page_size=PAGE_TOKENS,
                num_blocks=-(-loaded.context_tokens // PAGE_TOKENS) + 1,  # one context, which all share
                max_batch_tokens=step_tokens,
                max_requests_per_batch=requests,
                # The sampler looks at what was drawn in the step before.
                use_async_batching=False,
                use_cuda_graph=False,
                scheduler_type=reading_order.NAME,
            ),
        )
        self._manager.logit_processor = processors(self._draws, loaded.eos_token_ids)
        use_rows()

    @property
    def is_running(self) -> bool:
        """Whether its thread runs and takes requests."""
        return self._manager.is_running() and not self.is_broken

    @property
    def is_broken(self) -> bool:
        """Whether its thread has died of an error."""
        return self._manager.background_thread_status.fatal_error is not None

    def start(self) -> None:
        """Have its thread run."""
        if not self._manager.is_running():
            # Which does nothing unless `rest` gave the model its own attention back.
            self._manager.switch_to_cb_friendly_attn(
                self._loaded.model, self._manager.continuous_batching_config.auto_switch_to_flash
            )
            self._manager.start()

    def stop(self) -> None:
        """End its thread, and so the thread's pool of workers; blocks for about a step. It can be started again."""
        if not self._manager.is_running():
            return
        # Not by the manager's own `stop`: an idle batch would look up after 0.1 s, and all garbage be looked through,
        # while somebody waits for another model.
        status = self._manager.background_thread_status
        status.request_stop(status.HARD_STOP, self._manager.distributed_helper.global_rank)
        self._manager._wake_up_loop.set()
        self._manager.join(time.perf_counter())

    def rest(self) -> None:
        """The same, and the model gets its own attention back: somebody else may use it."""
        self.stop()
        if (own := self._manager._original_attn_impl) is not None:
            self._loaded.model.set_attn_implementation(own)
            self._manager._original_attn_impl = None

    def close(self) -> None:
        """Let go of the model."""
        self.stop()
        self._manager.batch_processor = None  # and so of the cache
        self._manager.destroy()

    async def generate(self, answer: Answer) -> AsyncGenerator[Event, None]:
        """Go on with an answer to its end. Closing the iterator takes it out of the batch with the next token.

        Raises:
            DeviceMemoryExhausted: there was not the memory; the answer can be taken up by another batch.
        """
        request_id = str(next(self._numbers))
        outputs = _Outputs()
        self._draws[request_id] = answer.draw
        self._manager.register_result_handler(request_id, outputs.put)
        try:
            self._add(request_id, *answer.take_up())
            while answer.finished is None:
                output = await outputs.newest()
                if output.error is not None:
                    async with self._ending:  # for one after the other: it lets go of the thread in between
                        await asyncio.to_thread(self._manager.join, time.perf_counter(), _END_TIMEOUT_S)
                    raise self._failure(output.error)
                for event in answer.grow(output.generated_tokens, ended=output.is_finished()):
                    yield event
        finally:
            if answer.finished is None:
                self._manager.cancel_request(request_id)
                with self._manager.output_router._lock:
                    self._manager.output_router.result_handlers.pop(request_id, None)
            self._draws.pop(request_id, None)

    def _add(self, request_id: str, ids: list[int], limit: int) -> None:
        eos = list(self._loaded.eos_token_ids)
        added = self._manager.add_request(
            ids, request_id=request_id, max_new_tokens=limit, streaming=True, eos_token_id=eos
        )
        if added is None:
            raise self._failure("the batch has ended")

    def _failure(self, said: str) -> Exception:
        """What a failed request raises: the thread's own reason where it has died."""
        error = self._manager.background_thread_status.fatal_error
        if error is not None and is_out_of_memory(error):
            return DeviceMemoryExhausted()
        return RuntimeError(f"the batch failed: {type(error).__name__ if error else said}")


class _Outputs:
    """What the batch's thread says of one request, on the event loop."""

    def __init__(self) -> None:
        self._all: deque[Any] = deque()
        self._arrived = asyncio.Event()

    def put(self, output: Any) -> None:
        """Called by the manager."""
        self._all.append(output)
        self._arrived.set()

    async def newest(self) -> Any:
        """The newest, which has all tokens so far; a failure, which may have none, only when it is the next."""
        while not self._all:
            self._arrived.clear()
            await self._arrived.wait()
        output = self._all.popleft()
        while output.error is None and self._all and self._all[0].error is None:
            output = self._all.popleft()
        return output
