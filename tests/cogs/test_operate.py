"""What operators do from Discord, as they and others see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import discord
import pytest
from simcord.actors import MemberActor

from bot.errors import ModelUnavailable
from bot.inference.memory import Footprint, MemoryReport, Resident
from bot.inference.scripted import ScriptedEngine
from bot.ops.readings import DeviceLook
from bot.settings import Settings
from bot.storage.panels import Panels
from tests.cogs.operator import administrator
from tests.ops.looking_on import GPU
from tests.world import World, labels, open_world, over

MEMORY = MemoryReport(
    24 * 10**9, (Resident("gemma", Footprint(2 * 10**9, 10**8), pinned=False, idle_s=None),)
)
COMMANDS = ("drain", "resume", "queue", "reload", "panel")


def said(result: Any) -> str:
    """What a command was answered with."""
    return str(result.response.content)


def listed(message: discord.Message) -> list[str]:
    """The lines of a queue, without the head."""
    return [line for line in message.content.splitlines() if line[0].isdigit()]


def options(message: discord.Message) -> list[str]:
    """The values that a message offers to choose from."""
    items = [item for row in message.components for item in getattr(row, "children", [])]
    return [option.value for item in items for option in getattr(item, "options", [])]


def answers(world: World) -> list[discord.Message]:
    return [one for one in world.messages if one.author.bot]


async def private(world: World, admin: MemberActor) -> discord.Message:
    """The newest message that only the operator sees."""
    seen = {one.id for one in world.messages}
    return [one for one in world.channel.history(viewer=admin) if one.id not in seen][-1]


@pytest.mark.parametrize("command", COMMANDS)
async def test_who_runs_no_bot_hears_so_and_changes_nothing(tmp_path: Path, command: str) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        admin = administrator(world, operates=False)
        result = await admin.slash(world.channel, command)
        assert said(result) == "Only the people who run the bot can do that."
        assert result.ephemeral
        assert not world.bot.services.gate.drained
        assert world.messages == []
        assert len(world.env.errors) == 1


@pytest.mark.parametrize("command", COMMANDS)
async def test_others_do_not_even_see_the_command(tmp_path: Path, command: str) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        assert command not in world.bob.available_commands(world.channel)
        assert command in administrator(world).available_commands(world.channel)


# --- Drain and resume -----------------------------------------------------------------------------------------


async def test_a_drained_bot_serves_who_was_let_in_and_tells_others_why_until_it_is_resumed(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once", gate.wait, " more.")), tmp_path) as world:
        admin = administrator(world)
        await world.alice.slash(world.channel, "joke")
        await world.bob.slash(world.channel, "joke")  # waits: one place
        await world.until(lambda: world.queue.running == 1 and world.queue.waiting == 1)
        result = await admin.slash(world.channel, "drain", reason="a new driver")
        assert "1 running and 1 waiting are served" in said(result)
        refused = await world.bob.slash(world.channel, "joke")
        assert said(refused) == (
            "The bot takes no new questions for now (a new driver). Please ask again later."
        )
        assert refused.ephemeral
        assert len(world.env.errors) == 1
        gate.set()
        await world.until(lambda: world.ended)
        assert [one.content.splitlines()[0] for one in answers(world)] == ["Once more.", "Once more."]
        assert said(await admin.slash(world.channel, "resume")) == "People are let in again."
        await world.bob.slash(world.channel, "joke")
        await world.until(lambda: len(answers(world)) == 3 and world.ended)


async def test_buttons_and_mentions_are_not_let_in_either(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        admin = administrator(world)
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        await admin.slash(world.channel, "drain")
        pressed = await world.alice.click(world.messages[-1], label="Regenerate")
        assert said(pressed) == "The bot takes no new questions for now. Please ask again later."
        assert world.bot.user is not None
        await world.bob.send(world.channel, f"{world.bot.user.mention} why?")
        await world.until(lambda: "takes no new questions" in world.messages[-1].content)
        assert world.queue.running == world.queue.waiting == 0


async def test_resuming_a_bot_that_is_not_drained_says_so(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        text = said(await administrator(world).slash(world.channel, "resume"))
    assert text == "People were let in already."


# --- The queue ------------------------------------------------------------------------------------------------


async def test_the_queue_shows_who_is_answered_and_who_waits_and_cancels_whom_the_operator_chooses(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once", gate.wait, " more.")), tmp_path) as world:
        admin = administrator(world)
        await world.alice.slash(world.channel, "joke")
        await world.bob.slash(world.channel, "joke", model="gemma")
        await world.until(lambda: world.queue.running == 1 and world.queue.waiting == 1)
        await world.until(lambda: "Once" in answers(world)[0].content)
        await admin.slash(world.channel, "queue")
        shown = await private(world, admin)
        assert shown.content.startswith("**1 running, 1 waiting**")
        running, waiting = listed(shown)
        assert running.startswith("1. smol · running for")
        assert f"<@{world.alice.id}> in <#{world.channel.id}>" in running
        assert waiting.startswith("2. gemma · waiting for")
        menu = options(shown)
        await admin.select(shown, [menu[1]])
        shown = await private(world, admin)
        assert shown.content.splitlines()[:2] == ["1 cancelled.", "**1 running, 0 waiting**"]
        await world.until(lambda: over(answers(world)[1]))
        assert "⏹ stopped by an operator · gemma" in answers(world)[1].content
        gate.set()
        await world.until(lambda: world.ended)
        assert answers(world)[0].content.startswith("Once more.")


async def test_cancelling_all_ends_what_was_listed_and_nothing_that_came_since(tmp_path: Path) -> None:
    forever = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once", forever.wait)), tmp_path) as world:
        admin = administrator(world)
        for _ in range(12):
            await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.queue.waiting == 11)
        await admin.slash(world.channel, "queue")
        shown = await private(world, admin)
        assert len(listed(shown)) == 10
        assert shown.content.endswith("-# page 1 of 2")
        await admin.click(shown, label="Next")
        assert [line.split(".")[0] for line in listed(await private(world, admin))] == ["11", "12"]
        await world.bob.slash(world.channel, "joke")
        await world.until(lambda: world.queue.waiting == 12)
        await admin.click(await private(world, admin), label="Cancel all")
        assert (await private(world, admin)).content.startswith("12 cancelled.")
        await world.until(
            lambda: sum("stopped by an operator" in one.content for one in answers(world)) == 12
        )
        await world.until(lambda: world.queue.running == 1 and world.queue.waiting == 0)
        await admin.click(await private(world, admin), label="Look again")
        (left,) = listed(await private(world, admin))
        assert f"<@{world.bob.id}>" in left


@pytest.mark.parametrize("press", ["Cancel all", "Look again", "menu"])
async def test_an_open_queue_does_nothing_for_somebody_who_is_no_operator_any_more(
    tmp_path: Path, press: str
) -> None:
    forever = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once", forever.wait)), tmp_path) as world:
        admin = administrator(world)
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: "Once" in answers(world)[0].content)
        await admin.slash(world.channel, "queue")
        shown = await private(world, admin)
        world.bot.services.operators.name([12345])  # as a reload does
        result = await (
            admin.select(shown, options(shown)[:1]) if press == "menu" else admin.click(shown, label=press)
        )
        assert said(result) == "Only the people who run the bot can do that."
        assert result.ephemeral
        assert len(world.env.errors) == 1
        assert world.queue.running == 1
        await world.pass_time(1)
        assert labels(answers(world)[0]) == ["Stop"]


async def test_an_open_queue_does_nothing_in_a_server_that_was_switched_off(tmp_path: Path) -> None:
    forever = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once", forever.wait)), tmp_path) as world:
        admin = administrator(world)
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: "Once" in answers(world)[0].content)
        await admin.slash(world.channel, "queue")
        shown = await private(world, admin)
        await admin.slash(world.channel, "access off")
        result = await admin.click(shown, label="Look again")
        assert said(result).startswith("I am switched off in this server")
        world.env.errors.clear()


async def test_an_empty_queue_is_shown_as_empty(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        admin = administrator(world)
        await admin.slash(world.channel, "queue")
        shown = await private(world, admin)
    assert shown.content == "**0 running, 0 waiting**"


# --- Reload ---------------------------------------------------------------------------------------------------


async def test_a_reload_says_what_has_changed_and_what_needs_a_restart(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        admin = administrator(world)
        read_from(
            world,
            lambda now: now.model_copy(
                update={"operator_ids": (admin.id,), "max_new_tokens": 7, "batch_requests": 3}
            ),
        )
        result = await admin.slash(world.channel, "reload")
        await world.until(lambda: bool(said(result)))
        assert said(result).splitlines() == [
            "Reloaded. Changed: MAX_NEW_TOKENS, OPERATOR_IDS.",
            "At the next start only: BATCH_REQUESTS.",
        ]
        assert result.ephemeral


async def test_a_fault_is_the_operators_to_read_and_changes_nothing(tmp_path: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text("[gemma\n")
    async with open_world(ScriptedEngine(), tmp_path) as world:
        admin = administrator(world)
        read_from(world, lambda now: now.model_copy(update={"models_file": own, "max_new_tokens": 7}))
        result = await admin.slash(world.channel, "reload")
        await world.until(lambda: bool(said(result)))
        assert "models.toml is not valid TOML" in said(result)
        assert len(world.env.errors) == 1
        assert world.bot.services.answers.max_new_tokens != 7


def read_from(world: World, change: Callable[[Settings], Settings]) -> None:
    """What the files say at the next reload."""
    reload = world.bot.services.operations.reload
    reload._reread = lambda: change(reload.settings)


# --- The panel ------------------------------------------------------------------------------------------------


def on_a_gpu(world: World) -> None:
    world.bot.services.operations.panel._card._device = DeviceLook(lambda: GPU)


def card(message: discord.Message) -> dict[str, str]:
    (embed,) = message.embeds
    fields = {field.name or "": field.value or "" for field in embed.fields}
    return {"": embed.description or "", **fields}


async def test_the_panel_shows_how_the_bot_is_and_keeps_itself_current(tmp_path: Path) -> None:
    gate = asyncio.Event()
    script = ("Once", gate.wait, ModelUnavailable("gone"))
    async with open_world(ScriptedEngine(script=script, report=MEMORY), tmp_path) as world:
        on_a_gpu(world)
        admin = administrator(world)
        await admin.slash(world.channel, "panel")
        await world.until(lambda: bool(world.messages and world.messages[0].embeds))
        panel = world.messages[0]
        assert card(panel)[""].startswith("🟢 Answering · as of <t:")
        assert card(panel)["Queue"] == "0 running, 0 waiting"
        assert card(panel)["Memory"] == "60 GB of 80 GB on the GPU\n**gemma** 2.1 GB · in use"
        assert card(panel)["Errors"] == "None in the last hour"
        assert labels(panel) == ["Queue", "Drain"]
        await world.alice.slash(world.channel, "joke")
        await world.bob.slash(world.channel, "joke")
        await world.until(lambda: "1 running, 1 waiting · longest wait" in card(world.messages[0])["Queue"])
        gate.set()
        await world.until(lambda: card(world.messages[0])["Errors"] == "2 ModelUnavailable in the last hour")
        assert card(world.messages[0])["Speed"].endswith("2 answers in the last hour")


async def test_a_panel_on_which_nothing_changes_is_brought_up_to_date_each_minute(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        on_a_gpu(world)
        await administrator(world).slash(world.channel, "panel")
        await world.until(lambda: bool(world.messages and world.messages[0].embeds))
        before = len(panel_edits(world))
        for _ in range(13):
            await world.pass_time(10.0)
        assert len(panel_edits(world)) - before == 2


def panel_edits(world: World) -> list[Any]:
    return [
        one
        for one in world.env.http_requests
        if one.method == "PATCH" and one.path.startswith("/channels/") and (one.json or {}).get("embeds")
    ]


async def test_buttons_under_the_panel_drain_resume_and_show_the_queue_to_operators_alone(
    tmp_path: Path,
) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        on_a_gpu(world)
        admin = administrator(world)
        await admin.slash(world.channel, "panel")
        await world.until(lambda: bool(world.messages and world.messages[0].embeds))
        refused = await world.bob.click(world.messages[0], label="Drain")
        assert said(refused) == "Only the people who run the bot can do that."
        await admin.click(world.messages[0], label="Drain")
        assert world.bot.services.gate.drained
        await world.until(lambda: labels(world.messages[0]) == ["Queue", "Resume"])
        assert card(world.messages[0])[""].startswith("⏸ Drained")
        await admin.click(world.messages[0], label="Queue")
        assert (await private(world, admin)).content.startswith("**0 running")
        await admin.click(world.messages[0], label="Resume")
        await world.until(lambda: labels(world.messages[0]) == ["Queue", "Drain"])
        assert not world.bot.services.gate.drained


async def test_a_second_panel_takes_the_place_of_the_first(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        on_a_gpu(world)
        admin = administrator(world)
        await admin.slash(world.channel, "panel")
        await world.until(lambda: bool(world.messages and world.messages[0].embeds))
        first = world.messages[0].id
        await admin.slash(world.channel, "panel")
        await world.until(lambda: [one.id != first and bool(one.embeds) for one in world.messages] == [True])
        kept = await Panels(world.bot.services.database).find()
        assert kept is not None
        assert kept.message_id == world.messages[0].id


async def test_a_panel_that_is_deleted_is_not_looked_for_any_more(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        on_a_gpu(world)
        admin = administrator(world)
        await admin.slash(world.channel, "panel")
        await world.until(lambda: bool(world.messages and world.messages[0].embeds))
        await admin.delete(world.messages[0])
        panel = world.bot.services.operations.panel
        await world.until(lambda: panel._place is None, tick_s=5.0)
        assert await Panels(world.bot.services.database).find() is None
        edits = len(panel_edits(world))
        await world.pass_time(120.0)
        assert len(panel_edits(world)) == edits


async def test_a_panel_that_may_not_be_edited_for_a_while_is_kept_and_brought_up_to_date_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        on_a_gpu(world)
        admin = administrator(world)
        await admin.slash(world.channel, "panel")
        world.env.inject_error("PATCH", "/channels/*/messages/*", status=403, code=50001, times=2)
        await admin.slash(world.channel, "drain")
        await world.until(lambda: "the panel could not" in caplog.text, tick_s=5.0)
        await world.until(lambda: labels(world.messages[0]) == ["Queue", "Resume"], tick_s=30.0)
        assert await Panels(world.bot.services.database).find() is not None
        assert caplog.text.count("the panel could not") == 1


async def test_when_the_bot_stops_the_panel_says_so(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        on_a_gpu(world)
        await administrator(world).slash(world.channel, "panel")
        await world.until(lambda: bool(world.messages and world.messages[0].embeds))
        ending = asyncio.create_task(world.bot.services.operations.panel.end())
        await world.until(ending.done)
        assert card(world.messages[0])[""].startswith("⏹ Stopped")
        assert labels(world.messages[0]) == []
