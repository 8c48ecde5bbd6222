"""Which model's batch runs: one at a time.

On the CPU each thread that enters OpenMP owns a pool of workers, and two pools halve each other's speed for as long as
both threads live. So a batch has a thread for as long as its model is the one that answers; before another model's
batch begins, that thread ends. On a GPU it does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

from bot.inference.answer import Answer
from bot.inference.batch import SPARING_STEP_TOKENS, Batch, is_batchable
from bot.inference.device import free_memory
from bot.inference.engine import Event, GenerationRequest
from bot.inference.loader import LoadedModel
from bot.inference.run import DeviceMemoryExhausted, Run
from bot.inference.threads import Emit, OneShotThread, in_own_thread, in_thread

log = logging.getLogger(__name__)

CHANGE_TIMEOUT_S = 60.0  # a thread ends within a step, and a cache is made within seconds


class Batches:
    """The batches of the models in memory.

    Args:
        requests: how many are answered at a time.
        make_room: unloads what nobody uses.
    """

    def __init__(self, *, requests: int, make_room: Callable[[], Awaitable[None]]) -> None:
        self._make_room = make_room
        self._requests = requests
        self._all: dict[LoadedModel, Batch] = {}
        self._changing = asyncio.Lock()
        self._threads = threading.Lock()  # batches are begun, ended and let go of on different threads
        self._alone = asyncio.Lock()  # for models that cannot be batched

    async def generate(self, loaded: LoadedModel, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Answer, beside others if the model can do that, else when they are done. Where memory runs out, the answer is
        taken up once more after its last token, with what is idle unloaded and prompts read in smaller pieces.

        Raises:
            DeviceMemoryExhausted: there was not the memory.
            PromptTooLong: the messages leave no room for an answer.
        """
        request = replace(request, params=request.params.with_defaults(loaded.sampling).seeded())
        if is_batchable(loaded.model):
            answer = await _begun(loaded, request)
            yield answer.reading
            for last in (False, True):
                batch = await self._running(loaded)
                try:
                    async with aclosing(batch.generate(answer)) as events:
                        async for event in events:
                            yield event
                    return
                except DeviceMemoryExhausted:
                    if last:
                        raise
                    log.warning("%s ran out of memory: unloading what is idle", request.model.alias)
                await self._make_room()
            return

        def work(emit: Emit[Event], stopped: threading.Event) -> None:
            run = Run(loaded, request, stopped)
            try:
                run.run(emit, stopped)
            except DeviceMemoryExhausted:
                free_memory()
                run.run(emit, stopped, sparing=True)

        async with self._alone, aclosing(in_thread(OneShotThread("inference"), work)) as events:
            async for event in events:
                yield event

    def close(self, loaded: LoadedModel) -> None:
        """The model is about to go; blocks until its thread has ended."""
        with self._threads:
            if (batch := self._all.pop(loaded, None)) is not None:
                batch.close()

    async def rest(self) -> None:
        """End the threads; they begin anew with the next request. For whoever else needs the processor undisturbed."""

        def stop() -> None:
            with self._threads:
                for batch in self._all.values():
                    batch.rest()

        async with self._changing:
            await in_own_thread(stop, timeout_s=CHANGE_TIMEOUT_S)

    async def aclose(self) -> None:
        """End all threads, and let go of the models."""

        def close() -> None:
            for one in list(self._all):
                self.close(one)

        await in_own_thread(close, timeout_s=CHANGE_TIMEOUT_S)

    async def _running(self, loaded: LoadedModel) -> Batch:
        """The model's batch, its thread running and no other's."""
        async with self._changing:
            batch = self._all.get(loaded)
            if batch is not None and batch.is_running:
                return batch

            def change() -> Batch:
                with self._threads:
                    for other in self._all.values():
                        other.stop()
                    if (found := self._all.pop(loaded, None)) is None:
                        found = Batch(loaded, requests=self._requests)
                    elif found.is_broken:
                        found.close()
                        found = Batch(loaded, requests=self._requests, step_tokens=SPARING_STEP_TOKENS)
                    self._all[loaded] = found
                    found.start()
                    return found

            return await in_own_thread(change, timeout_s=CHANGE_TIMEOUT_S)


async def _begun(loaded: LoadedModel, request: GenerationRequest) -> Answer:
    """An answer that can be taken up: its prompt is encoded, on a thread that ends with that. Cancelling stops it.

    Raises:
        PromptTooLong: the messages leave no room for an answer.
    """

    def work(emit: Emit[Answer], stopped: threading.Event) -> None:
        emit(Answer(loaded, request, stopped))

    async with aclosing(in_thread(OneShotThread("prompt"), work)) as found:
        return await anext(found)
