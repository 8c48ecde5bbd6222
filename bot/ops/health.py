"""Whether the bot lives, and whether people can use it: what `/healthz` and `/readyz` say, and why not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bot.errors import StorageError
from bot.inference.queue import InferenceQueue
from bot.ops.discord_watch import DiscordWatch
from bot.ops.heartbeat import Heartbeat
from bot.ops.holding import Holding
from bot.storage.database import in_time

PATIENCE_S = 2.0  # for the database: whoever asks does not wait long either
DEAD_AFTER_S = 30.0  # without a beat, though the loop answers
STUCK_AFTER_S = 60.0  # a model that is told to stop does so within a token

# What is wrong with each part, None where nothing is.
Checks = dict[str, str | None]


class Health:
    """Looks at the parts when it is asked.

    Args:
        heart: the event loop's.
        discord: the connection.
    """

    def __init__(self, heart: Heartbeat, discord: DiscordWatch) -> None:
        self._heart = heart
        self._discord = discord
        self._queue: InferenceQueue | None = None
        self._ping: Callable[[], Awaitable[None]] | None = None
        self._drained: Callable[[], bool] = lambda: False
        self._holding = Holding()

    def attach(
        self, queue: InferenceQueue, ping: Callable[[], Awaitable[None]], drained: Callable[[], bool]
    ) -> None:
        """Everything is open.

        Args:
            queue: what answers.
            ping: returns when the database answers.
            drained: whether operators let nobody in.
        """
        self._queue, self._ping, self._drained = queue, ping, drained

    def life(self) -> dict[str, float | bool]:
        """How the event loop is; that somebody reads this at all says most."""
        age_s = self._heart.age_s
        return {
            "alive": age_s < DEAD_AFTER_S,
            "event_loop_lag_s": round(self._heart.lag_s, 6),
            "last_heartbeat_s_ago": round(age_s, 3),
        }

    async def readiness(self) -> Checks:
        """What is in the way of people who ask, by part. Takes `PATIENCE_S` at most."""
        if self._queue is None or self._ping is None:
            return {"start": "The bot is starting: libraries and the database are being opened."}
        return {
            "start": None,
            "gateway": None if self._discord.connected else "The bot is not connected to Discord's gateway.",
            "database": await _why_silent(self._ping),
            "engine": self._why_stuck(self._queue),
            "queue": "The bot takes nothing new: it is being drained or stopped."
            if self._queue.closing or self._drained()
            else None,
        }

    def _why_stuck(self, queue: InferenceQueue) -> str | None:
        """An answer that is over for its reader, and that the engine had not let go of at any look for too long."""
        longest_s = self._holding.longest_s(queue.held, asyncio.get_running_loop().time())
        if longest_s <= STUCK_AFTER_S:
            return None
        return f"The model has not let go of an answer for {longest_s:.0f} s after its end: restart the bot."


async def _why_silent(ping: Callable[[], Awaitable[None]]) -> str | None:
    try:
        await in_time(ping(), PATIENCE_S)
    except StorageError as error:
        return str(error)
    return None
