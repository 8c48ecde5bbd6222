"""Who is next. Pure.

First come, first served, with one exception: a request whose model is in memory may go before earlier ones whose
model is not, because changing models costs seconds. `OVERTAKING_LIMIT` bounds that, so that a popular model
cannot keep another one out for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

OVERTAKING_LIMIT = 8


class Waiting(Protocol):
    """Somebody in the line."""

    overtaken: int


_W = TypeVar("_W", bound=Waiting)


def next_to_start(
    waiting: Sequence[_W],
    *,
    ready: Callable[[_W], bool],
    excused: Callable[[_W], bool],
    limit: int = OVERTAKING_LIMIT,
) -> _W | None:
    """The one to start now, or None if nobody may; counts whom it overtakes.

    Args:
        waiting: in the order of arrival.
        ready: whether its model is in memory.
        excused: whether its model is being fetched or loaded right now: it could not run anyway, so those who
            run in the meantime take nothing from it.
        limit: how often one may be overtaken.
    """
    earlier: list[_W] = []
    for one in waiting:
        if ready(one):
            for passed in earlier:
                passed.overtaken += 1
            return one
        if not excused(one):
            if one.overtaken >= limit:
                return None
            earlier.append(one)
    return None
