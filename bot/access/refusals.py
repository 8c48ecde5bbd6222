"""Which refusals are said where everybody reads them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from bot.errors import AccessRefused, PlaceClosed

PAUSE = timedelta(minutes=10)


class Refusals:
    """Sees to it that whoever is refused a mention hears why once in a while, and the channel does not hear it often.

    Where the bot is not to be used it says nothing at all: commands are refused there, for one person to see.

    Args:
        clock: the time, with its zone.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._said_at: dict[int, datetime] = {}

    def worth_saying(self, refusal: AccessRefused, person_id: int) -> bool:
        """Whether to say it to this person now; if so, it is said."""
        now = self._clock()
        self._said_at = {one: at for one, at in self._said_at.items() if now - PAUSE < at <= now}
        if isinstance(refusal, PlaceClosed) or person_id in self._said_at:
            return False
        self._said_at[person_id] = now
        return True
