"""Trouble on Discord's side that only a real connection can have, against a stand-in: HTTP, gateway and all."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import discord
import pytest

from bot import interruptions
from bot.app import open_services
from bot.bench import discord_payloads, discord_standin
from bot.client import PunchlineBot
from bot.inference.scripted import ScriptedEngine
from bot.replies import surface
from bot.replies.status import interrupted_text
from bot.settings import load_settings


@asynccontextmanager
async def connected(engine: ScriptedEngine, folder: Path) -> AsyncIterator[PunchlineBot]:
    """The bot, logged in and on the gateway."""
    settings = load_settings(None, data_dir=folder, cache_dir=folder)
    async with open_services(settings, engine) as services:
        bot = PunchlineBot(services=services, data_dir=folder)
        async with bot:
            running = asyncio.create_task(bot.start("a.b.c"))
            await bot.wait_until_ready() if bot.is_ready() else await until(bot.is_ready)
            yield bot
        with contextlib.suppress(asyncio.CancelledError):
            running.cancel()
            await running


async def until(true: object, patience_s: float = 20.0) -> None:
    assert callable(true)
    async with asyncio.timeout(patience_s):
        while not true():
            await asyncio.sleep(0.02)


async def shown(discord_side: discord_standin.StandIn, words: str) -> str:
    """What arrived with these words in it."""
    found: list[str] = []

    def arrived() -> bool:
        found.extend(one.content for one in discord_side.arrivals() if words in one.content)
        return bool(found)

    await until(arrived)
    return found[0]


async def test_an_answer_goes_on_while_the_gateway_is_dropped_and_resumed(tmp_path: Path) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=("One", gate.wait, " two."))
    with discord_standin.running(0.01) as discord_side:
        async with connected(engine, tmp_path) as bot:
            discord_side.dispatch(discord_payloads.command_payload(1, "joke"))
            await shown(discord_side, "One")
            lost: list[int] = []

            async def on_disconnect() -> None:
                lost.append(1)

            bot.add_listener(on_disconnect)
            discord_side.drop()
            await until(lambda: lost)  # the fault is there
            gate.set()
            assert (await shown(discord_side, "tokens/s")).startswith("One two.\n-# smol")
            await until(lambda: discord_side.resumed() == 1)
            discord_side.dispatch(discord_payloads.command_payload(2, "joke"))
            assert (await shown(discord_side, "tokens/s")).startswith("One two.\n-# smol")
            assert bot.services.inference.running == 0


async def test_a_discord_that_does_not_answer_does_not_keep_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(surface, "CALL_TIMEOUT_S", 0.3)
    gate = asyncio.Event()
    engine = ScriptedEngine(script=("One", gate.wait, " two."))
    with discord_standin.running(0.01) as discord_side:
        async with connected(engine, tmp_path) as bot:
            discord_side.dispatch(discord_payloads.command_payload(1, "joke"))
            await shown(discord_side, "One")
            discord_side.hang()
            with pytest.raises(TimeoutError):  # the fault is there
                async with asyncio.timeout(1):
                    channel = bot.get_partial_messageable(int(discord_payloads.CHANNEL_ID))
                    await channel.get_partial_message(1).edit(content="by hand")
            gate.set()
            await until(lambda: bot.services.inference.running == 0 and not bot.services.answers._live)
    warned = [record for record in caplog.records if record.name == "bot.replies.live"]
    assert len(warned) == 1
    assert "could not be brought up to date (TimeoutError)" in warned[0].getMessage()
    assert not [record for record in caplog.records if record.exc_info]


CRASHES = """
import asyncio, sys
from pathlib import Path
import discord.http
from bot.bench import discord_payloads
from bot.app import open_services
from bot.client import PunchlineBot
from bot.inference.scripted import ScriptedEngine
from bot.settings import load_settings

async def told():
    while not (Path(sys.argv[2]) / "go on").exists():
        await asyncio.sleep(0.02)

async def main(base, folder):
    discord.http.Route.BASE = base
    settings = load_settings(None, data_dir=folder, cache_dir=folder)
    engine = ScriptedEngine(script=("Once upon", told, " a time."))
    async with open_services(settings, engine) as services:
        bot = PunchlineBot(services=services, data_dir=folder)
        await bot.login("a.b.c")
        bot._connection.parse_interaction_create(discord_payloads.command_payload(1, "joke", topic="tea"))
        await asyncio.sleep(600)

asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
"""


@asynccontextmanager
async def killed(discord_side: discord_standin.StandIn, folder: Path) -> AsyncIterator[None]:
    """A bot that has shown "Once upon" and is killed at the end of the block."""
    crashing = subprocess.Popen([sys.executable, "-c", CRASHES, discord.http.Route.BASE, str(folder)])
    try:
        await shown(discord_side, "Once upon")
        yield
    finally:
        crashing.send_signal(signal.SIGKILL)
    assert crashing.wait(10) == -signal.SIGKILL


def kept_reasons(folder: Path) -> list[str | None]:
    with contextlib.closing(sqlite3.connect(folder / "punchline.sqlite3")) as connection:
        return [row[0] for row in connection.execute("SELECT reason FROM replies")]


async def test_an_answer_that_ended_right_before_the_bot_was_killed_is_shown_whole_by_its_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with discord_standin.running(0.01) as discord_side:
        async with killed(discord_side, tmp_path):
            discord_side.hang()
            (tmp_path / "go on").touch()
            await until(lambda: kept_reasons(tmp_path) == ["stop"])
    caplog.set_level("INFO")
    with discord_standin.running(0.01) as discord_side:
        async with connected(ScriptedEngine(), tmp_path) as bot:
            assert (await shown(discord_side, "tokens/s")).startswith("Once upon a time.\n-# smol · ")
            await until(lambda: bot._marking is not None and bot._marking.done())
            assert await bot.services.archive.unfinished() == []
    assert kept_reasons(tmp_path) == ["stop"]


async def test_a_reply_that_cannot_be_marked_now_is_marked_by_a_later_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surface, "CALL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(interruptions, "_PAUSE_S", 0.0)
    with discord_standin.running(0.01) as discord_side:
        async with killed(discord_side, tmp_path):
            pass
        discord_side.hang()
        async with connected(ScriptedEngine(), tmp_path) as bot:
            await until(lambda: bot._marking is not None and bot._marking.done())
            assert len(await bot.services.archive.unfinished()) == 1


async def test_a_reply_that_the_bot_was_killed_in_is_marked_by_its_next_start(tmp_path: Path) -> None:
    with discord_standin.running(0.01) as discord_side:
        async with killed(discord_side, tmp_path):
            pass
        async with connected(ScriptedEngine(), tmp_path) as bot:
            marked = await shown(discord_side, "interrupted")
            assert marked == "Once upon\n-# ⚡ interrupted by a restart · smol"
            # Killed right after this, and before the note of it, the next start finds it as it stands.
            assert interrupted_text(marked, "smol") == marked
            await until(lambda: bot._marking is not None and bot._marking.done())
            assert await bot.services.archive.unfinished() == []
