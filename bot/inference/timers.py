"""A timer for each generation, in a context of its own, and what people are told when it has run out."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable

from bot.errors import GenerationTimeout, QueueTimeout
from bot.inference.catalog import ModelSpec
from bot.inference.estimate import spoken
from bot.inference.generation import Generation


class Timers:
    """At most one for each generation; setting another one puts it in the place of the first.

    Args:
        context: what they run in, rather than in that of whoever happened to set them.
    """

    def __init__(self, context: contextvars.Context) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._handles: dict[Generation, asyncio.TimerHandle] = {}

    def set(self, generation: Generation, delay_s: float, then: Callable[[Generation], None]) -> None:
        """Call `then` in so long, unless the generation has finished already."""
        self.clear(generation)
        if generation.finished is None:
            own = self._context.copy()  # a copy, because a context cannot be entered twice
            self._handles[generation] = own.run(self._loop.call_later, delay_s, then, generation)

    def clear(self, generation: Generation) -> None:
        """Call nothing."""
        if timer := self._handles.pop(generation, None):
            timer.cancel()


def turn_missed(limit_s: float) -> QueueTimeout:
    """Somebody waited for their turn for too long."""
    return QueueTimeout(f"Your turn did not come within {spoken(limit_s)}. Please try again later.")


def load_missed(model: ModelSpec, limit_s: float) -> GenerationTimeout:
    """A model was not there in time."""
    return GenerationTimeout(
        f"{model.alias} could not be loaded within {spoken(limit_s)}. Please try another model."
    )


def end_missed(limit_s: float) -> GenerationTimeout:
    """A model did not finish in time."""
    return GenerationTimeout(f"The answer was not finished within {spoken(limit_s)}.")
