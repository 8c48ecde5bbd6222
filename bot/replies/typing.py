"""The line "Punchline is typing…", while answers to mentions are on their way.

Discord shows it for 10 s a call. One caller for each channel is enough, however many answers are on their way there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import discord

from bot.replies.surface import CALL_TIMEOUT_S, TROUBLE
from bot.replies.wait import Wait, just_wait

PERIOD_S = 8.0


class TypingSigns:
    """Which channels show that the bot is typing.

    Args:
        wait: how to wait between two calls, see `Wait`.
    """

    def __init__(self, wait: Wait = just_wait) -> None:
        self._wait = wait
        self._wanted: Counter[int] = Counter()
        self._callers: dict[int, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def shown(self, channel: discord.PartialMessageable) -> AsyncIterator[None]:
        """Show it while the block runs. A channel where it cannot be shown goes without."""
        self._wanted[channel.id] += 1
        if self._wanted[channel.id] == 1:
            self._callers[channel.id] = asyncio.create_task(self._call(channel))
        try:
            yield
        finally:
            self._wanted[channel.id] -= 1
            if not self._wanted[channel.id]:
                del self._wanted[channel.id]
                self._callers.pop(channel.id).cancel()

    async def _call(self, channel: discord.PartialMessageable) -> None:
        try:
            while True:
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await channel.typing()
                await self._wait(asyncio.sleep(PERIOD_S), reason="the next call for the typing line")
        except TROUBLE:
            return  # nobody misses it
