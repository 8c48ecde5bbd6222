"""A reply whose place goes away ends its generation, frees the model, and leaves one line in the log.

Each test first shows that the fault is there: what the bot would have to do is tried by hand, and refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import discord
import pytest
from simcord.backend.models.channel import Overwrite
from simcord.enums import OverwriteType

from bot.inference.scripted import ScriptedEngine
from tests.world import World, labels, open_world

Break = Callable[[World, discord.Message], None]


def delete_message(world: World, answer: discord.Message) -> None:
    world.env.backend.delete_message(answer.channel.id, answer.id)


def delete_channel(world: World, answer: discord.Message) -> None:
    world.env.backend.delete_channel(answer.channel.id)


def take_permissions(world: World, answer: discord.Message) -> None:
    assert world.bot.user is not None
    nothing = Overwrite(world.bot.user.id, OverwriteType.MEMBER, deny=discord.Permissions.all().value)
    world.env.backend.set_overwrite(answer.channel.id, nothing)


def kick(world: World, _: discord.Message) -> None:
    assert world.channel.guild is not None
    world.env.backend.remove_guild(world.channel.guild.id)


def archive_thread(world: World, answer: discord.Message) -> None:
    # The simulated Discord lets edits in archived threads pass; the real one answers with this.
    for path in (f"/channels/{answer.channel.id}/messages/*", "/webhooks/*"):
        world.env.inject_error("PATCH", path, status=400, code=50083, times=None)


def token_dies(world: World, _: discord.Message) -> None:
    world.env.inject_error("PATCH", "/webhooks/*", status=401, code=50027, times=None)
    world.env.inject_error("PATCH", "/channels/*", status=403, code=50001, times=None)


@dataclass(frozen=True)
class Fault:
    happens: Break
    codes: tuple[int, ...]  # what Discord answers then, API v10


FAULTS = {
    "message deleted": Fault(delete_message, (10008,)),
    "channel deleted": Fault(delete_channel, (10003,)),
    "permissions taken": Fault(take_permissions, (50001, 50013)),
    "bot kicked": Fault(kick, (10003, 10004, 50001)),
    "thread archived": Fault(archive_thread, (50083,)),
}


async def refusal(world: World, answer: discord.Message) -> int:
    """Discord's error code for an edit of the answer by hand."""
    channel = world.bot.get_partial_messageable(answer.channel.id)
    with pytest.raises(discord.HTTPException) as refused:
        await channel.get_partial_message(answer.id).edit(content="by hand")
    return refused.value.code


async def freed(
    world: World, fault: Fault, answer: discord.Message, gate: asyncio.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Let the fault happen, see that it does, and that the model is free then, with one line and no traceback."""
    caplog.set_level("INFO")
    fault.happens(world, answer)
    assert await refusal(world, answer) in fault.codes
    gate.set()
    await world.until(lambda: world.queue.running == 0)
    await world.pass_time(20)
    assert len([line for line in lines(caplog) if "is gone" in line]) == 1, lines(caplog)
    assert not [record for record in caplog.records if record.exc_info]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the bot said that an operator would look up."""
    return [record.getMessage() for record in caplog.records if record.name.startswith(("bot.", "cogs."))]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_mention_whose_place_is_gone_frees_the_model_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(script=("One", gate.wait, " two", forever.wait))
    async with open_world(engine, tmp_path) as world:
        assert world.bot.user is not None
        await world.alice.send(world.channel, f"{world.bot.user.mention} why?")
        await world.until(lambda: any(message.author.bot for message in world.messages))
        answer = next(message for message in world.messages if message.author.bot)
        await freed(world, fault, answer, gate, caplog)
        assert engine.stopped == 1
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert world.bot.services.answers._live == {}
        assert await world.bot.services.archive.unfinished() == []


@pytest.mark.parametrize(
    "name", ["message deleted", "channel deleted", "bot kicked", "thread archived", "token dies"]
)
async def test_a_command_whose_place_is_gone_frees_the_model_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    fault = FAULTS.get(name, Fault(token_dies, (50001,)))
    gate, forever = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(script=("One", gate.wait, " two", forever.wait))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await freed(world, fault, world.messages[0], gate, caplog)
        assert engine.stopped == 1


async def test_one_who_waits_in_a_channel_that_is_deleted_gives_the_place_back(tmp_path: Path) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=("One", gate.wait, " two."))
    async with open_world(engine, tmp_path) as world:
        guild = world.channel.guild
        assert guild is not None
        doomed = guild.create_text_channel("doomed")
        await world.alice.slash(world.channel, "joke")
        await world.bob.slash(doomed, "joke")
        assert world.queue.waiting == 1
        world.env.backend.delete_channel(doomed.id)
        gate.set()
        await world.until(lambda: world.queue.waiting == 0 and world.queue.running == 0)
        await world.until(lambda: world.ended)


async def test_a_discord_that_answers_500_for_ever_does_not_keep_the_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=("One", gate.wait, *(f" {number}" for number in range(50)), "."))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        answer = world.messages[0]
        world.env.inject_error("PATCH", "/*", status=500, times=None)
        with pytest.raises(discord.HTTPException, match="500"):
            await (
                world.bot.get_partial_messageable(answer.channel.id)
                .get_partial_message(answer.id)
                .edit(content="x")
            )
        caplog.set_level("INFO")
        gate.set()
        await world.until(lambda: world.queue.running == 0 and not world.bot.services.answers._live)
        warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len([one for one in warned if one.name.startswith("bot.")]) <= 2
        assert not [record for record in warned if record.exc_info]
        assert world.messages[0].content == "One"
        (left,) = await world.bot.services.archive.unfinished()  # the next start shows it
        assert left.reason == "stop"


async def test_when_discord_is_well_again_the_end_is_shown_whole(tmp_path: Path) -> None:
    gate, later = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(script=("One", gate.wait, " two", later.wait, " three."))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        for _ in range(3):
            world.env.inject_error("PATCH", "/webhooks/*", status=503)
        gate.set()
        await world.pass_time(3)
        later.set()
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("One two three.")


async def test_what_a_crash_interrupted_is_marked_at_the_next_start_and_can_be_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from bot.client import PunchlineBot

    forever = asyncio.Event()
    engine = ScriptedEngine(script=("Once upon", forever.wait))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke", topic="tea")
        await world.until(lambda: "Once upon" in world.messages[0].content)
        assert len(await world.bot.services.archive.unfinished()) == 1
        caplog.set_level("INFO")
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path))
        await world.until(lambda: labels(world.messages[0]) == ["Retry"])
        assert world.messages[0].content == "Once upon\n-# ⚡ interrupted by a restart · smol"
        assert await world.bot.services.archive.unfinished() == []
        assert "1 replies were interrupted" in caplog.text
        engine.script = ("Tea time.",)
        await world.alice.click(world.messages[0], label="Retry")
        await world.until(lambda: len(world.messages) == 2 and world.ended)
        assert world.messages[1].content.startswith("Tea time.")
    assert engine.started[0].messages == engine.started[1].messages


async def test_what_was_interrupted_and_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    from bot.client import PunchlineBot

    forever = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once", forever.wait)), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: bool(world.messages[0].content))
        world.env.backend.delete_message(world.channel.id, world.messages[0].id)
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path))
        await world.pass_time(1)
        assert await world.bot.services.archive.unfinished() == []
