"""Whether this machine's clock agrees with that of servers it talks to."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from bot.ops.findings import Verdict

_NOTICED_S = 5.0
# From here on certificates seem invalid, and Discord's interactions expired before they came.
_HARMFUL_S = 60.0


class Clock:
    """Notes by how much this machine's clock is ahead of others'."""

    def __init__(self) -> None:
        self._ahead_s: dict[str, float] = {}

    def note(
        self, whose: str, date: str | None, asked_at_s: float, answered_at_s: float | None = None
    ) -> None:
        """Somebody answered a request with this `Date` header; the times are by this machine's clock."""
        try:
            told_s = parsedate_to_datetime(date or "").timestamp() + 0.5  # the header has whole seconds
        except ValueError:
            return
        answered_at_s = time.time() if answered_at_s is None else answered_at_s
        # The answer was written between the two; what is less than a second or so is not known.
        self._ahead_s[whose] = (asked_at_s + answered_at_s) / 2 - told_s

    def note_ahead(self, whose: str, ahead_s: float) -> None:
        """This machine's clock is that much ahead of somebody's."""
        self._ahead_s[whose] = ahead_s

    def verdict(self) -> tuple[Verdict, str] | None:
        """What was found, by whoever is first in the order of asking; None if nobody told."""
        if not self._ahead_s:
            return None
        whose, ahead_s = next(iter(self._ahead_s.items()))
        apart_s = abs(ahead_s)
        if apart_s <= _NOTICED_S:
            return Verdict.OK, f"agrees with {whose} to a few seconds"
        way = "ahead of" if ahead_s > 0 else "behind"
        text = f"{apart_s:.0f} s {way} {whose}: switch time synchronisation on (`timedatectl set-ntp true`)"
        return Verdict.FAILED if apart_s > _HARMFUL_S else Verdict.WARNING, text
