"""While a model reads the prompt, the reply says so and can be stopped; a quick answer costs nothing for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import discord
import pytest

from bot.inference.engine import Loading
from bot.inference.scripted import ScriptedEngine
from bot.replies.live import READING_AFTER_S
from bot.replies.status import READING, interrupted_text
from tests.cogs.test_own_apps import Bot, Place, bot, discord_side, foreign_server, group
from tests.world import World, labels, open_world

__all__ = ["bot", "discord_side"]  # fixtures


def answers(world: World) -> list[discord.Message]:
    return [message for message in world.messages if message.author.bot]


async def asks(world: World, way: str) -> None:
    assert world.bot.user is not None
    if way == "mention":
        await world.alice.send(world.channel, f"{world.bot.user.mention} why?")
    else:
        await world.alice.slash(world.channel, "ask", prompt="Why?")


def requests_that_show(world: World) -> int:
    return sum(
        ("/webhooks/" in request.path or request.path.endswith("/messages") or "/messages/" in request.path)
        and request.method in ("POST", "PATCH")
        for request in world.env.http_requests
    )


@pytest.mark.parametrize("way", ["command", "mention"])
async def test_a_long_prompt_can_be_stopped_before_the_first_word(tmp_path: Path, way: str) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=(forever.wait,))
    async with open_world(engine, tmp_path) as world:
        await asks(world, way)
        await world.until(lambda: bool(answers(world)) and answers(world)[0].content == READING)
        assert labels(answers(world)[0]) == ["Stop"]
        await world.alice.click(answers(world)[0], label="Stop")
        await world.until(lambda: "⏹ stopped by" in answers(world)[0].content)
        assert world.queue.running == 0
        assert READING not in answers(world)[0].content
    assert engine.stopped == 1


async def test_a_press_whose_prompt_is_long_can_be_stopped_too(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await asks(world, "command")
        await world.until(lambda: world.ended)
        engine.script = (forever.wait,)
        await world.alice.click(answers(world)[0], label="Regenerate")
        await world.until(lambda: len(answers(world)) == 2 and answers(world)[1].content == READING)
        await world.alice.click(answers(world)[1], label="Stop")
        await world.until(lambda: world.queue.running == 0)


@pytest.mark.parametrize("way", ["command", "mention"])
async def test_words_that_come_in_time_cost_no_request_for_a_status(tmp_path: Path, way: str) -> None:
    gate = asyncio.Event()
    async with open_world(ScriptedEngine(script=(gate.wait, "Once.")), tmp_path) as world:
        await asks(world, way)
        await world.pass_time(READING_AFTER_S - 0.3)
        before = requests_that_show(world)
        gate.set()
        await world.until(lambda: world.ended)
        assert not any(READING in edit for edit in world.edits)
        assert requests_that_show(world) - before <= 2  # the first words, and the end


@pytest.mark.parametrize("way", ["command", "mention"])
async def test_first_words_come_at_once_after_the_status(tmp_path: Path, way: str) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    async with open_world(ScriptedEngine(script=(gate.wait, "Once", forever.wait)), tmp_path) as world:
        await asks(world, way)
        await world.until(lambda: bool(answers(world)) and answers(world)[0].content == READING)
        gate.set()
        await world.pass_time(0.05)
        await world.pass_time(0.05)
        assert answers(world)[0].content == "Once"


async def test_who_waited_in_the_queue_sees_when_the_model_reads(tmp_path: Path) -> None:
    gate, later = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(script=(gate.wait, "Once.", later.wait))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.bob.slash(world.channel, "joke")
        await world.until(lambda: "You are next" in answers(world)[1].content)
        await world.pass_time(READING_AFTER_S + 1)
        assert "You are next" in answers(world)[1].content  # it is not read yet
        engine.script = (asyncio.Event().wait,)
        gate.set()
        later.set()
        await world.until(lambda: answers(world)[1].content == READING)


async def test_a_model_that_the_engine_still_loads_is_not_said_to_read(tmp_path: Path) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    script = (Loading("smol", 0.5), gate.wait, Loading("smol", 1.0), forever.wait)
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.pass_time(READING_AFTER_S + 2)
        assert answers(world)[0].content == "-# ⏳ Loading smol · 50%"
        gate.set()
        await world.until(lambda: answers(world)[0].content == READING)


@pytest.mark.parametrize("place", [foreign_server, group], ids=["a server without the bot", "a group"])
async def test_a_command_that_a_person_brought_shows_it_too(bot: Bot, place: Place) -> None:
    gate = asyncio.Event()
    bot.engine.script = (gate.wait, "Once.")
    waiting = asyncio.create_task(bot.reply(place, "joke", "Reading", topic="tea"))
    assert await waiting == READING
    gate.set()


def test_a_reply_that_a_crash_interrupted_while_it_read_does_not_say_that_it_reads() -> None:
    assert interrupted_text(READING, "smol") == "-# ⚡ interrupted by a restart · smol"
