"""A simulated Discord with one server, and the real bot in it.

simcord runs discord.py itself against an in-memory Discord. Its time is virtual: what the bot does on Discord
happens when `Env.advance_time` says so. The model lives in real time, so the queue and the engine are opened
before the simulation and belong to no command, and a reply announces its waits for the model (`Wait`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import discord
import simcord
from simcord.actors import MemberActor
from simcord.builders import ChannelHandle
from simcord.env import Env

from bot.app import open_services
from bot.client import PunchlineBot
from bot.inference.engine import Engine, Finished
from bot.inference.generation import Generation
from bot.inference.observer import UNOBSERVED, Observer
from bot.replies.keep import NOTHING, Keep
from bot.replies.live import LiveReply
from bot.settings import Settings


@dataclass
class World:
    """The simulated Discord.

    Attributes:
        env: simcord's environment.
        bot: the real bot.
        channel: the text channel it is used in.
        visitor: the person who uses it.
        begun: how many replies of a model were begun; other commands answer with a card or a sentence.
        endings: how each of them ended, in order.
    """

    env: Env
    bot: PunchlineBot
    channel: ChannelHandle
    visitor: MemberActor
    begun: int = 0
    endings: list[Finished] = field(default_factory=list)
    _moved_s: float = field(default_factory=time.monotonic)

    @property
    def is_answering(self) -> bool:
        """Whether a reply has begun that has not ended."""
        return self.begun > len(self.endings)

    async def catch_up(self) -> None:
        """Bring simulated time level with real time: due edits are made, and the bot reacts to the model."""
        now_s = time.monotonic()
        await self.env.advance_time(now_s - self._moved_s)
        self._moved_s = now_s
        # simcord keeps every request for assertions; a long demo would grow for ever.
        self.env.backend.transcript.clear()
        self.env.backend.http_requests.clear()

    def messages(self) -> list[discord.Message]:
        """What the visitor sees in the channel now."""
        return list(self.channel.history(viewer=self.visitor))


@asynccontextmanager
async def open_world(
    settings: Settings, engine: Engine, *, check_errors: bool = False, observer: Observer = UNOBSERVED
) -> AsyncIterator[World]:
    """The bot, with `engine` behind it, ready in a server; `observer` looks on.

    With `check_errors`, leaving raises what the bot swallowed and nobody looked at.
    """
    opened: list[World] = []

    def wait(awaitable: Awaitable[Any], *, reason: str) -> Awaitable[Any]:
        return opened[0].env.external_wait(awaitable, reason=reason)

    class WatchedReply(LiveReply):
        async def follow(self, generation: Generation, keep: Keep = NOTHING) -> Finished:
            opened[0].begun += 1
            finished = await super().follow(generation, keep)
            opened[0].endings.append(finished)
            return finished

    async with open_services(
        settings, engine, reply_class=WatchedReply, wait=wait, observer=observer
    ) as services:
        # Nothing is registered in a new simulated Discord, whatever was remembered from elsewhere.
        bot = PunchlineBot(services=services, data_dir=settings.data_dir, force_sync=True)
        async with simcord.run(bot, check_errors=check_errors) as env:
            world = _populated(env, bot)
            opened.append(world)
            await env.settle()
            yield world


def _populated(env: Env, bot: PunchlineBot) -> World:
    guild = env.create_guild("Punchline demo")
    channel = guild.create_text_channel("jokes")
    # Who tries the bot out may try everything.
    rights = discord.Permissions(manage_channels=True, manage_guild=True)
    visitor = guild.add_member(env.create_user("you"), roles=[guild.create_role("host", permissions=rights)])
    return World(env, bot, channel, visitor)
