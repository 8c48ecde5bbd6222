"""How many requests a bucket of Discord's takes, kept by us so that its limit is never met. Pure.

People see about 5 requests in 5 s for each interaction's replies, and for each channel's new messages and, apart, its
edits with the bot's own token; 50 a second in all (PLATFORM: the limits of buckets are not published; discord.py reads
them from each answer and waits). Kept under them, an end never waits behind an edit that was worth less.
"""

from __future__ import annotations

from collections import deque

BUCKET_REQUESTS = 5
BUCKET_WINDOW_S = 5.0
LATE_S = 0.1  # discord.py, which reads the limit from each answer, waits for what may be missing


class Budget:
    """The requests of one bucket. Those that are worth waiting for leave one for what is not.

    Args:
        requests: how many in any `window_s` seconds.
        window_s: the window.
        reserve: how many of them are kept for what is urgent, such as the end of an answer.
        spacing_s: the least time between two requests of which the second is not urgent; spread out like that, the next
            place for something urgent is never far.
    """

    def __init__(
        self,
        requests: int = BUCKET_REQUESTS,
        window_s: float = BUCKET_WINDOW_S,
        *,
        reserve: int = 0,
        spacing_s: float = 0.0,
    ) -> None:
        self._requests = requests
        self._window_s = window_s
        self._reserve = reserve
        self._spacing_s = spacing_s
        self._spent: deque[float] = deque(maxlen=requests)

    def wait_s(
        self, now_s: float, *, urgent: bool = False, reserved: bool | None = None, ahead: int = 0
    ) -> float:
        """How long until the next request may be made; 0 if it may be made now.

        Args:
            now_s: the time.
            urgent: it need not keep the distance, and may take from the reserve.
            reserved: whether it may take from the reserve, where that is not the same.
            ahead: how many others are made before it, each as early as it may.
        """
        allowed = (
            self._requests if (urgent if reserved is None else reserved) else self._requests - self._reserve
        )
        spacing_s = 0.0 if urgent else self._spacing_s
        spent = deque(self._spent, self._requests)
        for _ in range(ahead):
            spent.append(self._earliest_s(spent, now_s, allowed, spacing_s))
        return self._earliest_s(spent, now_s, allowed, spacing_s) - now_s

    def spend(self, now_s: float) -> None:
        """A request is made. One that keeps the distance, and comes a moment late, counts as made in time: else each
        round of a long line would be longer by all those moments. So the window may be up to `LATE_S` shorter there."""
        if self._spacing_s and self._spent:
            due_s = self._earliest_s(self._spent, 0.0, self._requests, self._spacing_s)
            if due_s <= now_s < due_s + LATE_S:
                now_s = due_s
        self._spent.append(now_s)

    def is_idle(self, now_s: float) -> bool:
        """Whether nothing that was made counts any more."""
        return not self._spent or self._spent[-1] + self._window_s <= now_s

    def _earliest_s(self, spent: deque[float], now_s: float, allowed: int, spacing_s: float) -> float:
        earliest_s = now_s
        if len(spent) >= allowed:
            earliest_s = max(earliest_s, spent[-allowed] + self._window_s)
        if spent:
            earliest_s = max(earliest_s, spent[-1] + spacing_s)
        return earliest_s
