"""Which model's batch runs: one at a time.

On the CPU each thread that enters OpenMP owns a pool of workers, and two pools halve each other's speed for as long as
both threads live. So a batch has a thread for as long as its model is the one that answers; before another model's
batch begins, that thread ends. On a GPU it does no harm.

Where memory runs out, the batch goes first with all that the failed step held, then what is idle, and only then another
one is made: with a smaller cache and smaller steps, for `SPARING_S`. A cache of more than one context uses what nobody
else needs; it makes way for a model that is to be loaded.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from bot.inference.answer import Answer
from bot.inference.batch import Batch, MadeWay, is_batchable
from bot.inference.device import free_memory
from bot.inference.engine import Event, GenerationRequest
from bot.inference.graphs import cuda_capture
from bot.inference.loader import LoadedModel
from bot.inference.run import DeviceMemoryExhausted, Run
from bot.inference.sizes import SPARING_STEP_TOKENS, full_cache_tokens, sparing_cache_tokens, token_bytes
from bot.inference.threads import Emit, OneShotThread, in_own_thread, in_thread

log = logging.getLogger(__name__)

CHANGE_TIMEOUT_S = 60.0  # a thread ends within a step, and a cache is made within seconds
SPARING_S = 300.0  # another program's peak, or a prompt longer than any before, is over by then


@dataclass(slots=True)
class _Shortage:
    """Memory ran out for a model.

    Attributes:
        until_s: how long its batches are sparing.
        cache_tokens: how many the cache held.
        needed_tokens: how long the longest of those who were being answered may become.
        has_room: whether what was idle has been unloaded since.
    """

    until_s: float
    cache_tokens: int
    needed_tokens: int
    has_room: bool = False


class Batches:
    """The batches of the models in memory.

    Args:
        requests: how many are answered at a time.
        make_room: unloads what nobody uses, and gives back what is free.
        spare_bytes: what the device has that no model needs, larger caches apart.
        cuda_graphs: whether steps are recorded where that can be done.
    """

    def __init__(
        self,
        *,
        requests: int,
        make_room: Callable[[], Awaitable[None]],
        spare_bytes: Callable[[], int] = lambda: 0,
        cuda_graphs: bool = False,
    ) -> None:
        self._make_room = make_room
        self._requests = requests
        self._spare_bytes = spare_bytes
        self._cuda_graphs = cuda_graphs
        self._short: dict[LoadedModel, _Shortage] = {}
        self._all: dict[LoadedModel, Batch] = {}
        self._changing = asyncio.Lock()
        self._threads = threading.Lock()  # batches are begun, ended and let go of on different threads
        self._alone = asyncio.Lock()  # for models that cannot be batched

    async def generate(self, loaded: LoadedModel, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Answer, beside others if the model can do that, else when they are done. Where memory runs out, the answer is
        taken up once more after its last token, with what is idle unloaded and prompts read in smaller pieces.

        Raises:
            DeviceMemoryExhausted: there was not the memory.
            DeviceHasFailed: nothing can be computed any more.
            PromptTooLong: the messages leave no room for an answer.
        """
        request = replace(request, params=request.params.with_defaults(loaded.sampling).seeded())
        if not is_batchable(loaded.model):
            async with self._alone, aclosing(self._answered_alone(loaded, request)) as events:
                async for event in events:
                    yield event
            return
        answer = await _begun(loaded, request)
        yield answer.reading
        is_second = False
        while True:
            batch = await self._running(loaded, answer)
            try:
                async with aclosing(batch.generate(answer)) as events:
                    async for event in events:
                        yield event
                return
            except MadeWay:
                continue
            except DeviceMemoryExhausted:
                await self._give_up(loaded, batch, answer)
                if is_second:
                    raise
                log.warning("%s ran out of memory: what was idle is unloaded", request.model.alias)
            is_second = True

    async def _answered_alone(
        self, loaded: LoadedModel, request: GenerationRequest
    ) -> AsyncGenerator[Event, None]:
        runs: list[Run] = []

        def work(emit: Emit[Event], stopped: threading.Event) -> None:
            if is_first := not runs:
                runs.append(Run(loaded, request, stopped))
            runs[0].run(emit, stopped, sparing=not is_first)

        for is_second in (False, True):
            try:
                async with aclosing(in_thread(OneShotThread("inference"), work)) as events:
                    async for event in events:
                        yield event
                return
            except DeviceMemoryExhausted:
                if is_second:
                    raise
                log.warning("%s ran out of memory: unloading what is idle", request.model.alias)
            await self._make_room()

    def close(self, loaded: LoadedModel) -> None:
        """The model is about to go; blocks until its thread has ended."""
        with self._threads:
            self._short.pop(loaded, None)
            if (batch := self._all.pop(loaded, None)) is not None:
                batch.close()

    async def make_way(self, left_bytes: int) -> None:
        """A model is to be loaded, and no more than this is left then: caches shrink to one context if what they have
        beside is more. Who is being answered is taken up after the last token, when all has been read again."""
        if self._held_beside() <= max(0, left_bytes):
            return

        def change() -> None:
            with self._threads:
                for loaded, batch in list(self._all.items()):
                    if batch.cache_tokens > loaded.context_tokens:
                        del self._all[loaded]
                        batch.make_way()
                        batch.close()

        async with self._changing:
            await in_own_thread(change, timeout_s=CHANGE_TIMEOUT_S)

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

    async def _give_up(self, loaded: LoadedModel, batch: Batch, answer: Answer) -> None:
        """A batch has run out of memory: it goes with all that it held. Whoever wants another one has room made."""
        now_s, before = time.monotonic(), self._short.get(loaded)
        others_tokens = 0 if before is None or before.until_s < now_s else before.needed_tokens
        needed_tokens = max(answer.longest_tokens, others_tokens)
        # Else somebody of this batch was here before, and room may have been made for the next one already.
        has_room = self._all.get(loaded) is not batch and before is not None and before.has_room
        self._short[loaded] = _Shortage(now_s + SPARING_S, batch.cache_tokens, needed_tokens, has_room)
        async with self._changing:
            if self._all.get(loaded) is batch:
                await self._free(loaded, batch)

    async def _free(self, loaded: LoadedModel, batch: Batch) -> None:
        def drop() -> None:
            with self._threads:
                if self._all.get(loaded) is batch:
                    del self._all[loaded]
                batch.close()
            free_memory()

        await in_own_thread(drop, timeout_s=CHANGE_TIMEOUT_S)

    async def _running(self, loaded: LoadedModel, answer: Answer) -> Batch:
        """The model's batch, its thread running and no other's, with room for an answer.

        Raises:
            DeviceMemoryExhausted: it is sparing, and has no room for an answer of that length beside those that it has.
        """
        async with self._changing:
            batch, now_s = self._all.get(loaded), time.monotonic()
            if (
                batch is not None and batch.has_run_out
            ):  # those who were answered by it have not come back yet
                short = _Shortage(now_s + SPARING_S, batch.cache_tokens, loaded.context_tokens)
                self._short.setdefault(loaded, short).has_room = False
                await self._free(loaded, batch)
                batch = None
            if batch is None and (lacking := self._short.get(loaded)) is not None and not lacking.has_room:
                await self._make_room()
                lacking.has_room = True  # not before: who asks for it may leave in the middle
            is_short = loaded in self._short and now_s < self._short[loaded].until_s
            full_tokens = self._full_cache_tokens(loaded)
            if batch is not None and not batch.is_broken:
                fits = answer.longest_tokens <= batch.cache_tokens
                if batch.is_used and not fits:
                    raise DeviceMemoryExhausted
                has_room = not is_short and (loaded in self._short or full_tokens >= 2 * batch.cache_tokens)
                grows = has_room and not batch.is_used
                if batch.is_running and fits and not grows:
                    return batch
                is_kept = fits and not grows
                is_short = is_short and fits
            else:
                is_kept = False
            if not is_short:
                self._short.pop(loaded, None)
            step_tokens = SPARING_STEP_TOKENS if is_short else None
            is_recorded = self._cuda_graphs and not is_short  # recorded steps take memory of their own
            cache_tokens = self._sparing_cache_tokens(loaded, answer) if is_short else full_tokens

            def change() -> Batch:
                with self._threads:
                    for other in self._all.values():
                        other.stop()
                    found = self._all.get(loaded)
                    if found is None or not is_kept:
                        if found is not None:
                            del self._all[loaded]
                            found.make_way()  # somebody may have been given it in this moment
                            found.close()
                        found = Batch(
                            loaded,
                            requests=self._requests,
                            step_tokens=step_tokens,
                            cache_tokens=cache_tokens,
                            new_capture=cuda_capture(loaded.model) if is_recorded else None,
                        )
                        self._all[loaded] = found
                    found.start()
                    return found

            return await in_own_thread(change, timeout_s=CHANGE_TIMEOUT_S)

    def _full_cache_tokens(self, loaded: LoadedModel) -> int:
        spare_bytes = self._spare_bytes() - self._held_beside(but=loaded)
        return full_cache_tokens(loaded.model, loaded.context_tokens, self._requests, spare_bytes)

    def _sparing_cache_tokens(self, loaded: LoadedModel, answer: Answer) -> int:
        short = self._short[loaded]
        needed_tokens = max(short.needed_tokens, answer.longest_tokens)
        return sparing_cache_tokens(short.cache_tokens, loaded.context_tokens, needed_tokens)

    def _held_beside(self, but: LoadedModel | None = None) -> int:
        """What caches take that are of more than one context, one of each model apart."""
        return sum(
            (batch.cache_tokens - loaded.context_tokens) * token_bytes(loaded.model)
            for loaded, batch in list(self._all.items())
            if loaded is not but and batch.cache_tokens > loaded.context_tokens
        )


async def _begun(loaded: LoadedModel, request: GenerationRequest) -> Answer:
    """An answer that can be taken up: its prompt is encoded, on a thread that ends with that. Cancelling stops it.

    Raises:
        PromptTooLong: the messages leave no room for an answer.
    """

    def work(emit: Emit[Answer], stopped: threading.Event) -> None:
        emit(Answer(loaded, request, stopped))

    async with aclosing(in_thread(OneShotThread("prompt"), work)) as found:
        return await anext(found)
