"""The models in memory: which there are, under which budget, and how another one gets in.

A model takes its whole need from the budget, the cache for a full context too, so that no answer runs out of
memory because of a neighbour. What is not in use goes, the least recently used first, when room is needed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bot.errors import ModelUnavailable
from bot.inference.anatomy import examine
from bot.inference.batch import is_batchable
from bot.inference.catalog import ModelKey, ModelSpec
from bot.inference.device import budget_bytes, free_memory
from bot.inference.engine import Loading, Report
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.memory import Footprint, MemoryReport, Resident, gigabytes
from bot.inference.observer import UNOBSERVED, LoadEnding, Observer
from bot.inference.pace import Pace
from bot.inference.threads import Emit, OneShotThread, in_thread
from bot.inference.whole_device import whole_device

log = logging.getLogger(__name__)

Measure = Callable[[Path, ModelSpec], Footprint]


def footprint(folder: Path, spec: ModelSpec) -> Footprint:
    """What a model needs with one context full, from its config and the headers of its files."""
    anatomy = examine(folder, spec)
    return anatomy.footprint(anatomy.context_tokens)


@dataclass(slots=True)
class _Place:
    """A model in memory.

    Attributes:
        spec: the entry that it was used by last, under whose alias it is reported.
        idle_since_s: counts while nobody uses it.
    """

    spec: ModelSpec
    loaded: LoadedModel
    footprint: Footprint
    idle_since_s: float
    users: int = 0
    timer: asyncio.TimerHandle | None = None


class ModelPool:
    """Models in memory.

    Args:
        loader: fetches and loads.
        budget_bytes: what all models together may take; None for what the device has free when the first model
            is fetched, less a margin.
        unload_idle_after_s: how long a model stays that nobody uses; None for as long as there is room.
        measure: what a model will need, from its files.
        closing: called for each model before its memory is given back, on the thread that does that.
        observer: who looks on.
    """

    def __init__(
        self,
        loader: ModelLoader,
        *,
        budget_bytes: int | None = None,
        unload_idle_after_s: float | None = None,
        measure: Measure = footprint,
        closing: Callable[[LoadedModel], None] = lambda _: None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._loader = loader
        self._budget_bytes = budget_bytes
        self._pinned: frozenset[ModelKey] = frozenset()
        self._unload_idle_after_s = unload_idle_after_s
        self._measure = measure
        self._closing = closing
        self._observer = observer
        self._places: dict[ModelKey, _Place] = {}
        self._unloaded: list[LoadedModel] = []
        self._needs: dict[ModelKey, Footprint] = {}
        self._loading = asyncio.Lock()
        self._released = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def ready(self, spec: ModelSpec) -> bool:
        """Whether the model is in memory."""
        return spec.key in self._places

    def batches(self, spec: ModelSpec) -> bool:
        """Whether a model in memory can answer several requests together; no for one that is not there."""
        place = self._places.get(spec.key)
        return place is not None and is_batchable(place.loaded.model)

    def pin(self, specs: Iterable[ModelSpec]) -> None:
        """Unload these models neither for others nor when they are idle; all others may go from now on."""
        self._pinned = frozenset(spec.key for spec in specs)
        for key in self._places:
            self._arm(key)
        self._released.set()

    async def fetch(self, spec: ModelSpec, report: Report) -> None:
        """Bring the files here and measure what the model needs; see `Engine.fetch`."""
        if spec.key in self._needs and self.ready(spec):
            return

        def work(emit: Emit[Loading], stopped: threading.Event) -> None:
            folder = self._loader.fetch(spec, _telling(spec, emit, stopped))
            if self._budget_bytes is None:
                self._budget_bytes = budget_bytes()
            self._needs[spec.key] = self._measure(folder, spec)

        await self._reported(work, report, "fetch")

    def victims(self, spec: ModelSpec) -> tuple[ModelKey, ...] | None:
        """Who must go for a fetched model; see `Engine.victims`."""
        need_bytes, budget_bytes = self._needs[spec.key].peak_bytes, self._budget_bytes or 0
        pinned = [place for key, place in self._places.items() if key in self._pinned]
        pinned_bytes = sum(place.footprint.total_bytes for place in pinned)
        if need_bytes > budget_bytes - pinned_bytes:
            raise _too_big(spec, need_bytes, budget_bytes, [place.spec.alias for place in pinned])
        excess = need_bytes + sum(p.footprint.total_bytes for p in self._places.values()) - budget_bytes
        chosen: list[ModelKey] = []
        for key in self._idle():
            if excess <= 0:
                break
            chosen.append(key)
            excess -= self._places[key].footprint.total_bytes
        return tuple(chosen) if excess <= 0 else None

    def unload(self, keys: Iterable[ModelKey]) -> None:
        """Take models out of service; their memory is given back by whatever load or unload comes next."""
        for key in keys:
            place = self._places.pop(key)
            if place.timer is not None:
                place.timer.cancel()
            log.info("unloading %s", place.spec.alias)
            self._unloaded.append(place.loaded)

    async def load(self, spec: ModelSpec, report: Report) -> None:
        """Load a fetched model, unloading others for it as soon as they can be; see `Engine.load`."""
        async with self._loading:
            if self.ready(spec):
                return
            while (victims := self.victims(spec)) is None:
                self._released.clear()
                await self._released.wait()
            self.unload(victims)
            await self._load(spec, report)

    @contextmanager
    def lease(self, spec: ModelSpec) -> Iterator[LoadedModel]:
        """A model in memory, which stays there until the block is left."""
        place = self._places[spec.key]
        place.users += 1
        place.spec = spec
        if place.timer is not None:
            place.timer.cancel()
        try:
            yield place.loaded
        finally:
            place.users -= 1
            self._rest(spec.key, place)

    async def unload_idle(self) -> None:
        """Unload whatever nobody uses and is not pinned, and give its memory back."""
        await self._unload(self._idle(), always=True)

    def report(self) -> MemoryReport:
        """What is in memory now."""
        now_s = time.monotonic()
        residents = tuple(
            Resident(
                alias=place.spec.alias,
                footprint=place.footprint,
                pinned=key in self._pinned,
                idle_s=None if place.users else now_s - place.idle_since_s,
            )
            for key, place in self._places.items()
        )
        return MemoryReport(self._budget_bytes or 0, residents)

    def spare_bytes(self, beside: ModelSpec | None = None) -> int:
        """What of the budget no model needs, also not this one while it is loaded, which was fetched; negative if it
        does not fit."""
        needed = sum(place.footprint.total_bytes for place in self._places.values())
        if beside is not None:
            needed += self._needs[beside.key].peak_bytes
        return (self._budget_bytes or 0) - needed

    async def aclose(self) -> None:
        """Let go of everything."""
        for task in self._tasks:
            task.cancel()
        await self._unload(list(self._places))

    def _idle(self) -> list[ModelKey]:
        """What may be unloaded, the least recently used first."""
        idle = (key for key, place in self._places.items() if not place.users and key not in self._pinned)
        return sorted(idle, key=lambda key: self._places[key].idle_since_s)

    def _rest(self, key: ModelKey, place: _Place) -> None:
        """Nobody may be using it now: it can go, and will some time."""
        if place.users:
            return
        place.idle_since_s = time.monotonic()
        self._released.set()
        if self._places.get(key) is place:
            self._arm(key)

    def _arm(self, key: ModelKey) -> None:
        """Set the timer of a model that is to go when nobody has used it for long enough, and clear any other's."""
        place = self._places[key]
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None
        if self._unload_idle_after_s is None or place.users or key in self._pinned:
            return
        left_s = max(0.0, self._unload_idle_after_s - (time.monotonic() - place.idle_since_s))
        place.timer = asyncio.get_running_loop().call_later(left_s, self._unload_later, key)

    def _unload_later(self, key: ModelKey) -> None:
        self.unload([key])  # at once: until a task runs, somebody could begin to use it
        task = asyncio.get_running_loop().create_task(self._unload([]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _unload(self, keys: list[ModelKey], *, always: bool = False) -> None:
        """Unload; with `always`, what the device keeps for later is given back even if there was nothing."""
        self.unload([key for key in keys if key in self._places])
        if self._unloaded or always:
            unloaded = self._handed_over()
            await self._reported(lambda *_: self._let_go(unloaded), lambda _: None, "unload")
            self._released.set()

    def _handed_over(self) -> list[LoadedModel]:
        """What is out of service, for a thread that lets go of it."""
        unloaded, self._unloaded = self._unloaded, []
        return unloaded

    async def _load(self, spec: ModelSpec, report: Report) -> None:
        unloaded = self._handed_over()
        got: list[LoadedModel] = []

        def work(emit: Emit[Loading], stopped: threading.Event) -> None:
            if unloaded:
                self._let_go(unloaded)
            try:
                with whole_device():
                    got.append(self._loader.load(spec, _telling(spec, emit, stopped)))
            except BaseException:
                free_memory()
                raise

        with self._timed(spec):
            await self._reported(work, report, "load")
        loaded = got.pop()
        place = _Place(spec, loaded, loaded.measured(self._needs[spec.key]), time.monotonic())
        self._places[spec.key] = place
        self._rest(spec.key, place)

    @contextmanager
    def _timed(self, spec: ModelSpec) -> Iterator[None]:
        """Say how long the block, which loads a model, took, and how it ended."""
        started_s, ending = time.monotonic(), LoadEnding.FAILED
        try:
            yield
            ending = LoadEnding.LOADED
            log.info("loaded %s in %.1f s", spec.alias, time.monotonic() - started_s)
        except asyncio.CancelledError:
            ending = LoadEnding.ABANDONED
            raise
        finally:
            self._observer.loaded(spec, time.monotonic() - started_s, ending)

    def _let_go(self, unloaded: list[LoadedModel]) -> None:
        while unloaded:
            self._closing(unloaded[-1])
            unloaded.pop()
        free_memory()

    async def _reported(
        self, work: Callable[[Emit[Loading], threading.Event], None], report: Report, name: str
    ) -> None:
        async with aclosing(in_thread(OneShotThread(name), work)) as events:
            async for event in events:
                report(event)


class _AbandonedError(Exception):
    """Nobody wants the model any more that is being fetched or loaded."""


def _telling(
    spec: ModelSpec, emit: Emit[Loading], stopped: threading.Event
) -> Callable[[str, float | None], None]:
    """The loader's way to report: passes on what is worth telling, and breaks off when nobody listens."""
    pace = Pace(spec.alias)

    def report(step: str, fraction: float | None) -> None:
        if stopped.is_set():
            raise _AbandonedError
        if event := pace.event(step, fraction):
            emit(event)

    return report


def _too_big(spec: ModelSpec, need_bytes: int, budget_bytes: int, pinned: list[str]) -> ModelUnavailable:
    beside = f" beside {', '.join(pinned)}, which stay loaded" if pinned else ""
    return ModelUnavailable(
        f"{spec.alias} needs about {gigabytes(need_bytes)}, and there are {gigabytes(budget_bytes)} for models"
        f"{beside}. Please choose a smaller model."
    )
