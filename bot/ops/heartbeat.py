"""Whether the event loop runs, and how late it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

PERIOD_S = 0.5


class Heartbeat:
    """A task that wants to run every so often; how late it does is how late everything on the loop is.

    Args:
        late: told after each beat by how many seconds it was late.
        period_s: the time between two beats.

    Attributes:
        lag_s: how late the last beat was.
        at_s: when it was, by the event loop's clock.
    """

    def __init__(self, late: Callable[[float], None], period_s: float = PERIOD_S) -> None:
        self.lag_s = 0.0
        self.at_s = 0.0
        self._late = late
        self._period_s = period_s

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.at_s = self._loop.time()
        self._beating = asyncio.create_task(self._beat(), name="heartbeat")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)

    @property
    def age_s(self) -> float:
        """The time since the last beat."""
        return self._loop.time() - self.at_s

    async def _beat(self) -> None:
        while True:
            due_s = self._loop.time() + self._period_s
            await asyncio.sleep(self._period_s)
            self.at_s = self._loop.time()
            self.lag_s = max(0.0, self.at_s - due_s)
            self._late(self.lag_s)
