"""One request on its way, as its reader holds it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from types import TracebackType
from typing import Self

from bot import trace
from bot.errors import BotError
from bot.inference.engine import Event, Finished, FinishReason, GenerationRequest, Reading, TextDelta, Usage
from bot.inference.observer import UNOBSERVED, Observer


class Generation:
    """An async iterator of events, the last of which is `Finished`.

    Use it as an async context manager; leaving the block gives its place back, whatever happened.

    Attributes:
        request: what is asked; from when the model begins with it, with the sampling that is really used.
        overtaken: how many later arrivals were begun before it, those apart that were begun while its own model
            was being fetched or loaded.
        asked_s: when it was submitted, by the queue's clock.
        begun_s: when it had its turn, by the same; None while it waits.
        usage: the numbers so far; those of the prompt from when the model begins with it.
        trace: what it belongs to in the log.
    """

    def __init__(
        self,
        request: GenerationRequest,
        on_cancel: Callable[[Generation, BotError | None], None],
        on_leave: Callable[[Generation], None],
        observer: Observer = UNOBSERVED,
        asked_s: float = 0.0,
    ) -> None:
        self.id = secrets.token_hex(6)
        self.request = request
        self.finished: Finished | None = None
        self.overtaken = 0
        self.asked_s = asked_s
        self.begun_s: float | None = None
        self.usage = Usage()
        self.trace = trace.current().reading(one.content for one in request.messages)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._woken = asyncio.Event()
        self._on_cancel = on_cancel
        self._on_leave = on_leave
        self._observer = observer
        self._drained = False
        self._from_before = 0  # events from before its turn that the reader has not taken yet
        self._reads_since_s: float | None = (
            None  # when the model began with the prompt, by `time.perf_counter`
        )

    @property
    def person(self) -> Hashable:
        """Whose it is; one that nobody is known for is nobody else's."""
        return self.id if self.request.person is None else self.request.person

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
        self._on_leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._drained:
            raise StopAsyncIteration
        return self._taken(await self._events.get())

    def next_nowait(self) -> Event | None:
        """The next event if it is there already, so that a slow reader can catch up in one go."""
        return None if self._events.empty() else self._taken(self._events.get_nowait())

    async def news(self) -> None:
        """Wait until there are events to take, or until `wake` is called."""
        await self._woken.wait()
        self._woken.clear()

    def wake(self) -> None:
        """Have `news` return: something else is to be looked at."""
        self._woken.set()

    def begin(self, now_s: float) -> None:
        """It has its turn at this time; for the queue. The reader is woken."""
        self.begun_s = now_s
        self._from_before = self._events.qsize()
        self._woken.set()

    @property
    def has_begun(self) -> bool:
        """Whether it has had its turn, and the reader has taken every event from before that."""
        return self.begun_s is not None and not self._from_before

    def cancel(self, error: BotError | None = None) -> None:
        """Stop it, waiting or running; does nothing once it has finished. With an error, that is how it ended."""
        self._on_cancel(self, error)

    def put(self, event: Event) -> None:
        """Hand an event to the reader; for the queue. Whatever comes after `Finished` is dropped."""
        if self.finished is not None:
            return
        self._observer.happened(self, event)
        if isinstance(event, Reading):
            self.usage = event.usage
            if event.params is not None:
                self.request = replace(self.request, params=event.params)
            if self._reads_since_s is None:
                self._reads_since_s = time.perf_counter() - event.usage.generation_s
            return
        if isinstance(event, TextDelta):
            self.usage = event.usage
        if isinstance(event, Finished):
            self.finished = event
        self._events.put_nowait(event)
        self._woken.set()

    def ending(self, reason: FinishReason, error: BotError | None = None) -> Finished:
        """An end that does not come from the engine, with the numbers up to now; for the queue."""
        usage = self.usage
        if self._reads_since_s is not None:  # the model was at work since its last event, too
            used_s = time.perf_counter() - self._reads_since_s
            usage = replace(usage, generation_s=max(usage.generation_s, used_s))
        return Finished(reason, usage, error)

    def _taken(self, event: Event) -> Event:
        self._drained = isinstance(event, Finished)
        self._from_before = max(0, self._from_before - 1)
        return event
