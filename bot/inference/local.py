"""The engine that runs models in this process.

All generating happens on one thread, the engine's. On the CPU each thread that enters OpenMP owns a pool of workers,
and two pools halve each other's speed while both live: so each load has a thread of its own that ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial

from bot.errors import OutOfMemory
from bot.inference.catalog import ModelSpec
from bot.inference.engine import Event, GenerationRequest, Loading, Report
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.memory import MemoryReport
from bot.inference.pool import ModelPool
from bot.inference.run import DeviceMemoryExhausted, Run
from bot.inference.threads import Emit, in_thread

log = logging.getLogger(__name__)


class LocalEngine:
    """Answers with transformers' `generate`, one request at a time, from a pool of models in memory.

    Args:
        loader: fetches and loads.
        budget_bytes, pinned, unload_idle_after_s: the pool's, see there.
    """

    def __init__(
        self,
        loader: ModelLoader,
        *,
        budget_bytes: int | None = None,
        pinned: Collection[str] = (),
        unload_idle_after_s: float | None = None,
    ) -> None:
        self._loader = loader
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self.pool = ModelPool(
            loader, budget_bytes=budget_bytes, pinned=pinned, unload_idle_after_s=unload_idle_after_s
        )

    async def prepare(self) -> None:
        """Do the slow imports now, on the engine's thread, rather than under the first request."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._loader.prepare)

    def ready(self, model: ModelSpec) -> bool:
        """See `Engine.ready`."""
        return self.pool.ready(model)

    async def fetch(self, model: ModelSpec, report: Report) -> None:
        """See `Engine.fetch`."""
        await self.pool.fetch(model, report)

    def victims(self, model: ModelSpec) -> tuple[ModelSpec, ...] | None:
        """See `Engine.victims`."""
        return self.pool.victims(model)

    def unload(self, models: tuple[ModelSpec, ...]) -> None:
        """See `Engine.unload`."""
        self.pool.unload(models)

    async def load(self, model: ModelSpec, report: Report) -> None:
        """See `Engine.load`."""
        await self.pool.load(model, report)

    def memory(self) -> MemoryReport:
        """See `Engine.memory`."""
        return self.pool.report()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Answer `request`; see `Engine.generate`. A model that is not in memory is brought there first.

        Raises:
            OutOfMemory: there was not the memory, with others unloaded either.
        """
        if not self.ready(request.model):
            yield Loading(request.model.alias, None)
            await self.fetch(request.model, lambda _: None)
            await self.load(request.model, lambda _: None)
            yield Loading(request.model.alias, 1.0)
        with self.pool.lease(request.model) as loaded:
            async with aclosing(self._answer(loaded, request)) as events:
                async for event in events:
                    yield event

    async def _answer(self, loaded: LoadedModel, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """The events of one answer, taken up once more where memory ran out."""
        begun: list[Run] = []

        def work(emit: Emit[Event], stopped: threading.Event, *, sparing: bool) -> None:
            if not begun:
                begun.append(Run(loaded, request))
            begun[0].run(emit, stopped, sparing=sparing)

        for sparing in (False, True):
            try:
                async with aclosing(in_thread(self._thread, partial(work, sparing=sparing))) as events:
                    async for event in events:
                        yield event
                return
            except DeviceMemoryExhausted:
                log.warning("%s ran out of memory: unloading what is idle", request.model.alias)
            await self.pool.unload_idle()
        raise OutOfMemory(
            f"There was not enough memory for this answer of {request.model.alias}. Please shorten the question, "
            "or try a smaller model."
        )

    async def aclose(self) -> None:
        """Let the thread end, and the models go."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        await self.pool.aclose()
