"""Starting and stopping the bot as an operator does, against a stand-in for Discord: gateway, HTTP and all."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from bot.app import _serve, open_engine, open_services
from bot.bench import discord_payloads, discord_standin
from bot.configured import read_catalog
from bot.errors import BotError, CatalogError, SettingsError
from bot.ops import panel
from bot.settings import Settings, load_settings
from bot.storage.database import open_database
from bot.storage.panels import PanelPlace, Panels
from tests.conftest import CACHE_DIR
from tests.inference.checkpoints import save_checkpoint
from tests.ops.looking_on import free_port, get

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
        discord_side.dispatch(discord_payloads.command_payload(1, "joke", topic="tea", model="smol"))
        content = await asyncio.wait_for(until_visible(discord_side, "tokens/s"), 60)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, 10)
    assert re.search(r"^-# .*smol · \d+ tokens", content, re.M)  # however soon it came to an end
    assert (tmp_path / "commands.sha256").exists()
    assert TOKEN not in caplog.text
    assert "tea" not in caplog.text


async def test_the_panel_of_the_last_run_is_kept_current_and_left_saying_that_the_bot_has_stopped(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(panel, "PERIOD_S", 0.2)
    async with open_database(settings.database_path) as database:
        await Panels(database).put(PanelPlace(int(discord_payloads.CHANNEL_ID), 777))
    with discord_standin.running(0.01) as discord_side:
        serving = asyncio.create_task(_serve(settings, TOKEN, force_sync=False))
        shown: list[str] = []
        while not shown:
            assert not serving.done(), serving.exception()
            shown = [one.token for one in discord_side.arrivals() if one.token == "message 777"]
            await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, 10)
        assert "message 777" in [one.token for one in discord_side.arrivals()]


def talking(settings: Settings, folder: Path, tokens: int, **changes: object) -> Settings:
    """The settings with a tiny model in smol's place, that always says so much: on any processor it takes seconds, and
    is not over before somebody tells the bot to stop."""
    save_checkpoint("llama", folder / "tiny", context_tokens=512)
    own = folder / "models.toml"
    own.write_text(
        f'[tiny]\nsource = "{folder / "tiny"}"\ncontext_tokens = 512\nquantization = "none"\n'
        f'description = "a model"\n'
        f"[tiny.sampling]\nmin_new_tokens = {tokens}\n"
    )
    values = settings.model_dump(exclude_none=True) | {"max_new_tokens": tokens, "models_file": own}
    return load_settings(None, **values | changes)


async def told_to_stop_in_the_middle(
    discord_side: discord_standin.StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """Send SIGTERM when somebody sees words, and return when the bot is stopping."""
    while not [one for one in discord_side.arrivals() if one.content and not one.content.startswith("-#")]:
        await asyncio.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)
    while "stopping: 1 running" not in caplog.text:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("grace_s", "ends"), [(60.0, "tiny · 150 tokens"), (0.0, "⚠️ The bot is restarting")])
async def test_told_to_stop_it_refuses_new_work_and_finishes_or_marks_what_runs(
    settings: Settings, caplog: pytest.LogCaptureFixture, tmp_path: Path, grace_s: float, ends: str
) -> None:
    caplog.set_level("INFO")
    stopping = talking(settings, tmp_path, 150, shutdown_grace_s=grace_s)
    with discord_standin.running(0.01) as discord_side:
        serving = asyncio.create_task(_serve(stopping, TOKEN, force_sync=False))
        while "ready as" not in caplog.text:
            assert not serving.done(), serving.exception()
            await asyncio.sleep(0.05)
        discord_side.dispatch(discord_payloads.command_payload(1, "joke", topic="tea", model="tiny"))
        await told_to_stop_in_the_middle(discord_side, caplog)
        discord_side.dispatch(discord_payloads.command_payload(2, "joke", topic="coffee", model="tiny"))
        await asyncio.wait_for(serving, 60)
        last = [one for one in discord_side.arrivals() if one.token == "token1"][-1]
    assert ends in last.content


async def test_the_local_port_says_starting_then_ready_then_draining(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    number = free_port()
    stopping = talking(settings, tmp_path, 150, metrics_port=number, shutdown_grace_s=60.0)
    said: list[str] = []

    async def look() -> dict[str, object]:
        page = await get(f"http://127.0.0.1:{number}/readyz")
        said.extend(page.json["reasons"])
        return page.json

    with discord_standin.running(0.01) as discord_side:
        serving = asyncio.create_task(_serve(stopping, TOKEN, force_sync=False))
        while "metrics at" not in caplog.text:
            await asyncio.sleep(0)
        while not (await look())["ready"]:
            assert not serving.done(), serving.exception()
        metrics = await get(f"http://127.0.0.1:{number}/metrics")
        discord_side.dispatch(discord_payloads.command_payload(1, "joke", topic="tea", model="tiny"))
        await told_to_stop_in_the_middle(discord_side, caplog)
        await look()
        await asyncio.wait_for(serving, 60)
    assert "starting" in said[0]
    assert "drained or stopped" in said[-1]
    assert "punchline_device_memory_total_bytes" in metrics.text
    assert 'punchline_ready{check="engine"} 1.0' in metrics.text


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


@pytest.mark.model
@pytest.mark.parametrize("name", ["load_at_start", "pinned_models"])
async def test_a_model_is_loaded_and_has_answered_before_anybody_asks(
    name: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    eager = load_settings(None, **{**settings.model_dump(exclude_none=True), name: "smol"})
    async with open_engine(eager) as engine, open_services(eager, engine):
        while "smol is ready" not in caplog.text:
            await asyncio.sleep(0.05)
        assert [resident.alias for resident in engine.memory().residents] == ["smol"]
        assert engine.memory().budget_bytes > engine.memory().reserved_bytes


@pytest.mark.model
async def test_the_bot_can_be_stopped_while_a_model_is_being_made_ready(settings: Settings) -> None:
    eager = load_settings(None, **{**settings.model_dump(exclude_none=True), "load_at_start": "smol"})
    async with asyncio.timeout(60), open_engine(eager) as engine, open_services(eager, engine):
        pass
    assert engine.memory().residents == ()


async def test_a_model_that_cannot_be_loaded_at_the_start_is_logged_and_the_bot_starts(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tmp_path / "models.toml"
    own.write_text('[gone]\nsource = "/nowhere"\ncontext_tokens = 256\ndescription = "a model"\n')
    values = {**settings.model_dump(exclude_none=True), "models_file": own, "load_at_start": "gone"}
    eager = load_settings(None, **values)
    async with open_engine(eager) as engine, open_services(eager, engine):
        while "gone is not loaded at the start" not in caplog.text:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["pinned_models", "load_at_start"])
def test_a_setting_that_names_no_model_is_said_before_anything_starts(settings: Settings, name: str) -> None:
    wrong = load_settings(None, **{**settings.model_dump(exclude_none=True), name: "gema"})
    with pytest.raises(CatalogError, match=f"{name.upper()} names 'gema', which is not in the catalogue"):
        read_catalog(wrong)
