"""Commands in places that the simulated Discord does not have: servers that never added the bot, groups, the direct
messages of others. What the gateway sends for each goes to real discord.py, whose answers reach a stand-in for Discord.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import discord
import pytest

from bot.app import open_services
from bot.bench import discord_payloads, discord_standin
from bot.client import PunchlineBot
from bot.inference.scripted import ScriptedEngine
from bot.settings import load_settings

PATIENCE_S = 20.0
MANAGER = discord.Permissions(manage_channels=True, manage_guild=True)
REFUSED = "The bot was not added to this server, so nothing can be chosen here."

Payload = dict[str, Any]
Place = Callable[[Payload], Payload]

_numbers = itertools.count(1)


def asker(payload: Payload) -> Payload:
    """Who gives the command."""
    user: Payload = payload["user"] if "user" in payload else payload["member"]["user"]
    return user


def server_channel(payload: Payload) -> Payload:
    """A channel of a server that has added the bot."""
    return payload | {"authorizing_integration_owners": {"0": discord_payloads.GUILD_ID}}


def added_by_both(payload: Payload) -> Payload:
    """The same, for somebody who has the bot among their own apps too."""
    owners = {"0": discord_payloads.GUILD_ID, "1": asker(payload)["id"]}
    return payload | {"authorizing_integration_owners": owners}


def foreign_server(payload: Payload) -> Payload:
    """A channel of a server that has not added the bot: somebody has it among their own apps."""
    guild = {"id": "401", "locale": "en-US", "features": []}
    channel = payload["channel"] | {"id": "301", "guild_id": "401"}
    theirs = {"guild_id": "401", "guild": guild, "channel_id": "301", "channel": channel}
    return payload | theirs | {"authorizing_integration_owners": {"1": asker(payload)["id"]}}


def thread_in(place: Place, thread_id: str = "302") -> Place:
    """A thread, or a post of a forum, in a channel; the bot was never told of either."""

    def made(payload: Payload) -> Payload:
        payload = place(payload)
        times = {"archive_timestamp": "2026-01-01T00:00:00+00:00", "create_timestamp": None}
        channel = {
            "id": thread_id,
            "type": 11,
            "guild_id": payload["guild_id"],
            "parent_id": payload["channel_id"],
            "name": "a thread",
            "owner_id": "77",
            "message_count": 1,
            "member_count": 1,
            "thread_metadata": {"archived": False, "auto_archive_duration": 60, "locked": False} | times,
        }
        return payload | {"channel_id": thread_id, "channel": channel}

    return made


def _private(payload: Payload, context: int, channel: Payload, owners: Payload) -> Payload:
    user = asker(payload)
    kept = {key: value for key, value in payload.items() if key not in ("guild_id", "guild", "member")}
    return kept | {
        "user": user,
        "channel_id": channel["id"],
        "channel": channel,
        "context": context,
        "authorizing_integration_owners": owners,
    }


def direct_message(payload: Payload) -> Payload:
    """A direct message with the bot."""
    channel = {"id": "303", "type": 1, "last_message_id": None, "recipients": [asker(payload)], "flags": 0}
    return _private(payload, 1, channel, {"0": "0"})


def others_direct_message(payload: Payload) -> Payload:
    """The direct messages of two people, one of whom has the bot among their own apps."""
    other = {"id": "78", "username": "bob", "discriminator": "0", "avatar": None}
    channel = {"id": "304", "type": 1, "last_message_id": None, "recipients": [other], "flags": 0}
    return _private(payload, 2, channel, {"1": asker(payload)["id"]})


def group(payload: Payload, channel_id: str = "305") -> Payload:
    """A group of people, one of whom has the bot among their own apps."""
    channel = {
        "id": channel_id,
        "type": 3,
        "last_message_id": None,
        "name": None,
        "icon": None,
        "owner_id": "78",
    }
    return _private(payload, 2, channel, {"1": asker(payload)["id"]})


SERVER_PLACES: dict[str, Place] = {
    "a channel": server_channel,
    "a channel, by somebody's own app too": added_by_both,
    "a thread": thread_in(server_channel),
}
FOREIGN_PLACES: dict[str, Place] = {
    "a channel of a server without the bot": foreign_server,
    "a thread of a server without the bot": thread_in(foreign_server),
}
PRIVATE_PLACES: dict[str, Place] = {
    "a direct message": direct_message,
    "a direct message of others": others_direct_message,
    "a group": group,
}
PLACES: dict[str, Place] = SERVER_PLACES | FOREIGN_PLACES | PRIVATE_PLACES


def by_name(places: dict[str, Place]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", places.values(), ids=places.keys())


@dataclass
class Bot:
    """The bot, connected to the stand-in."""

    bot: PunchlineBot
    engine: ScriptedEngine
    discord_side: discord_standin.StandIn
    _seen: list[discord_standin.Arrival] = field(default_factory=list)

    async def reply(self, place: Place, command: str, words: str, *, rights: int = 0, **options: str) -> str:
        """Give a command at a place; the reply, once it has these words."""
        payload = discord_payloads.command_payload(next(_numbers), command, **options)
        payload["member"]["permissions"] = str(rights)
        self.bot._connection.parse_interaction_create(place(payload))  # type: ignore[arg-type]  # as the gateway would
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    self._seen += self.discord_side.arrivals()
                    said = [one.content for one in self._seen if one.token == payload["token"]]
                    if found := next((content for content in said if words in content), None):
                        return found
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"nobody said {words!r}, but {said}") from None

    async def asked(self, place: Place, **options: Any) -> str:
        """Ask at a place; the model that answers."""
        await self.reply(place, "ask", "tokens/s", prompt="Hm?", **options)
        return self.engine.started[-1].model.alias


@pytest.fixture(scope="module")
def discord_side() -> Iterator[discord_standin.StandIn]:
    with discord_standin.running(0) as running:
        yield running


@pytest.fixture
async def bot(discord_side: discord_standin.StandIn, tmp_path: Path) -> AsyncIterator[Bot]:
    settings = load_settings(None, data_dir=tmp_path, cache_dir=tmp_path)
    engine = ScriptedEngine()
    async with open_services(settings, engine) as services:
        connected = PunchlineBot(services=services, data_dir=tmp_path)
        await connected.login("a.b.c")
        yield Bot(connected, engine, discord_side)
        await connected.close()


@by_name(PLACES)
async def test_everybody_asks_everywhere_and_sees_who_answers(bot: Bot, place: Place) -> None:
    assert await bot.reply(place, "joke", "tokens/s", topic="tea") == (
        "Hello, world.\n-# smol · 3 tokens · 20.0 tokens/s · 0.1 s"
    )
    assert await bot.asked(place, model="phi") == "phi"
    assert (await bot.reply(place, "model show", "answers here")).startswith("**smol** answers here")
    assert (await bot.reply(place, "model list", "**smol**")).startswith("▸ **smol**")


@by_name(PRIVATE_PLACES)
async def test_everybody_in_a_private_place_chooses_for_it(bot: Bot, place: Place) -> None:
    await bot.reply(place, "model set", "**gemma** answers in this channel from now on", model="gemma")
    assert await bot.asked(place) == "gemma"
    assert await bot.asked(server_channel) == "smol"
    await bot.reply(place, "model reset", "is gone; **smol** answers here")
    assert await bot.asked(place) == "smol"


@by_name(PRIVATE_PLACES)
async def test_what_is_of_a_server_is_refused_in_a_private_place(bot: Bot, place: Place) -> None:
    await bot.reply(place, "model set", "This is not a server", model="gemma", scope="server")
    await bot.reply(place, "model offer", "Only a server can choose what it offers", models="gemma")


async def test_each_group_has_a_choice_of_its_own(bot: Bot) -> None:
    await bot.reply(group, "model set", "**gemma** answers", model="gemma")
    assert await bot.asked(lambda payload: group(payload, "306")) == "smol"


@by_name(FOREIGN_PLACES)
async def test_who_brings_the_bot_to_a_server_changes_nothing_there_whatever_they_may_do(
    bot: Bot, place: Place
) -> None:
    rights = MANAGER.value
    for scope in ("here", "channel", "server"):
        await bot.reply(place, "model set", REFUSED, rights=rights, model="gemma", scope=scope)
        await bot.reply(place, "model reset", REFUSED, rights=rights, scope=scope)
    await bot.reply(place, "model offer", REFUSED, rights=rights, models="gemma")
    assert await bot.asked(place) == "smol"
    assert await bot.asked(place, model="gemma") == "gemma"


@by_name(SERVER_PLACES)
async def test_who_may_manage_channels_chooses_where_the_server_has_added_the_bot(
    bot: Bot, place: Place
) -> None:
    await bot.reply(place, "model set", "You need the permission Manage Channels", model="gemma")
    rights = MANAGER.value
    await bot.reply(place, "model set", "**gemma** answers in this", rights=rights, model="gemma")
    assert await bot.asked(place) == "gemma"
    await bot.reply(place, "model offer", "This server offers **phi**", rights=rights, models="phi")
    assert await bot.asked(place) == "phi"


async def test_a_thread_the_bot_was_never_told_of_has_its_own_choice_and_else_its_channels(bot: Bot) -> None:
    rights = MANAGER.value
    one, other = (thread_in(server_channel, thread_id) for thread_id in ("302", "307"))
    await bot.reply(one, "model set", "in this channel", rights=rights, model="phi", scope="channel")
    await bot.reply(one, "model set", "in this thread", rights=rights, model="gemma")
    assert [await bot.asked(place) for place in (one, other, server_channel)] == ["gemma", "phi", "phi"]


@by_name(FOREIGN_PLACES | PRIVATE_PLACES)
async def test_who_brings_the_bot_uses_their_own_share_and_nothing_of_a_server(
    bot: Bot, place: Place
) -> None:
    gate = bot.bot.services.gate
    await bot.asked(place)
    assert await gate.used_by_server(401) == (0, 0.0)
    await bot.asked(server_channel)
    async with asyncio.timeout(PATIENCE_S):
        while (await gate.used_by_server(int(discord_payloads.GUILD_ID)))[0] != 11:
            await asyncio.sleep(0.02)


@by_name(FOREIGN_PLACES)
async def test_where_a_server_has_switched_the_bot_off_nobody_brings_it(bot: Bot, place: Place) -> None:
    await bot.bot.services.moderation.switch(401, on=False, by=1)
    await bot.reply(place, "ask", "I am switched off in this server", prompt="Hm?")
    assert bot.engine.started == []
