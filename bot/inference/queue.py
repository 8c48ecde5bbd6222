"""The queue in front of the one GPU: who runs, who waits, who is told what.

`submit` gives a place or refuses at once. Each `Generation` that has its turn is run by a task of its own,
and the next one starts when that task has ended, which is when the model has really stopped. What the person
is told does not wait for that: a cancelled or timed-out generation is finished for its reader in the same
instant, so nobody waits for ever even if a model hangs.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self

from bot.errors import BotError, GenerationTimeout, QueueFull, QueueTimeout, ShuttingDown, Unexpected
from bot.inference.engine import (
    Engine,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Loading,
    Queued,
    TextDelta,
    Usage,
)

log = logging.getLogger(__name__)

STOP_GRACE_S = 10.0  # how long closing waits for models to stop before it leaves them


class Generation:
    """One request on its way: an async iterator of events, the last of which is `Finished`.

    Use it as an async context manager; leaving the block gives its place back, whatever happened.
    """

    def __init__(self, request: GenerationRequest, on_cancel: Callable[[Generation], None]) -> None:
        self.id = secrets.token_hex(4)
        self.request = request
        self.finished: Finished | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._on_cancel = on_cancel
        self._usage = Usage()
        self._drained = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._drained:
            raise StopAsyncIteration
        return self._taken(await self._events.get())

    def next_nowait(self) -> Event | None:
        """The next event if it is there already, so that a slow reader can catch up in one go."""
        return None if self._events.empty() else self._taken(self._events.get_nowait())

    def cancel(self) -> None:
        """Stop it, waiting or running; does nothing once it has finished."""
        self._on_cancel(self)

    def put(self, event: Event) -> None:
        """Hand an event to the reader; for the queue. Whatever comes after `Finished` is dropped."""
        if self.finished is not None:
            return
        if isinstance(event, TextDelta):
            self._usage = event.usage
        if isinstance(event, Finished):
            self.finished = event
        self._events.put_nowait(event)

    def ending(self, reason: FinishReason, error: BotError | None = None) -> Finished:
        """An end that does not come from the engine, with the numbers so far; for the queue."""
        return Finished(reason, self._usage, error)

    def _taken(self, event: Event) -> Event:
        self._drained = isinstance(event, Finished)
        return event


class InferenceQueue:
    """Requests wait here, first come first served, for one of the engine's slots.

    Args:
        engine: what answers; not closed by the queue.
        slots: how many requests the engine is given at a time.
        limit: how many may wait beside those that run.
        queue_timeout_s: the longest wait for a turn.
        load_timeout_s: the longest a model may take to load, counted from the turn on.
        generation_timeout_s: the longest an answer may take once the model is there.
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
    ) -> None:
        self._engine = engine
        self._slots = slots
        self._limit = limit
        self._queue_timeout_s = queue_timeout_s
        self._load_timeout_s = load_timeout_s
        self._generation_timeout_s = generation_timeout_s
        self._waiting: deque[Generation] = deque()
        self._running: dict[Generation, asyncio.Task[Finished]] = {}
        self._timers: dict[Generation, asyncio.TimerHandle] = {}
        self._mean_run_s: float | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        # Tasks and timers are the queue's own, not those of the command that happened to submit: they start
        # from the context the queue was opened in.
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for generation in (*self._waiting, *self._running):
            self._end(
                generation,
                FinishReason.ERROR,
                ShuttingDown("The bot is restarting; please ask again in a minute."),
            )
        if self._running:
            _, stuck = await asyncio.wait(tuple(self._running.values()), timeout=STOP_GRACE_S)
            if stuck:
                log.error("left %d generation(s) that did not stop within %.0f s", len(stuck), STOP_GRACE_S)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many hold a slot; one that was cancelled holds it until its model has stopped."""
        return len(self._running)

    def submit(self, request: GenerationRequest) -> Generation:
        """Give the request a place, running or waiting.

        Raises:
            QueueFull: nobody else may wait.
            ShuttingDown: the queue is being closed.
        """
        if self._closing:
            raise ShuttingDown("The bot is restarting; please ask again in a minute.")
        generation = Generation(request, self._cancel)
        if len(self._running) < self._slots:
            self._start(generation)
        elif len(self._waiting) < self._limit:
            self._wait(generation)
        else:
            raise QueueFull(
                f"Too many people are asking at once ({self._limit} are waiting already). Please try again in a minute."
            )
        return generation

    def _wait(self, generation: Generation) -> None:
        self._waiting.append(generation)
        self._set_timer(generation, self._queue_timeout_s, self._queue_expired)
        self._tell(generation, len(self._waiting))

    def _start(self, generation: Generation) -> None:
        task = self._context.copy().run(self._loop.create_task, self._run(generation))
        self._running[generation] = task
        task.add_done_callback(lambda ended: self._ended(generation, ended), context=self._context.copy())

    async def _run(self, generation: Generation) -> Finished:
        """Have the engine answer; returns how it ended, when the engine has let go."""
        started_s = self._loop.time()
        ending: Finished | None = None
        try:
            async with aclosing(self._engine.generate(generation.request)) as events:
                # Until an engine says that it loads, it is expected to answer.
                self._set_timer(generation, self._generation_timeout_s, self._generation_expired)
                async for event in events:
                    if isinstance(event, Finished):
                        ending = event
                        break
                    self._restart_timer(generation, event)
                    generation.put(event)
            if ending is None:
                raise RuntimeError("the engine ended without saying why")
            self._measured(self._loop.time() - started_s)
        except BotError as error:
            ending = generation.ending(FinishReason.ERROR, error)
        except Exception:
            log.exception("generation %s on %s failed", generation.id, generation.request.model.alias)
            bug = Unexpected("while the model was answering", generation.id)
            ending = generation.ending(FinishReason.ERROR, bug)
        return ending

    def _ended(self, generation: Generation, task: asyncio.Task[Finished]) -> None:
        """The model has stopped: the slot goes to whoever waits longest, and the reader hears of the end."""
        self._clear_timer(generation)
        del self._running[generation]
        if self._waiting and not self._closing:
            self._start(self._waiting.popleft())
            self._tell_all()
        generation.put(generation.ending(FinishReason.CANCELLED) if task.cancelled() else task.result())

    def _cancel(self, generation: Generation) -> None:
        self._end(generation, FinishReason.CANCELLED)

    def _end(self, generation: Generation, reason: FinishReason, error: BotError | None = None) -> None:
        """Finish for the reader at once, and ask the model to stop."""
        if generation.finished is not None:
            return
        generation.put(generation.ending(reason, error))
        self._clear_timer(generation)
        if generation in self._running:
            self._running[generation].cancel()
        else:
            self._waiting.remove(generation)
            self._tell_all()

    def _queue_expired(self, generation: Generation) -> None:
        text = f"Your turn did not come within {_spoken(self._queue_timeout_s)}. Please try again later."
        self._end(generation, FinishReason.ERROR, QueueTimeout(text))

    def _load_expired(self, generation: Generation) -> None:
        alias = generation.request.model.alias
        text = (
            f"{alias} could not be loaded within {_spoken(self._load_timeout_s)}. Please try another model."
        )
        self._end(generation, FinishReason.ERROR, GenerationTimeout(text))

    def _generation_expired(self, generation: Generation) -> None:
        text = f"The answer was not finished within {_spoken(self._generation_timeout_s)}."
        self._end(generation, FinishReason.ERROR, GenerationTimeout(text))

    def _restart_timer(self, generation: Generation, event: Event) -> None:
        """Loading has a time of its own; the answer's time starts when the model is there."""
        if isinstance(event, Loading):
            loaded = event.fraction == 1.0
            if loaded:
                self._set_timer(generation, self._generation_timeout_s, self._generation_expired)
            else:
                self._set_timer(generation, self._load_timeout_s, self._load_expired)

    def _set_timer(self, generation: Generation, delay_s: float, then: Callable[[Generation], None]) -> None:
        self._clear_timer(generation)
        if generation.finished is None:
            own = self._context.copy()  # a copy, because a context cannot be entered twice
            self._timers[generation] = own.run(self._loop.call_later, delay_s, then, generation)

    def _clear_timer(self, generation: Generation) -> None:
        if timer := self._timers.pop(generation, None):
            timer.cancel()

    def _measured(self, run_s: float) -> None:
        self._mean_run_s = run_s if self._mean_run_s is None else 0.8 * self._mean_run_s + 0.2 * run_s

    def _tell_all(self) -> None:
        for position, generation in enumerate(self._waiting, start=1):
            self._tell(generation, position)

    def _tell(self, generation: Generation, position: int) -> None:
        eta_s = None if self._mean_run_s is None else position * self._mean_run_s / self._slots
        generation.put(Queued(position, eta_s))


def _spoken(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
