"""What tests read of an answer."""

from __future__ import annotations

import os

import psutil

from bot.inference.engine import Event, Finished, TextDelta
from bot.inference.generation import Generation


async def read(generation: Generation) -> list[Event]:
    """All its events, to the end."""
    async with generation:
        return [event async for event in generation]


def text_of(events: list[Event]) -> str:
    """What was said."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def ending(events: list[Event]) -> Finished:
    """How it ended."""
    assert isinstance(events[-1], Finished)
    return events[-1]


def rss_bytes() -> int:
    """The memory of this process."""
    return int(psutil.Process(os.getpid()).memory_info().rss)
