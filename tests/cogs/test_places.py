"""Where the commands can be used, as far as the simulated Discord has such places."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import discord
from simcord.builders import ChannelHandle

from bot.inference.scripted import ScriptedEngine
from tests.world import World, open_world

EVERY_CONTEXT = [0, 1, 2]  # servers, direct messages with the bot, other private channels: Discord API v10
EVERY_INSTALL = [0, 1]  # to servers, to people
FOR_SERVERS = ["access"]
OWN_APP_FOLLOWUPS = 5  # what Discord lets an app add to its reply where only its user has installed it


async def post_in(world: World, forum: ChannelHandle, title: str) -> ChannelHandle:
    """A post in a forum."""
    made = world.env.backend.create_thread(forum.id, title, owner_id=world.bob.id)
    world.env.backend.announce_thread_create(made)
    await world.env.settle()
    return ChannelHandle(world.env, world.channel.guild, made)


async def registered(folder: Path) -> Any:
    """All commands, as the bot registers them."""
    async with open_world(ScriptedEngine(), folder) as world:
        (sent,) = [request.json for request in world.env.http_requests if request.path.endswith("/commands")]
    return sent


async def test_every_command_is_there_for_servers_and_people_and_in_every_kind_of_place(
    tmp_path: Path,
) -> None:
    commands = await registered(tmp_path)
    assert {command["name"] for command in commands} >= {"joke", "ask", "model", "gpu"}
    for command in commands:
        if command["name"] not in FOR_SERVERS:
            assert (command["contexts"], command["integration_types"]) == (EVERY_CONTEXT, EVERY_INSTALL)


async def test_what_is_for_moderators_is_there_for_servers_only_and_hidden_from_others(
    tmp_path: Path,
) -> None:
    commands = await registered(tmp_path)
    (access,) = [command for command in commands if command["name"] in FOR_SERVERS]
    assert (access["contexts"], access["integration_types"]) == ([0], [0])
    assert int(access["default_member_permissions"]) == discord.Permissions(manage_guild=True).value


async def test_a_post_in_a_forum_has_its_own_choice_and_else_its_forums(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        guild = world.channel.guild
        assert guild is not None
        forum = guild.create_forum_channel("questions")
        await world.env.settle()
        one, other = [await post_in(world, forum, title) for title in ("one", "other")]
        for_all = await world.alice.slash(one, "model set", model="phi", scope="channel")
        assert for_all.response is not None
        assert for_all.response.content.startswith("**phi** answers in this channel")
        here = await world.alice.slash(one, "model set", model="gemma")
        assert here.response is not None
        assert here.response.content.startswith("**gemma** answers in this thread")
        for post in (one, other):
            await world.bob.slash(post, "ask", prompt="Hm?")
        await world.until(lambda: len(engine.started) == 2)
        assert [request.model.alias for request in engine.started] == ["gemma", "phi"]


async def test_in_a_direct_message_the_answer_grows_and_its_asker_stops_it(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=("Once upon a time", forever.wait))
    async with open_world(engine, tmp_path) as world:
        carol = world.env.create_user("carol")
        asked = await carol.slash("ask", prompt="Hm?")
        growing = asked.response
        assert growing is not None
        assert growing.content == "Once upon a time"
        await carol.click(growing, label="Stop")
        await world.until(lambda: engine.stopped == 1)
        await world.pass_time(1.1)
        ended = asked.response
        assert ended is not None
        assert ended.content.startswith("Once upon a time\n-# ⏹ stopped by carol · smol")


async def test_the_longest_answer_takes_no_more_messages_than_somebodys_own_app_may_send(
    tmp_path: Path,
) -> None:
    engine = ScriptedEngine(script=tuple(f"word{n:05d} " for n in range(3000)))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt="Say a lot")
        await world.until(lambda: bool(world.messages) and bool(world.messages[-1].attachments))
        sent = [r for r in world.env.http_requests if r.method == "POST" and "/webhooks/" in r.path]
        assert len(sent) == OWN_APP_FOLLOWUPS
        assert len(world.messages) == 1 + OWN_APP_FOLLOWUPS
