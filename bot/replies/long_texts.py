"""Reading texts without holding up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

LONG_CHARACTERS = 2_000  # the worst of that length takes some 10 ms on an old processor

_Result = TypeVar("_Result")


async def read_apart(work: Callable[[str], _Result], text: str) -> _Result:
    """What `work` makes of a text: at once if the text is short, on a thread if it is long.

    Args:
        work: pure, and takes time in proportion to the text.
        text: of any length.
    """
    return work(text) if len(text) <= LONG_CHARACTERS else await asyncio.to_thread(work, text)
