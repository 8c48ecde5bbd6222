"""An answer that takes longer than Discord lets a command be answered: 15 minutes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import discord
import pytest

from bot.bench import discord_payloads
from bot.inference.scripted import ScriptedEngine
from bot.replies import surface
from tests.cogs.test_own_apps import (
    PLACES,
    Bot,
    Payload,
    Place,
    bot,
    direct_message,
    discord_side,
    foreign_server,
    group,
    server_channel,
)
from tests.world import World, labels, open_world

__all__ = ["bot", "discord_side"]  # fixtures

assert PLACES


def edits_by(world: World, start: str) -> int:
    return sum(r.method == "PATCH" and r.path.startswith(start) for r in world.env.http_requests)


async def test_before_the_token_of_a_command_dies_the_reply_goes_on_with_the_bots_own(tmp_path: Path) -> None:
    gate, later = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(script=("One", gate.wait, " two", later.wait, " three."))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        interaction = next(iter(world.env.backend.interactions.values()))
        await world.pass_time(14 * 60 + 5)
        gate.set()
        await world.until(lambda: "two" in world.messages[0].content)
        assert edits_by(world, "/channels/") == 1
        await world.pass_time(60)
        with pytest.raises(discord.HTTPException):  # the token is dead by now
            await world.bot.http.request(
                discord.http.Route(
                    "PATCH",
                    "/webhooks/{application}/{token}/messages/@original",
                    application=world.bot.application_id,
                    token=interaction.token,
                ),
                json={"content": "by hand"},
            )
        later.set()
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("One two three.\n-# smol")
        assert len(world.messages) == 1
        assert "Regenerate" in labels(world.messages[0])


async def test_a_token_that_dies_early_is_gone_on_from_too(tmp_path: Path) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=("One", gate.wait, " two."))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        world.env.inject_error("PATCH", "/webhooks/*", status=401, code=50027, times=None)
        gate.set()
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("One two.\n-# smol")


def _with_the_bot_in_it(payload: Payload) -> Payload:
    return server_channel(payload) | {"app_permissions": str(discord.Permissions(view_channel=True).value)}


@pytest.mark.parametrize("place", [foreign_server, group], ids=["a server without the bot", "a group"])
async def test_where_only_the_command_lets_the_bot_write_the_reply_ends_in_time_and_says_so(
    bot: Bot, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surface, "TOKEN_LIFE_S", surface._MARGIN_S + 1.0)
    forever = asyncio.Event()
    bot.engine.script = ("Once upon", forever.wait)
    end = await bot.reply(place, "joke", "15 minutes")
    assert end.startswith(
        "Once upon\n⚠️ Discord lets a command that you installed for yourself be answered for 15"
    )
    assert "-# ⏱ timed out · smol" in end
    assert bot.engine.stopped == 1


@pytest.mark.parametrize("place", [_with_the_bot_in_it, direct_message], ids=["a server", "a direct message"])
async def test_where_the_bot_may_write_by_itself_the_reply_goes_on(
    bot: Bot, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot.bot._connection._add_guild_from_data(discord_payloads.guild_payload())  # type: ignore[arg-type]  # the gateway
    monkeypatch.setattr(surface, "TOKEN_LIFE_S", surface._MARGIN_S + 1.0)
    gate = asyncio.Event()
    bot.engine.script = ("Once upon", gate.wait, " a time.")
    assert await bot.reply(place, "joke", "Once upon") == "Once upon"
    asyncio.get_running_loop().call_later(1.5, gate.set)
    async with asyncio.timeout(20):
        while not (ends := [one for one in bot.discord_side.arrivals() if "tokens/s" in one.content]):
            await asyncio.sleep(0.05)
    assert ends[0].content.startswith("Once upon a time.\n-# smol")
    assert ends[0].token.startswith("message ")  # by the bot's own token
