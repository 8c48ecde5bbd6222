"""The real bot in the demo's simulated Discord, with what tests want to know about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import discord
from simcord.actors import MemberActor
from simcord.builders import ChannelHandle
from simcord.env import Env

from bot.client import PunchlineBot
from bot.demo.world import open_world as open_demo_world
from bot.inference.engine import Engine
from bot.inference.observer import UNOBSERVED, Observer
from bot.inference.queue import InferenceQueue
from bot.settings import NO_LIMITS, load_settings


def labels(message: discord.Message) -> list[str]:
    """What the buttons under a message say."""
    children = [child for row in message.components for child in getattr(row, "children", [])]
    return [child.label or "" for child in children if isinstance(child, discord.Button)]


def over(message: discord.Message) -> bool:
    """Whether a message says something and will not change any more."""
    return bool(message.content) and "Stop" not in labels(message)


@dataclass
class World:
    """A server with a channel, two people in it, and the bot."""

    env: Env
    bot: PunchlineBot
    channel: ChannelHandle
    alice: MemberActor
    bob: MemberActor

    @property
    def queue(self) -> InferenceQueue:
        """The bot's queue."""
        return self.bot.services.inference

    @property
    def messages(self) -> list[discord.Message]:
        """What stands in the channel now."""
        return list(self.channel.history())

    @property
    def ended(self) -> bool:
        """Whether there are messages, and all replies have ended."""
        return bool(self.messages) and all(map(over, self.messages)) and self.queue.running == 0

    @property
    def edits(self) -> list[str]:
        """The content of every edit the bot sent, in order."""
        return [
            request.json["content"]
            for request in self.env.http_requests
            if request.method == "PATCH" and "/messages/" in request.path and isinstance(request.json, dict)
        ]

    async def until(self, true: Callable[[], bool], *, tick_s: float = 0.1, ticks: int = 600) -> None:
        """Let simulated and real time go by until something is so."""
        for _ in range(ticks):
            if true():
                return
            await self.pass_time(tick_s)
        raise AssertionError(f"still not so after {ticks * tick_s:.0f} simulated s\n{self.env.transcript()}")

    async def pass_time(self, seconds: float) -> None:
        """Let simulated time go by; other threads have a moment too."""
        await asyncio.sleep(0.005)
        await self.env.advance_time(seconds)


@asynccontextmanager
async def open_world(
    engine: Engine, folder: Path, *, observer: Observer = UNOBSERVED, **settings: Any
) -> AsyncIterator[World]:
    """The bot with `engine` behind it; an error that it swallowed fails the test unless it was looked at."""
    alone = {"batch_requests": 1}  # so that there is a line to wait in
    configured = load_settings(
        None, **{"data_dir": folder, "cache_dir": folder, **alone, **NO_LIMITS, **settings}
    )
    async with open_demo_world(configured, engine, check_errors=True, observer=observer) as world:
        guild = world.channel.guild
        assert guild is not None
        bob = guild.add_member(world.env.create_user("bob"))
        await world.env.settle()
        yield World(world.env, world.bot, world.channel, world.visitor, bob)
