"""For how long the engine has held on to answers that are over, as far as whoever looks has seen."""

from __future__ import annotations

from collections.abc import Collection, Hashable


class Holding:
    """Remembers since when each answer has been held at every look (`InferenceQueue.held`)."""

    def __init__(self) -> None:
        self._since_s: dict[Hashable, float] = {}

    def longest_s(self, held: Collection[Hashable], now_s: float) -> float:
        """Look again: for how long the one that has been held longest has been; 0 if none is."""
        self._since_s = {one: self._since_s.get(one, now_s) for one in held}
        return max((now_s - since_s for since_s in self._since_s.values()), default=0.0)
