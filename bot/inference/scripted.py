"""An engine that says what it is told to: for tests of what a real model cannot do on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bot.inference.catalog import ModelKey, ModelSpec
from bot.inference.engine import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Loading,
    Reading,
    Report,
    TextDelta,
    Usage,
)
from bot.inference.memory import MemoryReport


@dataclass
class ScriptedEngine:
    """Plays `script` for every request: a text is a delta, an exception is raised, anything else is awaited.

    A step may be a function that returns an awaitable, made anew for each request; an `asyncio.Event`'s
    `wait` lets a test hold the engine where it wants it. A `Loading` step is passed on as it is.

    Attributes:
        started: the requests that were begun, in order.
        stopped: how many generations were ended from outside.
        report: what `memory` says.
    """

    script: Sequence[str | Exception | Loading | Callable[[], object]] = ("Hello", ", ", "world.")
    reason: FinishReason = FinishReason.STOP
    started: list[GenerationRequest] = field(default_factory=list)
    stopped: int = 0
    closed: bool = False
    report: MemoryReport = field(default_factory=lambda: MemoryReport(0))

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Play the script."""
        self.started.append(request)
        usage = Usage(prompt_tokens=8)
        try:
            yield Reading(usage)
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Loading):
                    yield step
                elif isinstance(step, str):
                    usage = Usage(8, usage.completion_tokens + 1, 0.05, (usage.completion_tokens + 1) / 20)
                    yield TextDelta(step, usage)
                else:
                    await step()  # type: ignore[misc]  # whatever the test gave
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise
        yield Finished(self.reason, usage)

    def ready(self, model: ModelSpec) -> bool:
        """Everything is always there."""
        return True

    def joins(self, model: ModelSpec, running: Iterable[ModelSpec]) -> bool:
        """Everything goes beside everything."""
        return True

    async def fetch(self, model: ModelSpec, report: Report) -> None:
        """Nothing to fetch."""

    def victims(self, model: ModelSpec) -> tuple[ModelKey, ...] | None:
        """Nothing is in the way."""
        return ()

    def unload(self, models: tuple[ModelKey, ...]) -> None:
        """Nothing to unload."""

    def pin(self, models: Iterable[ModelSpec]) -> None:
        """Everything stays anyway."""

    async def load(self, model: ModelSpec, report: Report) -> None:
        """Nothing to load."""

    def memory(self) -> MemoryReport:
        """What the test says is in memory."""
        return self.report

    async def aclose(self) -> None:
        """Nothing to let go of."""
        self.closed = True
