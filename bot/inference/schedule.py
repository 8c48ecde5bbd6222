"""Who is next. Pure.

First come, first served, but for two things. People share: whoever has fewest requests running is first, so that one
person's ten do not keep out another's one. And requests for the model that answers now go before those for others,
because they join its batch while a change of models costs seconds.

Both let later arrivals pass. `OVERTAKING_LIMIT` bounds it: the first of a person's waiting requests is passed by so
many later ones at most, and then nobody else starts before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Protocol, TypeVar

OVERTAKING_LIMIT = 8


class Waiting(Protocol):
    """Somebody in the line."""

    overtaken: int

    @property
    def person(self) -> Hashable:
        """Whose request it is."""
        ...


_W = TypeVar("_W", bound=Waiting)


def fair_order(waiting: Sequence[_W], running: Iterable[Waiting]) -> list[_W]:
    """The line as it is served if all models are there: by turns of people, each person's own in order.

    Args:
        waiting: in the order of arrival.
        running: those that are being answered.
    """
    turns = Counter(one.person for one in running)
    ranked = []
    for arrival, one in enumerate(waiting):
        ranked.append((turns[one.person], arrival, one))
        turns[one.person] += 1
    return [one for _, _, one in sorted(ranked, key=lambda entry: entry[:2])]


def next_to_start(
    waiting: Sequence[_W],
    *,
    running: Iterable[Waiting] = (),
    ready: Callable[[_W], bool],
    excused: Callable[[_W], bool],
    limit: int = OVERTAKING_LIMIT,
) -> _W | None:
    """The one to start now, or None if nobody may; counts whom it overtakes.

    Args:
        waiting: in the order of arrival.
        running: those that are being answered.
        ready: whether it could start now: its model is in memory, and no other one answers.
        excused: whether its model is being fetched or loaded right now: it could not run anyway, so those who
            run in the meantime take nothing from it.
        limit: how often one may be overtaken.
    """
    arrival = {id(one): place for place, one in enumerate(waiting)}
    first_of = {one.person: one for one in reversed(waiting)}
    for one in fair_order(waiting, running):
        if not ready(one):
            continue
        passed = [
            other
            for person, other in first_of.items()
            if person != one.person and arrival[id(other)] < arrival[id(one)] and not excused(other)
        ]
        own = [
            other
            for other in waiting[: arrival[id(one)]]
            if other.person == one.person and not ready(other) and not excused(other)
        ][:1]
        if all(other.overtaken < limit for other in (*passed, *own)):
            for other in (*passed, *own):
                other.overtaken += 1
            return one
    return None
