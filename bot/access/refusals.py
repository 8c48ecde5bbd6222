"""Limits the public messages the bot sends to users whose mention it does not answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import datetime, timedelta

from bot.errors import AccessRefused, PlaceClosed

PAUSE = timedelta(minutes=10)  # between two refusals by a rule or a limit to one person
SHORT_PAUSE = timedelta(minutes=1)  # between two of anything else of one kind: the queue may be full no more
CHANNEL_SPAN = timedelta(minutes=1)
CHANNEL_MOST = 5  # refusals in one channel within that span, across all users


class Refusals:
    """Limits what users can make the bot post by mentioning it: per user and kind of message, and per channel.

    Where the bot is not to be used it says nothing at all: commands are refused there, for one person to see.

    Args:
        clock: the time, with its zone.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._said: dict[Hashable, tuple[datetime, timedelta]] = {}  # when, and for how long not again
        self._in_channels: list[tuple[datetime, int]] = []

    def worth_saying(self, what: BaseException | str, person_id: int, channel_id: int) -> bool:
        """Whether to say it now; if so, it counts as said.

        Args:
            what: the error whose sentence it would be, or a name for something else that would be said.
            person_id: who would read it.
            channel_id: where.
        """
        now = self._clock()
        self._said = {key: (at, pause) for key, (at, pause) in self._said.items() if now - pause < at <= now}
        self._in_channels = [(at, one) for at, one in self._in_channels if now - CHANNEL_SPAN < at <= now]
        if isinstance(what, PlaceClosed):
            return False
        is_refusal = isinstance(what, AccessRefused)
        kind = AccessRefused if is_refusal else what if isinstance(what, str) else type(what)
        heard = (person_id, kind) in self._said
        if heard or sum(one == channel_id for _, one in self._in_channels) >= CHANNEL_MOST:
            return False
        self._said[person_id, kind] = (now, PAUSE if is_refusal else SHORT_PAUSE)
        self._in_channels.append((now, channel_id))
        return True
