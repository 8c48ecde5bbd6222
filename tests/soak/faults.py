"""What goes wrong on the way to Discord, drawn at random."""

from __future__ import annotations

import random
from collections import Counter
from enum import StrEnum


class Fault(StrEnum):
    """What happens to one request."""

    REFUSED = "500 before anything was done"
    LOST = "done, and answered with 502"
    CUT = "done, and the connection cut"
    SLOW = "answered late"


_SHARES = {Fault.REFUSED: 0.012, Fault.LOST: 0.006, Fault.CUT: 0.004, Fault.SLOW: 0.01}


class Faults:
    """Draws faults.

    Args:
        chance: where they come from.
        scale: how many there are; 0 for none.

    Attributes:
        count: how many of each there were.
    """

    def __init__(self, chance: random.Random, scale: float = 1.0) -> None:
        self._chance = chance
        self.scale = scale
        self.count: Counter[Fault] = Counter()

    def next(self, path: str) -> Fault | None:
        """What happens to a request to this path; most often nothing."""
        drawn = self._chance.random()
        for fault, share in _SHARES.items():
            drawn -= share * self.scale
            if drawn < 0:
                self.count[fault] += 1
                return fault
        return None

    def late_s(self) -> float:
        """How long a late answer takes."""
        return self._chance.uniform(0.5, 2.0)
