"""Starting and stopping the bot as an operator does, against a stand-in for Discord: gateway, HTTP and all."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from benchmarks import discord_standin
from bot.app import _serve
from bot.errors import BotError, SettingsError
from bot.settings import Settings, load_settings
from tests.conftest import CACHE_DIR

TOKEN = "part-one.part-two.part-three"


@pytest.fixture
def settings(tmp_path: Path, smol_engine: object) -> Settings:
    return load_settings(None, data_dir=tmp_path, cache_dir=CACHE_DIR, discord_token=TOKEN, max_new_tokens=12)


async def until_visible(discord_side: discord_standin.StandIn, words: str) -> str:
    while True:
        for arrival in discord_side.arrivals():
            if words in arrival.content:
                return arrival.content
        await asyncio.sleep(0.05)


@pytest.mark.model
async def test_the_bot_logs_in_answers_a_command_and_leaves_on_sigterm(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with discord_standin.running(0.01) as discord_side:
        serving = asyncio.create_task(_serve(settings, TOKEN, force_sync=False))
        while "ready as" not in caplog.text:
            assert not serving.done(), serving.exception()
            await asyncio.sleep(0.05)
        discord_side.dispatch(discord_standin.command_payload(1, "joke", topic="tea", model="smol"))
        content = await asyncio.wait_for(until_visible(discord_side, "tokens/s"), 60)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, 10)
    assert "smol · 12 tokens" in content
    assert (tmp_path / "commands.sha256").exists()
    assert TOKEN not in caplog.text
    assert "tea" not in caplog.text


async def test_a_refused_token_is_a_sentence_without_the_token(settings: Settings) -> None:
    with (
        discord_standin.running(0, refuse_token=True),
        pytest.raises(SettingsError, match="DISCORD_TOKEN") as refused,
    ):
        await _serve(settings, TOKEN, force_sync=False)
    assert TOKEN not in str(refused.value)


async def test_discord_out_of_reach_is_a_sentence(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discord.http.Route.BASE", "http://127.0.0.1:9")
    with pytest.raises(BotError, match="cannot be reached"):
        await _serve(settings, TOKEN, force_sync=False)
