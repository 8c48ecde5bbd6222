"""Whatever an operator writes in the catalogue, and however much there is, no card or list is over Discord's limits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import discord
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import CatalogError, ModelUnavailable
from bot.inference.memory import Footprint, MemoryReport, Resident
from bot.inference.scripted import ScriptedEngine
from bot.replies.limits import fitted, packed, shortened
from bot.replies.pages import units
from tests.cogs.operator import administrator
from tests.discord_limits import too_much
from tests.world import World, labels, open_world

WIDE = "🦙" * 100  # 100 characters, 200 units
LONG_ALIAS = "m{number:02d}" + "x" * 29
DEEP = "/srv/" + "d" * 3_000
ENTRY = (
    "[{alias}]\nsource = '{source}'\nrevision = '{wide}'\ncontext_tokens = 256\ndescription = '''{wide}'''\n"
)


def catalogue(tmp_path: Path) -> Path:
    """60 models, all with the longest of everything."""
    own = tmp_path / "models.toml"
    aliases = [LONG_ALIAS.format(number=number) for number in range(60)]
    own.write_text("".join(ENTRY.format(alias=alias, source=DEEP, wide=WIDE) for alias in aliases))
    return own


def bodies(world: World) -> list[Any]:
    return [request.json for request in world.env.http_requests if request.json]


async def test_no_card_list_or_choice_is_over_discords_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.ops.consultation.Consultation._of_machine", _nothing)
    alias = LONG_ALIAS.format(number=7)
    many = tuple(Resident(LONG_ALIAS.format(number=n), Footprint(10**9, 10**9), True, 1.0) for n in range(60))
    engine = ScriptedEngine(report=MemoryReport(10**11, many))
    async with open_world(engine, tmp_path, models_file=catalogue(tmp_path)) as world:
        admin = administrator(world)
        channel = world.channel
        await world.alice.slash(channel, "model set", model=alias)
        await world.alice.slash(channel, "model show")
        await world.alice.slash(
            channel, "model offer", models=",".join(f"m{n:02d}{'x' * 29}" for n in range(60))
        )
        await world.alice.slash(channel, "model list")
        (listed,) = channel.history(viewer=world.alice)[-1:]
        while "Next" in labels(listed) and not _disabled(listed, "Next"):
            assert DEEP not in listed.content
            await world.alice.click(listed, label="Next")
            listed = next(m for m in channel.history(viewer=world.alice) if m.id == listed.id)
        typed = await world.alice.autocomplete(channel, "ask", "model", "m")
        assert len(typed) == 25
        await world.alice.autocomplete(channel, "model offer", "models", "🦙" * 40 + ", m")
        await world.alice.slash(channel, "ask", prompt="Why?", model=alias)
        await world.until(lambda: bool(engine.started) and world.queue.running == 0)
        answer = next(one for one in reversed(world.messages) if "Details" in labels(one))
        await world.alice.click(answer, label="Another model")
        await world.alice.click(answer, label="Details")
        await world.alice.slash(channel, "gpu")
        await admin.slash(channel, "panel")
        await admin.slash(channel, "doctor")
        await world.pass_time(2)
        forever = asyncio.Event()
        engine.script = ("Once", forever.wait)
        for _ in range(12):
            await world.alice.slash(channel, "ask", prompt="Why?", model=alias)
        await admin.slash(channel, "queue")
        for number in range(100):
            await admin.slash(
                channel, "access deny", who=world.bob, model=LONG_ALIAS.format(number=number % 60)
            )
        await admin.slash(channel, "access show")
        await world.pass_time(2)
        found = [fault for body in bodies(world) for fault in too_much(body)]
        assert found == []
        assert DEEP not in str(bodies(world)).replace("\\\\", "")
        cards = [body for body in bodies(world) if "embeds" in str(body)]
        assert len(cards) > 3  # they were looked at


async def _nothing(*_: object) -> list[object]:
    return []


def _disabled(message: discord.Message, label: str) -> bool:
    items = [item for row in message.components for item in getattr(row, "children", [])]
    return any(getattr(item, "label", "") == label and item.disabled for item in items)


async def test_a_long_explanation_is_cut_wherever_it_is_told(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("One", ModelUnavailable("🦙" * 3_000)))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        assert "🦙…\n-# failed" in world.messages[0].content

        async def faulty() -> str:
            raise CatalogError("🦙" * 3_000)

        admin = administrator(world)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(world.bot.services.operations.reload), "__call__", lambda _: faulty())
            await admin.slash(world.channel, "reload")
            await world.until(lambda: any("🦙…" in str(body) for body in bodies(world)[-3:]))
            patch.setattr(type(world.bot.services.operations.reload), "__call__", lambda _: _long())
            await admin.slash(world.channel, "reload")
        await world.pass_time(1)
        assert [fault for body in bodies(world) for fault in too_much(body)] == []
        world.env.errors.clear()


async def _long() -> str:
    return "+model, " * 1_000


@given(st.text(st.characters(codec="utf-8"), max_size=300), st.integers(2, 100))
def test_a_shortened_text_is_its_beginning_within_the_limit(text: str, limit: int) -> None:
    short = shortened(text, limit)
    assert units(short) <= limit
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


@given(st.lists(st.text(min_size=1, max_size=60), max_size=30), st.integers(1, 10), st.integers(10, 100))
def test_packed_pages_hold_every_entry_once_within_the_limit(
    entries: list[str], most: int, limit: int
) -> None:
    pages = packed(entries, most=most, limit=limit)
    assert [one for page in pages for one in page] == [shortened(one, limit) for one in entries]
    assert all(len(page) <= most and units("\n".join(page)) <= limit for page in pages)


@given(st.text(max_size=400), st.text(max_size=5_000), st.lists(st.tuples(st.text(), st.text()), max_size=40))
def test_a_fitted_card_is_within_all_limits(
    title: str, description: str, fields: list[tuple[str, str]]
) -> None:
    card = discord.Embed(title=title + "🦙" * 300, description=description + "🦙" * 3_000)
    for name, value in fields:
        card.add_field(name=f"n{name}{'🦙' * 200}", value=f"v{value}{'🦙' * 900}")
    assert too_much({"embeds": [fitted(card).to_dict()]}) == []
