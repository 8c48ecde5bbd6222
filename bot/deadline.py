"""The time before Discord must have heard of a command or a press, shared by all that comes before the acknowledgement.

Discord gives 3 s. Several database reads, each with its own time-out, could take longer than that in total. The
deadline lives in a context variable, so that callers need not pass it on. Code that runs after the acknowledgement uses
the database's `in_time`, which ignores the deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TypeVar

from bot.errors import StorageError

BEFORE_ANSWER_S = 2.2  # with what the network takes, Discord has its answer within 3 s

_Result = TypeVar("_Result")
_ends_at_s: ContextVar[float | None] = ContextVar("deadline", default=None)


def begin(seconds: float = BEFORE_ANSWER_S) -> None:
    """A command, a press or a mention has come: for the rest of this task, all work before its answer ends by then."""
    _ends_at_s.set(asyncio.get_running_loop().time() + seconds)


def left_s(most_s: float) -> float:
    """What may be waited now: what is left, and `most_s` at most. Without a deadline, `most_s`."""
    ends_at_s = _ends_at_s.get()
    if ends_at_s is None:
        return most_s
    return max(0.0, min(most_s, ends_at_s - asyncio.get_running_loop().time()))


async def before_answer(work: Awaitable[_Result], most_s: float = BEFORE_ANSWER_S) -> _Result:
    """What a store says, for somebody whom Discord waits for; what the store does goes on.

    Raises:
        StorageError: it took longer than was left.
    """
    try:
        async with asyncio.timeout(left_s(most_s)):
            return await work
    except TimeoutError:
        raise StorageError("The database does not answer. Please try again in a minute.") from None
