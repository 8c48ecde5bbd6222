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
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

from bot.inference import reading_order
from bot.inference.answer import Answer
from bot.inference.attention import is_understood
from bot.inference.device import is_out_of_memory
from bot.inference.engine import Event
from bot.inference.loader import LoadedModel
from bot.inference.manager import batching_manager
from bot.inference.run import DeviceMemoryExhausted, LogitsNotFinite
from bot.inference.sampler import Draw, processors

log = logging.getLogger(__name__)

PAGE_TOKENS = 32
# The most that one step reads: a long prompt is read in such pieces, beside the others' tokens.
STEP_TOKENS = 256
SPARING_STEP_TOKENS = 64  # the same after memory ran out

_ENDED = "the batch has ended"
_END_TIMEOUT_S = 10.0  # a thread that has failed its requests says why when it ends, right after


def is_batchable(model: Any) -> bool:
    """Whether this model can answer several requests together: one whose attention can be replaced by ours, and that
    keeps no other state than a cache of keys and values."""
    is_replaceable = model._supports_attention_backend and not model._is_stateful
    return bool(is_replaceable) and is_understood(model.config.get_text_config())


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
        self._manager = batching_manager(
            model,
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
        self._manager.logit_processor, self._mark_broken = processors(self._draws, loaded.eos_token_ids)
        self._readers = _Readers(self._manager.cancel_request, self._mark_broken)
        self._manager.output_router = self._readers

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
            self._manager.switch_to_cb_friendly_attn(self._loaded.model)
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
        self._readers.end()  # a request that the manager had taken in just then is lost without a word

    def rest(self) -> None:
        """The same, and the model gets its own attention back: somebody else may use it."""
        self.stop()
        self._manager.give_back()

    def close(self) -> None:
        """Let go of the model."""
        self.rest()
        self._manager.batch_processor = None  # and so of the cache
        self._manager.destroy()

    async def generate(self, answer: Answer) -> AsyncGenerator[Event, None]:
        """Go on with an answer to its end. Closing the iterator takes it out of the batch with the next token.

        Raises:
            DeviceMemoryExhausted: there was not the memory; the answer can be taken up by another batch.
            LogitsNotFinite: the model computed what is no number. The others in the batch go on.
        """
        request_id = str(next(self._numbers))
        in_batch = False
        self._draws[request_id] = answer.draw
        outputs = self._readers.add(request_id)
        try:
            self._add(request_id, *answer.take_up())
            in_batch = True
            while answer.finished is None:
                output = await outputs.newest()
                if output is None:
                    raise self._failure(_ENDED)
                in_batch = not output.is_finished()
                if output.error is not None:
                    async with self._ending:  # for one after the other: it lets go of the thread in between
                        await asyncio.to_thread(self._manager.join, time.perf_counter(), _END_TIMEOUT_S)
                    raise self._failure(output.error)
                if (valid := answer.draw.valid_tokens) is not None:
                    for event in answer.grow(output.generated_tokens[:valid], ended=False):
                        yield event
                    raise LogitsNotFinite
                for event in answer.grow(output.generated_tokens, ended=output.is_finished()):
                    yield event
        finally:
            self._readers.remove(request_id)
            self._draws.pop(request_id, None)
            if in_batch and self._manager.is_running():
                self._manager.cancel_request(request_id)

    def _add(self, request_id: str, ids: list[int], limit: int) -> None:
        eos = list(self._loaded.eos_token_ids)
        added = self._manager.add_request(
            ids, request_id=request_id, max_new_tokens=limit, streaming=True, eos_token_id=eos
        )
        # Asked once more: its thread may have failed everybody it knew of just before this one was added.
        if added is None or self._manager.background_thread_status.can_accept_new_requests() is not None:
            raise self._failure(_ENDED)

    def _failure(self, said: str) -> Exception:
        """What a failed request raises: the thread's own reason where it has died."""
        error = self._manager.background_thread_status.fatal_error
        if error is not None and is_out_of_memory(error):
            return DeviceMemoryExhausted()
        return RuntimeError(f"the batch failed: {type(error).__name__ if error else said}")


class _Outputs:
    """What the batch's thread says of one request, on the event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._all: deque[Any] = deque()
        self._arrived = asyncio.Event()

    def put(self, output: Any) -> None:
        """Called on the event loop."""
        self._all.append(output)
        self._arrived.set()

    async def newest(self) -> Any:
        """The newest, which has all tokens so far; a failure, which may have none, only when it is the next.

        None says that the batch has ended, and nothing will come any more.
        """
        while not self._all:
            self._arrived.clear()
            await self._arrived.wait()
        output = self._all.popleft()
        while output is not None and output.error is None and self._all:
            if self._all[0] is None or self._all[0].error is not None:
                break
            output = self._all.popleft()
        return output


class _Readers:
    """Who reads the outputs of which request. Takes the place of transformers' `OutputRouter`.

    The original puts outputs that nobody reads into a queue, for callers that poll. Here nobody polls: what came for a
    stopped request stayed there for as long as the model did. This one drops such outputs.

    Args:
        cancel: takes a request out of the batch.
        check: looks at the outputs of each step before anybody else does, see `processors`.
    """

    def __init__(self, cancel: Callable[[str], None], check: Callable[[list[Any]], object]) -> None:
        self._cancel = cancel
        self._check = check
        self._lock = threading.Lock()
        self._all: dict[str, _Outputs] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, request_id: str) -> _Outputs:
        """Take what comes for a request to the running event loop."""
        outputs = _Outputs()
        with self._lock:
            self._all[request_id] = outputs
        return outputs

    def remove(self, request_id: str) -> None:
        """Nobody reads what still comes for a request."""
        with self._lock:
            self._all.pop(request_id, None)

    def end(self) -> None:
        """Tell everybody who still reads that nothing will come."""
        with self._lock:
            readers = list(self._all.values())
        _put_all([(one, None) for one in readers])

    # What the manager's thread calls:

    def deliver(self, output: Any) -> None:
        """One output."""
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[Any]) -> None:
        """The outputs of one step."""
        self._check(outputs)
        with self._lock:
            found = [(self._all.get(output.request_id), output) for output in outputs]
        _put_all([(reader, output) for reader, output in found if reader is not None])
        for reader, output in found:
            if reader is None and not output.is_finished():
                # It was stopped after this output was made, or it was stopped so early that the manager took in the
                # cancellation before the request, and forgot it.
                self._cancel(output.request_id)

    def fail_and_deliver(self, state: Any, error: Exception) -> None:
        """A request has failed."""
        from transformers.generation.continuous_batching.requests import RequestStatus

        state.status = RequestStatus.FAILED
        state.error = str(error)
        self.deliver(state.to_generation_output())


def _put_all(outputs: list[tuple[_Outputs, Any]]) -> None:
    """Hand outputs over to the event loops of their readers, waking each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Outputs, Any]]] = {}
    for reader, output in outputs:
        by_loop.setdefault(reader.loop, []).append((reader, output))

    def put(given: list[tuple[_Outputs, Any]]) -> None:
        for reader, output in given:
            reader.put(output)

    for loop, given in by_loop.items():
        with suppress(RuntimeError):  # the loop was closed; nobody reads
            loop.call_soon_threadsafe(put, given)
