"""The engine that runs models in this process: requests for one model are answered together, one model at a time.

Which threads enter OpenMP is watched (`batches.py`): on the CPU two of them halve each other's speed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager

from bot.errors import ModelComputesNonsense, OutOfMemory, PromptTooLong
from bot.inference.batches import Batches
from bot.inference.catalog import ModelKey, ModelSpec
from bot.inference.device import is_out_of_memory
from bot.inference.device_failure import DeviceFailure, is_device_failure
from bot.inference.engine import Event, GenerationRequest, Loading, Reading, Report, Usage
from bot.inference.loader import ModelLoader
from bot.inference.memory import MemoryReport
from bot.inference.observer import UNOBSERVED, Observer
from bot.inference.pool import ModelPool
from bot.inference.run import DeviceHasFailed, DeviceMemoryExhausted, LogitsNotFinite
from bot.inference.threads import in_own_thread

log = logging.getLogger(__name__)

_IMPORT_TIMEOUT_S = 600.0  # a cold disk is slow


class LocalEngine:
    """Answers from a pool of models in memory, those who ask the same one together.

    Args:
        loader: fetches and loads.
        budget_bytes, unload_idle_after_s: the pool's, see there.
        batch_requests: how many requests for one model are answered at a time.
        cuda_graphs: whether steps that only add a token each are recorded on a GPU, see `graphs.py`.
        observer: who looks on.
        failure: is told when the device has failed for good; nothing is answered or loaded from then on.
    """

    def __init__(
        self,
        loader: ModelLoader,
        *,
        budget_bytes: int | None = None,
        unload_idle_after_s: float | None = None,
        batch_requests: int = 16,
        cuda_graphs: bool = False,
        observer: Observer = UNOBSERVED,
        failure: DeviceFailure | None = None,
    ) -> None:
        self._loader = loader
        self._failure = failure or DeviceFailure()
        self._loads = 0  # under way
        self._batches = Batches(
            requests=batch_requests,
            cuda_graphs=cuda_graphs,
            make_room=lambda: self.pool.unload_idle(),
            spare_bytes=lambda: 0 if self._loads else self.pool.spare_bytes(),
        )
        self.pool = ModelPool(
            loader,
            budget_bytes=budget_bytes,
            unload_idle_after_s=unload_idle_after_s,
            closing=self._batches.close,
            observer=observer,
        )

    async def prepare(self) -> None:
        """Do the slow imports now, on a thread that ends with them, rather than under the first request."""
        await in_own_thread(self._loader.prepare, timeout_s=_IMPORT_TIMEOUT_S)

    def ready(self, model: ModelSpec) -> bool:
        """See `Engine.ready`."""
        return self.pool.ready(model)

    def joins(self, model: ModelSpec, running: Iterable[ModelSpec]) -> bool:
        """See `Engine.joins`: one model answers at a time, and one that cannot be batched answers one request."""
        others = list(running)
        if not others:
            return True
        return all(one.key == model.key for one in others) and self.pool.batches(model)

    async def fetch(self, model: ModelSpec, report: Report) -> None:
        """See `Engine.fetch`."""
        with self._failure_told():
            await self.pool.fetch(model, report)

    def victims(self, model: ModelSpec) -> tuple[ModelKey, ...] | None:
        """See `Engine.victims`."""
        return self.pool.victims(model)

    def unload(self, models: tuple[ModelKey, ...]) -> None:
        """See `Engine.unload`."""
        self.pool.unload(models)

    def pin(self, models: Iterable[ModelSpec]) -> None:
        """See `Engine.pin`."""
        self.pool.pin(models)

    async def load(self, model: ModelSpec, report: Report) -> None:
        """See `Engine.load`."""
        self._loads += 1
        try:
            with self._failure_told():
                if not self.ready(model):
                    await self._batches.make_way(self.pool.spare_bytes(model))
                await self.pool.load(model, report)
        finally:
            self._loads -= 1

    def memory(self) -> MemoryReport:
        """See `Engine.memory`."""
        return self.pool.report()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Answer `request`; see `Engine.generate`. A model that is not in memory is brought there first.

        Raises:
            OutOfMemory: there was not the memory, with others unloaded either.
            PromptTooLong: the messages leave no room for an answer; what it took to find out has been told.
            ModelComputesNonsense: its numbers overflow. Other answers go on.
            DeviceFailed: the device has failed for good.
        """
        with self._failure_told():
            async with aclosing(self._answered(request)) as events:
                async for event in events:
                    yield event

    async def _answered(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if not self.ready(request.model):
            yield Loading(request.model.alias, None)
            await self.fetch(request.model, lambda _: None)
            await self.load(request.model, lambda _: None)
            yield Loading(request.model.alias, 1.0)
        with self.pool.lease(request.model) as loaded:
            begun_s = time.perf_counter()
            try:
                async with aclosing(self._batches.generate(loaded, request)) as events:
                    async for event in events:
                        yield event
            except PromptTooLong as error:
                yield Reading(Usage(error.tokens, generation_s=time.perf_counter() - begun_s))
                raise
            except DeviceMemoryExhausted:
                raise _too_little_memory(request.model) from None
            except LogitsNotFinite:
                raise _nonsense(request.model) from None
            except Exception as error:  # beside the steps, such as where the prompt is encoded
                if not is_out_of_memory(error):
                    raise
                log.warning("%s ran out of memory outside of its steps", request.model.alias)
                raise _too_little_memory(request.model) from None

    @contextmanager
    def _failure_told(self) -> Iterator[None]:
        """Refuse where the device has failed before; find out if it fails in the block, whatever is raised then."""
        if self._failure.has_happened:
            raise self._failure.error
        try:
            yield
        except Exception as error:
            if not (isinstance(error, DeviceHasFailed) or is_device_failure(error)):
                raise
        else:
            return
        if not self._failure.has_happened:
            log.critical("the device has failed for good: nothing is answered until the bot is started anew")
        self._failure.happen()
        raise self._failure.error

    async def rest(self) -> None:
        """Let no thread of the engine's run until the next request; see `Batches.rest`."""
        await self._batches.rest()

    async def aclose(self) -> None:
        """Let the threads end, and the models go."""
        try:
            await self._batches.aclose()
            await self.pool.aclose()
        except Exception:
            if not self._failure.has_happened:  # else nothing of the device can be given back
                raise
            log.warning("the models could not be unloaded: the device has failed")


def _too_little_memory(spec: ModelSpec) -> OutOfMemory:
    return OutOfMemory(
        f"There was not enough memory for this answer of {spec.alias}. Please shorten the question, or try a smaller "
        "model."
    )


def _nonsense(spec: ModelSpec) -> ModelComputesNonsense:
    precision, other = {"nf4": ("NF4", "none"), "none": ("bfloat16", "nf4")}[spec.quantization]
    return ModelComputesNonsense(
        f"{spec.alias} computes nonsense in {precision}: its numbers overflow, so the answer ends here. Please try "
        f'another model; the operator can set quantization = "{other}" for {spec.alias} in the catalogue, or choose '
        "another revision of it."
    )
