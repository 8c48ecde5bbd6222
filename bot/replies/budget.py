"""How many requests a bucket of Discord's takes, kept by us so that its limit is never met. Pure.

People see about 5 requests in 5 s for each interaction's replies, and for each channel's messages (PLATFORM: the
limits are not published; discord.py reads them from each answer and waits). Kept under them, an end never waits behind
an edit that was worth less.
"""

from __future__ import annotations

from collections import deque

BUCKET_REQUESTS = 5
BUCKET_WINDOW_S = 5.0


class Budget:
    """The requests of one bucket. Those that are worth waiting for leave one for what is not.

    Args:
        requests: how many in any `window_s` seconds.
        window_s: the window.
        reserve: how many of them are kept for what must not wait: the end of an answer.
    """

    def __init__(
        self, requests: int = BUCKET_REQUESTS, window_s: float = BUCKET_WINDOW_S, reserve: int = 1
    ) -> None:
        self._requests = requests
        self._window_s = window_s
        self._reserve = reserve
        self._spent: deque[float] = deque(maxlen=requests)

    def wait_s(self, now_s: float, *, urgent: bool = False) -> float:
        """How long until the next request may be made; 0 if it may be made now."""
        allowed = self._requests if urgent else self._requests - self._reserve
        if len(self._spent) < allowed:
            return 0.0
        return max(0.0, self._spent[-allowed] + self._window_s - now_s)

    def spend(self, now_s: float) -> None:
        """A request is made."""
        self._spent.append(now_s)
