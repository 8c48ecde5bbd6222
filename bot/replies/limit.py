"""Discord's limit for the whole bot: so many requests in any second. Pure.

Counted are requests that are in flight, and those that were answered less than a second ago. A request arrives at some
time between being sent and being answered, so no second of arrivals can hold more than the limit, however uneven the
network or a busy machine makes them. (Counting from when they were sent met it as soon as the machine was busy.)
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 1.0


class GlobalLimit:
    """Counts the requests of the whole bot.

    Args:
        requests: how many may arrive in any second.
    """

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self._in_flight = 0
        self._answered: deque[float] = deque()

    def wait_s(self, now_s: float, *, ahead: int = 0) -> float:
        """How long until it is worth asking again whether one more may be sent behind `ahead` others; 0 if it may."""
        while self._answered and self._answered[0] + WINDOW_S <= now_s:
            self._answered.popleft()
        missing = ahead + 1 - (self._requests - self._in_flight - len(self._answered))
        if missing <= 0:
            return 0.0
        if missing <= len(self._answered):
            return self._answered[missing - 1] + WINDOW_S - now_s
        return WINDOW_S  # those in flight count for at least so long

    def sent(self) -> None:
        """A request is on its way."""
        self._in_flight += 1

    def answered(self, now_s: float) -> None:
        """It was answered, or given up."""
        self._in_flight -= 1
        self._answered.append(now_s)
