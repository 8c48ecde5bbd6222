"""Requests for one model, answered together: a request joins the batch at the next token and leaves it when done.

The batching is transformers' (`ContinuousBatchingManager`: paged cache, shared prefixes, prompts read in pieces); here
are its set-up, the drawing of tokens (`sampler.py`), the order in which prompts are read (`reading_order.py`), and the
way from its thread to the event loop.

All share a cache, of one full context at least (`sizes.py`). What begins alike is read once: whole pages of 32 tokens
stay in the cache when an answer ends, its own words included, so that a conversation that goes on reads only what is
new. They go when less than 15 % of the cache is free. If it is still short then, the newest lose their memory, and read
what they were asked and had said again when somebody has ended. Layers with a sliding window keep nothing.
"""

from __future__ import annotations

import asyncio
import functools
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
from bot.inference.device_failure import is_device_failure
from bot.inference.engine import Event
from bot.inference.loader import LoadedModel
from bot.inference.manager import batching_manager
from bot.inference.own_stream import keep_to_one_stream, wait_for_loads, wait_for_steps
from bot.inference.run import DeviceHasFailed, DeviceMemoryExhausted, LogitsNotFinite, let_go_of_frames
from bot.inference.sampler import Draw, sampler_of
from bot.inference.sizes import PAGE_TOKENS, step_tokens_of

log = logging.getLogger(__name__)

_ENDED = "the batch has ended"
_END_TIMEOUT_S = 10.0  # a thread that fails its requests says why right after, and ends


class MadeWay(Exception):
    """A batch has made way for another one of the same model, where its answers can be taken up. Never reaches a
    person."""


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
        step_tokens: how many tokens one step reads at most; None for what suits the device.
        cache_tokens: how many the cache holds that all share; None for one context.

    Attributes:
        cache_tokens: as above.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        requests: int,
        step_tokens: int | None = None,
        cache_tokens: int | None = None,
    ) -> None:
        from transformers import GenerationConfig
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        self.cache_tokens = cache_tokens or loaded.context_tokens
        self._loaded = loaded
        self._has_made_way = False
        self._draws: dict[str, Draw] = {}
        self._numbers = itertools.count()
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
                num_blocks=-(-self.cache_tokens // PAGE_TOKENS) + 1,
                max_batch_tokens=step_tokens or step_tokens_of(model),
                max_requests_per_batch=requests,
                # The sampler looks at what was drawn in the step before.
                use_async_batching=False,
                use_cuda_graph=False,
                scheduler_type=reading_order.NAME,
            ),
        )
        self._sampler = sampler_of(
            self._draws,
            loaded.eos_token_ids,
            requests=requests,
            context_tokens=loaded.context_tokens,
            vocabulary=int(model.get_output_embeddings().weight.shape[0]),
            device=model.device,
        )
        self._manager.logit_processor = self._sampler
        self._readers = _Readers(self._manager.cancel_request, self._sampler.check)
        self._manager.output_router = self._readers
        self._manager._create_batch_processor = self._with_our_drawing(self._manager._create_batch_processor)
        keep_to_one_stream(self._manager)
        self._manager._run_generation_loop = self._with_an_end_for_all(self._manager._run_generation_loop)

    @property
    def is_running(self) -> bool:
        """Whether its thread runs and takes requests."""
        return self._manager.is_running() and not self.is_broken

    @property
    def is_broken(self) -> bool:
        """Whether its thread has died of an error."""
        return self._manager.background_thread_status.fatal_error is not None

    @property
    def has_run_out(self) -> bool:
        """Whether that was for lack of memory."""
        error = self._manager.background_thread_status.fatal_error
        return error is not None and is_out_of_memory(error)

    @property
    def is_used(self) -> bool:
        """Whether there are answers that it has not ended."""
        return len(self._readers) > 0

    def start(self) -> None:
        """Have its thread run."""
        if not self._manager.is_running():
            # Which does nothing unless `rest` gave the model its own attention back.
            self._manager.switch_to_cb_friendly_attn(self._loaded.model)
            wait_for_loads(self._manager.model.device)
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

    def make_way(self) -> None:
        """The same, for another batch of this model: whoever is being answered is to be taken up there."""
        self._has_made_way = True
        self.stop()

    def close(self) -> None:
        """Let go of the model, and of the cache at once: when this returns, nothing refers to it."""
        self.rest()
        wait_for_steps(self._manager.model.device)
        if (error := self._manager.background_thread_status.fatal_error) is not None:
            let_go_of_frames(error)  # the manager keeps it, it keeps the step's frames, and they the cache
        self._manager.batch_processor = None  # and so of the cache
        self._manager.destroy()

    async def generate(self, answer: Answer) -> AsyncGenerator[Event, None]:
        """Go on with an answer to its end. Closing the iterator takes it out of the batch with the next token.

        Raises:
            DeviceMemoryExhausted: there was not the memory; the answer can be taken up by another batch.
            MadeWay: there is another batch, or soon will be; the answer can be taken up there.
            DeviceHasFailed: nothing can be computed any more.
            LogitsNotFinite: the model computed what is no number. The others in the batch go on.
        """
        request_id = str(next(self._numbers))
        in_batch = False
        self._draws[request_id] = answer.draw
        outputs = self._readers.add(request_id)
        try:
            if not self._add(request_id, *answer.take_up()):
                raise await self._failure(None)
            in_batch = True
            while answer.finished is None:
                output = await outputs.newest()
                if output is None:
                    raise await self._failure(_ENDED)
                in_batch = not output.is_finished()
                if output.error is not None:
                    raise await self._failure(output.error)
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

    def _with_an_end_for_all(self, run: Callable[[], None]) -> Callable[[], None]:
        """Nobody waits for a thread that is gone: where failing them fails too, as on a device that has failed, it ends
        without a word."""

        @functools.wraps(run)
        def run_to_the_end() -> None:
            try:
                run()
            except BaseException as error:
                log.exception("the batch's thread could not tell of an error")
                self._manager.background_thread_status.record_fatal_error(error)
            finally:
                self._readers.end()

        return run_to_the_end

    def _with_our_drawing(self, create: Callable[[], Any]) -> Callable[[], Any]:
        def made() -> Any:
            processor = create()
            processor.model_runner._sample = self._sampler.write
            return processor

        return made

    def _add(self, request_id: str, ids: list[int], limit: int) -> bool:
        """Whether it was taken in."""
        eos = list(self._loaded.eos_token_ids)
        added = self._manager.add_request(
            ids, request_id=request_id, max_new_tokens=limit, streaming=True, eos_token_id=eos
        )
        # Asked once more: its thread may have failed everybody it knew of just before this one was added.
        return added is not None and self._manager.background_thread_status.can_accept_new_requests() is None

    async def _failure(self, said: str | None) -> Exception:
        """What a failed request raises: the thread's own reason where it has died. It takes nobody in, and fails those
        it has, before it says why.

        Args:
            said: why the request failed; None for one that was not taken in, which loses nothing in another batch.
        """
        # Not by the manager's own `join`, which lets go of the thread while others still look at it.
        if (thread := self._manager._generation_thread) is not None:
            await asyncio.to_thread(thread.join, _END_TIMEOUT_S)
        if self.has_run_out:
            return DeviceMemoryExhausted()
        error = self._manager.background_thread_status.fatal_error
        if error is not None and is_device_failure(error):
            return DeviceHasFailed()
        if error is None and (self._has_made_way or said is None):
            return MadeWay()
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
        check: looks at the outputs of each step before anybody else does, see `Sampler.check`.
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
