"""How late the event loop is."""

from __future__ import annotations

import asyncio
import time


class LagMeter:
    """Measures how late a task runs that wants to run every so often.

    Args:
        period_s: how often. Every 5 ms costs a model on a CPU about 3 % of its speed.

    Attributes:
        lags_s: one for each time.
    """

    def __init__(self, period_s: float) -> None:
        self.lags_s: list[float] = []
        self._period_s = period_s

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due_s = time.monotonic() + self._period_s
            await asyncio.sleep(self._period_s)
            self.lags_s.append(time.monotonic() - due_s)
