"""Discord did what it was asked to, and the bot did not hear of it: nobody sees anything twice, or waits for ever."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import discord.http
import pytest
import yarl
from discord.gateway import DiscordWebSocket

from bot.bench.discord_payloads import CHANNEL_ID
from bot.client import PunchlineBot
from bot.inference.scripted import ScriptedEngine
from tests.soak import payloads
from tests.soak.discord_side import DiscordSide
from tests.soak.faults import Fault, Faults
from tests.soak.messages import Asked, Message
from tests.storage.writing import somebody_writing
from tests.test_discord_trouble import connected, until


class OnePlanned(Faults):
    """One fault, at the first request to a path that ends so."""

    def __init__(self, ending: str, fault: Fault) -> None:
        super().__init__(random.Random(), 0.0)
        self._ending, self._fault = ending, fault

    def next(self, path: str) -> Fault | None:
        if self.count or not path.endswith(self._ending):
            return None
        self.count[self._fault] += 1
        return self._fault


@asynccontextmanager
async def at_discord(
    folder: Path, monkeypatch: pytest.MonkeyPatch, faults: Faults
) -> AsyncIterator[tuple[DiscordSide, PunchlineBot]]:
    async with DiscordSide(faults, latency_s=0.01) as side:
        monkeypatch.setattr(discord.http.Route, "BASE", f"http://{side.address}")
        monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(f"ws://{side.address}/gateway"))
        async with connected(ScriptedEngine(), folder) as bot:
            yield side, bot


def asks(side: DiscordSide, what: str) -> Asked:
    now_s = asyncio.get_running_loop().time()
    asked = Asked(1, person=501, channel=int(CHANNEL_ID), what=what, sent_s=now_s, life=1)
    side.board.asked[1] = asked
    return asked


def only(side: DiscordSide, true: Callable[[Message], bool]) -> Callable[[], bool]:
    return lambda: [true(one) for one in side.board.visible()] == [True]


def bad_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.LOST])
async def test_a_command_is_answered_though_its_acknowledgement_was_not_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    faults = OnePlanned("/callback", fault)
    async with at_discord(tmp_path, monkeypatch, faults) as (side, _):
        await side.dispatch("INTERACTION_CREATE", payloads.command(asks(side, "joke"), "joke", {}))
        await until(only(side, lambda message: message.has_ended))
        assert faults.count[fault] == 1  # the fault was there
        (message,) = side.board.visible()
        await until(lambda: rows(tmp_path, "SELECT message_id FROM reply_messages") == [(message.id,)])
    assert bad_lines(caplog) == []


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.LOST])
async def test_an_answer_to_a_mention_stands_there_once_though_it_was_not_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    faults = OnePlanned("/messages", fault)
    async with at_discord(tmp_path, monkeypatch, faults) as (side, _):
        await side.dispatch("MESSAGE_CREATE", payloads.mention(asks(side, "mention"), "why?"))
        await until(only(side, lambda message: message.has_ended))
        assert faults.count[fault] == 1
        (message,) = side.board.visible()
        question = "SELECT message_id, end_shown FROM replies JOIN reply_messages ON id = reply_id"
        await until(lambda: rows(tmp_path, question) == [(message.id, 1)])
    assert bad_lines(caplog) == []


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.LOST])
async def test_what_was_chosen_and_told_is_not_said_to_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    faults = OnePlanned("/callback", fault)
    async with at_discord(tmp_path, monkeypatch, faults) as (side, _):
        payload = payloads.command(asks(side, "model set"), "model set", {"model": "gemma"})
        await side.dispatch("INTERACTION_CREATE", payload)
        await until(only(side, lambda message: message.content.startswith("**gemma** answers in")))
        await until(lambda: faults.count[fault] == 1 and not handlers())
        assert only(side, lambda message: message.content.startswith("**gemma** answers in"))()
    assert bad_lines(caplog) == []


async def test_what_is_being_chosen_when_the_bot_stops_is_done_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_discord(tmp_path, monkeypatch, Faults(random.Random(), 0.0)) as (side, bot):
        async with somebody_writing(bot.services.database):
            payload = payloads.command(asks(side, "model set"), "model set", {"model": "gemma"})
            await side.dispatch("INTERACTION_CREATE", payload)
            await until(handlers)
            leaving = asyncio.create_task(bot.close())
            await asyncio.wait({leaving}, timeout=0.3)  # it would have left by now
        await leaving
        assert only(side, lambda message: message.content.startswith("**gemma** answers in"))()
    assert rows(tmp_path, "SELECT alias FROM model_choices") == [("gemma",)]
    assert bad_lines(caplog) == []


def handlers() -> bool:
    """Whether a command is being carried out."""
    return any(task.get_name() == "CommandTree-invoker" for task in asyncio.all_tasks())


def rows(folder: Path, question: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "punchline.sqlite3")) as connection:
        return connection.execute(question).fetchall()
