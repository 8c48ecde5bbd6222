"""The demo page in a real browser: what somebody without Discord sees first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import expect

from bot.demo.page import serve_with
from bot.errors import BotError
from bot.inference.embedded import checkpoint_path
from bot.inference.engine import Engine
from bot.inference.scripted import ScriptedEngine
from bot.settings import Settings, load_settings
from tests.browser import last_reply, needs_browser, open_page, send, type_command
from tests.conftest import CACHE_DIR

# Playwright's own machinery leaves transports to the garbage collector.
pytestmark = [needs_browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, cache_dir=tmp_path, data_dir=tmp_path)


@asynccontextmanager
async def serving(settings: Settings, engine: Engine) -> AsyncIterator[tuple[str, asyncio.Task[int]]]:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve_with(settings, 0, engine, ready))
    try:
        await asyncio.wait((ready, server), return_when=asyncio.FIRST_COMPLETED)
        yield await ready, server
    finally:
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


async def test_a_visitor_types_a_joke_and_sees_the_reply_grow(settings: Settings) -> None:
    gates = [asyncio.Event() for _ in range(2)]
    engine = ScriptedEngine(script=("Why did", gates[0].wait, " the table", gates[1].wait, " join?"))
    async with serving(settings, engine) as (url, _), open_page(url) as page:
        await expect(last_reply(page)).to_contain_text("Welcome!")
        await type_command(page, "joke", topic="databases", model="smol")
        await send(page)
        reply = last_reply(page).locator(".message-content")
        await expect(reply).to_have_text("Why did")
        gates[0].set()
        await expect(reply).to_have_text("Why did the table")
        await expect(last_reply(page).get_by_role("button", name="Stop")).to_be_visible()
        gates[1].set()
        await expect(reply).to_contain_text("Why did the table join?")
        await expect(reply).to_contain_text("smol · 3 tokens")
        await expect(last_reply(page).get_by_role("button", name="Stop")).to_have_count(0)
    assert "databases" in engine.started[0].messages[-1].content


async def test_stop_on_the_page_stops_the_model_at_the_first_press(settings: Settings) -> None:
    engine = ScriptedEngine(
        script=[step for n in range(400) for step in (f"{n} ", lambda: asyncio.sleep(0.02))]
    )
    async with serving(settings, engine) as (url, _), open_page(url) as page:
        await type_command(page, "joke")
        await send(page)
        await last_reply(page).get_by_role("button", name="Stop").click()
        await expect(last_reply(page)).to_contain_text("⏹ stopped")
    assert engine.stopped == 1


async def test_two_commands_follow_each_other_while_the_page_changes_all_the_time(settings: Settings) -> None:
    engine = ScriptedEngine(
        script=[step for n in range(150) for step in (f"{n} ", lambda: asyncio.sleep(0.02))]
    )
    async with serving(settings, engine) as (url, _), open_page(url) as page:
        for topic in ("cats", "dogs"):
            await type_command(page, "joke", topic=topic, model="smol")
            await send(page)
        await expect(last_reply(page)).to_contain_text("150 tokens", timeout=20_000)
    assert len(engine.started) == 2


async def test_ending_the_session_on_the_page_ends_the_demo(settings: Settings) -> None:
    async with serving(settings, ScriptedEngine()) as (url, server), open_page(url) as page:
        await page.locator("details.session-menu > summary").click()
        await page.locator("#close").click()
        assert await asyncio.wait_for(server, 10) == 0


async def test_a_port_in_use_is_a_sentence(settings: Settings) -> None:
    async with serving(settings, ScriptedEngine()) as (url, _):
        port = int(url.split(":")[2].split("/")[0])
    occupied = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    async with occupied:
        with pytest.raises(BotError, match=f"port {port}"):
            await serve_with(settings, port, ScriptedEngine())


@pytest.mark.model
async def test_a_look_inside_a_model_is_a_card_with_a_picture(settings: Settings) -> None:
    if not checkpoint_path(CACHE_DIR).exists():
        pytest.skip("NEEDS THE EMBEDDED MODEL: run `python -m bot pull smol` first, as `make test` does")
    here = settings.model_copy(update={"cache_dir": CACHE_DIR})
    async with serving(here, ScriptedEngine()) as (url, _), open_page(url) as page:
        await type_command(page, "inspect", model="smol")
        await send(page)
        await expect(last_reply(page)).to_contain_text("LlamaForCausalLM", timeout=60_000)
        picture = last_reply(page).locator("img.attachment-image")
        await expect(picture).to_have_js_property("naturalWidth", 1100)
