"""The queue in front of the one GPU: who runs, who waits, who is told what.

`submit` gives a place or refuses at once. A `Generation` that has its turn is run by a task of its own, and its slot
goes on when that task has ended. What the person is told does not wait for that: a cancelled or timed-out generation is
finished for its reader in the same instant.

A model that is not in memory is prepared beside what runs (`Preparations`); whoever waits for it holds no slot.
Every change ends in `_advance`, which starts what can be started. Nothing polls.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Self

from bot import trace
from bot.errors import BotError, QueueFull, ShuttingDown, Unexpected
from bot.inference.catalog import ModelKey, ModelSpec
from bot.inference.engine import Engine, Event, Finished, FinishReason, GenerationRequest, Loading, Queued
from bot.inference.estimate import Estimates, Told
from bot.inference.generation import Generation
from bot.inference.observer import UNOBSERVED, Observer
from bot.inference.preparations import Preparations
from bot.inference.schedule import OVERTAKING_LIMIT, fair_order, next_to_start
from bot.inference.timers import Timers, end_missed, load_missed, turn_missed

log = logging.getLogger(__name__)

_LOADING = Told(0, None, 0.0)
STOP_GRACE_S = 10.0  # how long closing waits for models to stop before it leaves them
_RESTARTING = "The bot is restarting; please ask again in a minute."


class InferenceQueue:
    """Requests wait here for one of the engine's slots, in the order of arrival but for `schedule`'s exception.

    Args:
        engine: what answers; not closed by the queue.
        slots: how many requests the engine is given at a time.
        limit: how many may wait beside those that run.
        queue_timeout_s: the longest wait for a turn, the loading of one's model apart.
        load_timeout_s: the longest anybody waits for a model to be fetched and loaded.
        generation_timeout_s: the longest an answer may take once the model is there.
        overtaking_limit: how many later arrivals may go first because their model is in memory.
        estimates: how long what is waited for takes; None to learn it from nothing.
        observer: who looks on.

    Attributes:
        closing: whether it takes nobody new.
        limit, queue_timeout_s, load_timeout_s, generation_timeout_s: as above; may be changed, for those who come.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        slots: int = 1,
        limit: int = 32,
        queue_timeout_s: float = 300.0,
        load_timeout_s: float = 1_800.0,
        generation_timeout_s: float = 180.0,
        overtaking_limit: int = OVERTAKING_LIMIT,
        estimates: Estimates | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._engine = engine
        self._slots = slots
        self.limit = limit
        self.queue_timeout_s = queue_timeout_s
        self.load_timeout_s = load_timeout_s
        self.generation_timeout_s = generation_timeout_s
        self._overtaking_limit = overtaking_limit
        self._waiting: list[Generation] = []
        self._running: dict[Generation, asyncio.Task[Finished]] = {}
        self._estimates = estimates or Estimates()
        self._told: dict[Generation, Told] = {}  # what each who waits knows, or _LOADING
        self._followed: set[Generation] = set()  # whose readers have not left yet
        self._emptied = asyncio.Event()
        self._observer = observer
        self.closing = False

    async def __aenter__(self) -> Self:
        # Tasks and timers are the queue's own, not those of the command that happened to submit: they start
        # from the context the queue was opened in.
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._timers = Timers(self._context)
        self._preparations = Preparations(
            self._engine, self._estimates, told=self._loading, failed=self._fail, changed=self._advance
        )
        return self

    async def __aexit__(self, *why: object) -> None:
        self.closing = True
        for generation in (*self._waiting, *self._running):
            self._end(generation, ShuttingDown(_RESTARTING))
        tasks = (*self._running.values(), *self._preparations.cancel_all())
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=STOP_GRACE_S)
            if stuck:
                log.error("left %d task(s) that did not stop within %.0f s", len(stuck), STOP_GRACE_S)

    async def drain(self, finish_s: float, show_s: float = 5.0, why: BotError | None = None) -> None:
        """Take nobody new, let what runs finish, and let readers show how it ended. Takes both times at most.

        Args:
            finish_s: how long what runs may go on; who waits is told at once.
            show_s: how long readers may take to show the end.
            why: what those hear who are not answered to the end; None for that the bot is restarting.
        """
        self.closing = True
        why = why or ShuttingDown(_RESTARTING)
        for generation in tuple(self._waiting):
            self._end(generation, why)
        if self._running:
            await asyncio.wait(tuple(self._running.values()), timeout=finish_s)
        for generation in tuple(self._running):
            self._end(generation, why)
        with suppress(TimeoutError):
            async with asyncio.timeout(show_s):
                while self._followed:
                    self._emptied.clear()
                    await self._emptied.wait()

    @property
    def waiting(self) -> int:
        """How many wait for their turn or their model."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many hold a slot; one that was cancelled holds it until the engine has let go."""
        return len(self._running)

    @property
    def held(self) -> frozenset[Generation]:
        """Those that are over but hold a slot: the engine has not let go of them."""
        return frozenset(one for one in self._running if one.finished is not None)

    def submit(self, request: GenerationRequest) -> Generation:
        """Give the request a place, running or waiting.

        Raises:
            QueueFull: nobody else may wait.
            ShuttingDown: the queue is being closed.
        """
        if self.closing:
            raise ShuttingDown(_RESTARTING)
        if len(self._running) + len(self._waiting) >= self._slots + self.limit:
            waiting = f"{self.limit} are waiting already"
            raise QueueFull(f"Too many people are asking at once ({waiting}). Please try again in a minute.")
        generation = Generation(request, self._end, self._left, self._observer, self._estimates.clock())
        self._followed.add(generation)
        self._waiting.append(generation)
        self._timers.set(generation, self.queue_timeout_s, self._queue_expired)
        self._advance()
        return generation

    def _advance(self) -> None:
        """Start what can be started: generations whose model is there, and what brings the other models."""
        if self.closing:
            return
        while len(self._running) < self._slots:
            models = [one.request.model for one in self._running]
            chosen = next_to_start(
                self._waiting,
                running=self._running,
                ready=partial(self._may_start, models),
                excused=lambda one: self._preparations.progress(one.request.model) is not None,
                limit=self._overtaking_limit,
            )
            if chosen is None:
                break
            self._waiting.remove(chosen)
            self._told.pop(chosen, None)
            self._start(chosen)
        self._context.copy().run(self._preparations.update, self._waiting, self._may_unload)
        self._tell_all()

    def _may_start(self, running: list[ModelSpec], one: Generation) -> bool:
        return self._engine.ready(one.request.model) and self._engine.joins(one.request.model, running)

    def _may_unload(self, victims: tuple[ModelKey, ...]) -> bool:
        """Whether these models may go: not when one of them has just been given its turn, and not while others have
        use for them, unless somebody has been overtaken so often that nobody may pass any more."""
        if any(one.request.model.key in victims for one in self._running if one.finished is None):
            return False
        needed = any(one.request.model.key in victims for one in self._waiting)
        return not needed or any(one.overtaken >= self._overtaking_limit for one in self._waiting)

    def _start(self, generation: Generation) -> None:
        context = self._context.copy()
        context.run(trace.resume, generation.trace)
        task = context.run(self._loop.create_task, self._run(generation))
        self._running[generation] = task
        task.add_done_callback(lambda ended: self._ended(generation, ended), context=self._context.copy())

    async def _run(self, generation: Generation) -> Finished:
        """Have the engine answer; returns how it ended, when the engine has let go."""
        generation.begin(self._estimates.clock())
        ending: Finished | None = None
        try:
            async with aclosing(self._engine.generate(generation.request)) as events:
                self._timers.set(generation, self.generation_timeout_s, self._generation_expired)
                async for event in events:
                    if isinstance(event, Finished):
                        ending = event
                        break
                    self._restart_timer(generation, event)
                    generation.put(event)
            if ending is None:
                raise RuntimeError("the engine ended without saying why")
            self._estimates.answered(generation.request.model, ending)
        except BotError as error:
            ending = generation.ending(FinishReason.ERROR, error)
        except Exception:
            log.exception("generation %s on %s failed", generation.id, generation.request.model.alias)
            bug = Unexpected("while the model was answering", generation.id)
            ending = generation.ending(FinishReason.ERROR, bug)
        return ending

    def _ended(self, generation: Generation, task: asyncio.Task[Finished]) -> None:
        """The model has stopped: the slot is free, and the reader hears of the end."""
        self._timers.clear(generation)
        del self._running[generation]
        generation.put(generation.ending(FinishReason.CANCELLED) if task.cancelled() else task.result())
        self._advance()

    def _left(self, generation: Generation) -> None:
        self._followed.discard(generation)
        self._emptied.set()

    def _fail(self, model: ModelSpec, error: BotError) -> None:
        """A model cannot be had: everybody who waits for it hears why."""
        for generation in [one for one in self._waiting if one.request.model.key == model.key]:
            self._end(generation, error, advance=False)
        self._advance()  # once: it looks at everybody who waits

    def _end(self, generation: Generation, error: BotError | None = None, *, advance: bool = True) -> None:
        """Finish for the reader at once, cancelled or with an error, and ask the model to stop."""
        if generation.finished is not None:
            return
        generation.put(generation.ending(FinishReason.ERROR if error else FinishReason.CANCELLED, error))
        self._timers.clear(generation)
        self._told.pop(generation, None)
        if generation in self._running:
            self._running[generation].cancel()
        else:
            self._waiting.remove(generation)
            if advance:
                self._advance()

    def _queue_expired(self, generation: Generation) -> None:
        self._end(generation, turn_missed(self.queue_timeout_s))

    def _load_expired(self, generation: Generation) -> None:
        self._end(generation, load_missed(generation.request.model, self.load_timeout_s))

    def _generation_expired(self, generation: Generation) -> None:
        self._end(generation, end_missed(self.generation_timeout_s))

    def _restart_timer(self, generation: Generation, event: Event) -> None:
        """An engine that loads while it answers has the time of a load for that."""
        if isinstance(event, Loading) and event.fraction == 1.0:
            self._timers.set(generation, self.generation_timeout_s, self._generation_expired)
        elif isinstance(event, Loading):
            self._timers.set(generation, self.load_timeout_s, self._load_expired)

    def _loading(self, model: ModelSpec, event: Loading) -> None:
        """A model is further on its way: who waits for it hears that, and who is behind them what follows."""
        self._tell_loading(model, event)
        self._tell_all()

    def _tell_loading(self, model: ModelSpec, event: Loading) -> None:
        """All who wait for a model hear how far it is; they have the time of a load for that."""
        for generation in self._waiting:
            if generation.request.model.key == model.key:
                if self._told.get(generation) != _LOADING:
                    self._told[generation] = _LOADING
                    self._timers.set(generation, self.load_timeout_s, self._load_expired)
                generation.put(replace(event, model=generation.request.model.alias))

    def _tell_all(self) -> None:
        """Everybody hears what is new to them: a position, another wait, or that their model is on its way."""
        waits_s = self._estimates.waits_s(
            self._running,
            self._waiting,
            self._slots,
            self._preparations.arrival,
            self._overtaking_limit,
            self._engine.joins,
        )
        waits = dict(zip(self._waiting, waits_s, strict=True))
        for position, generation in enumerate(fair_order(self._waiting, self._running), start=1):
            eta_s, knows = waits[generation], self._told.get(generation)
            now = Told(position, eta_s, self._estimates.clock())
            if progress := self._preparations.progress(generation.request.model):
                if knows != _LOADING:
                    self._tell_loading(generation.request.model, progress)
            elif knows is None or knows.outdated_by(now):
                if knows == _LOADING:  # its model is there: from now on it waits for its turn
                    self._timers.set(generation, self.queue_timeout_s, self._queue_expired)
                self._told[generation] = now
                generation.put(Queued(position, eta_s))
