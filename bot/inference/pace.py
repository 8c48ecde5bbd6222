"""How fast a load goes, and so how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable

from bot.inference.engine import Loading, LoadStep

_WORTH_TELLING = 0.01
_TELLING_S = 1.0  # before this, a speed says nothing yet


class Pace:
    """Turns what a loader reports into events, one for each percent at most.

    Args:
        alias: the model's.
        clock: seconds that only go forward.
    """

    def __init__(self, alias: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._alias = alias
        self._clock = clock
        self._step: str | None = None
        self._began = (
            0.0,
            0.0,
        )  # when the step began, and how far it was then: a fetch may go on from the middle
        self._told = 0.0

    def event(self, step: str, fraction: float | None) -> Loading | None:
        """What people are to hear, or None where it is hardly news.

        Args:
            step: what is being done, as in "downloading gemma".
            fraction: how far it is, 0 to 1.
        """
        kind = LoadStep.DOWNLOADING if step.startswith("downloading") else LoadStep.LOADING
        if step != self._step:
            self._step = step
            self._began = (self._clock(), fraction or 0.0)
        elif fraction is None or fraction - self._told < _WORTH_TELLING:
            return None
        self._told = fraction or 0.0
        return Loading(self._alias, fraction, self._eta_s(fraction), kind)

    def _eta_s(self, fraction: float | None) -> float | None:
        began_s, began_fraction = self._began
        elapsed_s = self._clock() - began_s
        if fraction is None or fraction <= began_fraction or elapsed_s < _TELLING_S:
            return None
        return elapsed_s * (1.0 - fraction) / (fraction - began_fraction)
