"""What people write and what models answer is in no log: the whole bot is driven, and all that it logs is searched."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import discord
import pytest

from bot import trace
from bot.app import open_services
from bot.bench import discord_payloads, discord_standin
from bot.client import PunchlineBot
from bot.inference.scripted import ScriptedEngine
from bot.ops.logs import LogFormat, configure_logging
from bot.settings import load_settings
from tests.ops.looking_on import looking_on
from tests.world import World, open_world, over

MARKER = "zebra-crossing-at-midnight"
ANSWER = "the-purple-answer"


@pytest.fixture(params=["text", "json"])
def form(request: pytest.FixtureRequest) -> LogFormat:
    chosen: LogFormat = request.param
    return chosen


@pytest.fixture
def log(form: LogFormat) -> Iterator[io.StringIO]:
    """All that is logged from here on, with nothing held back by a level."""
    stream = io.StringIO()
    configure_logging("DEBUG", (), stream, form=form)
    yield stream
    logging.getLogger().handlers.clear()


def lines(log: io.StringIO, logger: str) -> list[tuple[str, str]]:
    """The request's id and the message of each line of a logger, in either form."""
    found = []
    for line in log.getvalue().splitlines():
        if line.startswith("{"):
            one = json.loads(line)
            if one["logger"] == logger:
                found.append((one.get("request", ""), one["message"]))
        elif match := re.search(rf"(?:\[(\w+) [^\]]+\] )?{re.escape(logger)}: (.*)", line):
            found.append((match[1] or "", match[2]))
    return found


def answers(world: World) -> list[discord.Message]:
    return [message for message in world.messages if message.author.bot]


async def test_commands_mentions_presses_and_all_their_failures_leave_no_word_in_the_log(
    tmp_path: Path, log: io.StringIO, form: LogFormat
) -> None:
    engine = ScriptedEngine(script=(f"{ANSWER} 1", f"{ANSWER} 2"))
    async with (
        looking_on(tmp_path) as port,
        open_world(engine, tmp_path, observer=port.observation.observer) as world,
    ):
        assert world.bot.user is not None
        port.observation.attach(world.queue, engine.memory, world.bot.services.database.ping, world.bot)

        async def ended(count: int) -> None:
            await world.until(lambda: len(answers(world)) == count and all(map(over, answers(world))))

        await world.alice.slash(world.channel, "joke", topic=MARKER, audience=f"{MARKER} too")
        await ended(1)
        await world.alice.slash(world.channel, "ask", prompt=MARKER)
        await ended(2)
        await world.alice.send(world.channel, f"<@{world.bot.user.id}> {MARKER}?")
        await ended(3)
        await world.alice.click(answers(world)[0], label="Regenerate")
        await ended(4)
        await world.alice.click(answers(world)[0], label="Details")
        await world.alice.slash(world.channel, "ask", prompt="Why?", model=f"/home/{MARKER}/diary")
        # The model's code fails, and quotes all that it was given to read.
        engine.script = (ANSWER, RuntimeError(f"cannot read [('user', {MARKER!r})]"))
        await world.alice.slash(world.channel, "ask", prompt=MARKER)
        await ended(5)
        await world.alice.click(answers(world)[0], label="Regenerate")  # a press says nothing of the words
        await ended(6)

        # So does the bot's own code, before there is a request.
        async def broken(*_: object) -> None:
            raise RuntimeError(f"cannot look up {MARKER}")

        world.bot.services.chooser.resolve = broken  # type: ignore[method-assign,assignment]
        await world.alice.slash(world.channel, "ask", prompt=f"{MARKER} again")
        await world.alice.send(world.channel, f"<@{world.bot.user.id}> {MARKER}!")
        await world.pass_time(1.0)
        world.env.errors.clear()
        await port.scrape()
    text = log.getvalue()
    assert text.count("RuntimeError: cannot read") == 2  # the failures are there, and what they quoted is not
    assert text.count("RuntimeError: cannot look up") == 2
    assert len(lines(log, "bot.answers")) == 6
    assert MARKER not in text
    assert ANSWER not in text


async def test_on_a_real_connection_no_word_is_in_the_log_either(tmp_path: Path, log: io.StringIO) -> None:
    settings = load_settings(None, data_dir=tmp_path, cache_dir=tmp_path)
    with discord_standin.running(0.01) as discord_side:
        async with open_services(settings, ScriptedEngine(script=(ANSWER,))) as services:
            bot = PunchlineBot(services=services, data_dir=tmp_path)
            async with bot, asyncio.timeout(30):
                running = asyncio.create_task(bot.start("a.b.c"))
                while not bot.is_ready():
                    await asyncio.sleep(0.02)
                discord_side.dispatch(discord_payloads.command_payload(1, "ask", prompt=MARKER))
                while not lines(log, "bot.answers"):
                    await asyncio.sleep(0.02)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    assert len(lines(log, "bot.answers")) == 1
    assert MARKER not in log.getvalue()
    assert ANSWER not in log.getvalue()


async def test_one_id_goes_with_a_request_from_the_command_to_the_engine_and_the_reply(
    tmp_path: Path, log: io.StringIO
) -> None:
    engine_log = logging.getLogger("bot.inference.scripted")

    async def works() -> None:
        engine_log.info("at work for %s", trace.current().command)

    async with open_world(ScriptedEngine(script=(works, "One")), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        await world.bob.slash(world.channel, "ask", prompt="Why?")
        await world.until(lambda: world.ended and len(world.messages) == 2)
    (first, said), (second, said_next) = lines(log, "bot.inference.scripted")
    assert (said, said_next) == ("at work for joke", "at work for ask")
    assert [request for request, _ in lines(log, "bot.answers")] == [first, second]
    assert first
    assert second
    assert first != second


async def test_what_is_done_for_everybody_belongs_to_nobodys_request(
    tmp_path: Path, log: io.StringIO
) -> None:
    class Loads(ScriptedEngine):
        is_there = False

        def ready(self, model: object) -> bool:
            return self.is_there

        async def load(self, model: object, report: object) -> None:
            logging.getLogger("bot.inference.scripted").info("loading")
            self.is_there = True

    async with open_world(Loads(script=("One",)), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
    assert lines(log, "bot.inference.scripted") == [("", "loading")]


async def test_switched_on_knowingly_question_and_answer_are_in_the_log(
    tmp_path: Path, form: LogFormat
) -> None:
    stream = io.StringIO()
    configure_logging("INFO", (), stream, form=form, content=True)
    async with (
        looking_on(tmp_path, log_content=True) as port,
        open_world(
            ScriptedEngine(script=(ANSWER, " and more")), tmp_path, observer=port.observation.observer
        ) as world,
    ):
        await world.alice.slash(world.channel, "ask", prompt=MARKER)
        await world.until(lambda: world.ended)
    logging.getLogger().handlers.clear()
    ((_, said),) = lines(stream, "bot.ops.content_log")
    assert MARKER in said
    assert f"{ANSWER} and more" in said
