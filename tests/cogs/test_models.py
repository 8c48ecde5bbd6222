"""`/model` as people in a server see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import discord
import pytest
from simcord.actors import MemberActor
from simcord.builders import ChannelHandle

from bot.inference.scripted import ScriptedEngine
from tests.world import World, open_world

MANY = "".join(
    f'[m{n:02d}]\nrepository = "someone/model-{n:02d}"\ncontext_tokens = 256\ndescription = "number {n}"\n'
    for n in range(60)
)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


def manager(world: World, **permissions: bool) -> MemberActor:
    """Somebody with permissions of their own."""
    guild = world.channel.guild
    assert guild is not None
    role = guild.create_role("managers", permissions=discord.Permissions(**permissions))
    return guild.add_member(world.env.create_user("mod"), roles=[role])


def answer(result: Any) -> str:
    assert result.response is not None
    return str(result.response.content)


async def asked(world: World, who: MemberActor, engine: ScriptedEngine, **options: str) -> str:
    """Have somebody ask; the model that was asked."""
    before = len(engine.started)
    await who.slash(world.channel, "ask", prompt="Hm?", **options)
    await world.until(lambda: len(engine.started) > before)
    return engine.started[-1].model.alias


async def test_a_manager_chooses_for_the_channel_and_everybody_gets_that_model(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with open_world(engine, tmp_path) as world:
        mod = manager(world, manage_channels=True)
        said = await mod.slash(world.channel, "model set", model="gemma")
        assert answer(said).startswith("**gemma** answers in this channel from now on")
        assert not said.ephemeral
        assert await asked(world, world.bob, engine) == "gemma"
        assert await asked(world, world.bob, engine, model="phi") == "phi"
        said = await mod.slash(world.channel, "model reset")
        assert answer(said) == "The choice for this channel is gone; **smol** answers here."
        assert await asked(world, world.bob, engine) == "smol"
        said = await mod.slash(world.channel, "model reset")
        assert answer(said) == "Nothing was chosen for this channel; **smol** answers here."


async def test_who_may_not_manage_channels_is_told_so_alone_and_nothing_changes(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with open_world(engine, tmp_path) as world:
        for command, options in (("model set", {"model": "gemma"}), ("model reset", {})):
            refused = await world.bob.slash(world.channel, command, **options)
            assert refused.ephemeral
            assert "You need the permission Manage Channels" in answer(refused)
            assert "Integrations" in answer(refused)
        assert len(world.env.errors) == 2
        assert await asked(world, world.bob, engine) == "smol"


async def test_a_server_can_let_others_choose_in_its_integration_settings(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with open_world(engine, tmp_path) as world:
        guild = world.channel.guild
        assert guild is not None
        (command,) = [one for one in await world.bot.tree.fetch_commands() if one.name == "model"]
        guild.set_command_permissions(command, {world.bob: True})
        said = await world.bob.slash(world.channel, "model set", model="phi")
        assert answer(said).startswith("**phi** answers in this channel")
        assert await asked(world, world.bob, engine) == "phi"


async def test_an_override_for_others_or_for_a_channel_gives_nobody_a_right(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with open_world(engine, tmp_path) as world:
        guild = world.channel.guild
        assert guild is not None
        (command,) = [one for one in await world.bot.tree.fetch_commands() if one.name == "model"]
        somebody = manager(world)
        guild.set_command_permissions(command, {somebody: False, world.channel: True})
        refused = await world.bob.slash(world.channel, "model set", model="phi")
        assert "You need the permission Manage Channels" in answer(refused)
        assert len(world.env.errors) == 1


async def test_everybody_may_where_the_server_allows_it_to_everyone(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with open_world(engine, tmp_path) as world:
        guild = world.channel.guild
        assert guild is not None
        (command,) = [one for one in await world.bot.tree.fetch_commands() if one.name == "model"]
        guild.set_command_permissions(command, {guild.default_role: True})
        said = await world.bob.slash(world.channel, "model set", model="phi")
        assert answer(said).startswith("**phi** answers in this channel")


async def test_the_servers_default_needs_its_managers_and_holds_for_every_channel(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with open_world(engine, tmp_path) as world:
        mod = manager(world, manage_channels=True)
        refused = await mod.slash(world.channel, "model set", model="gemma", scope="server")
        assert "Manage Server" in answer(refused)
        assert len(world.env.errors) == 1
        said = await manager(world, manage_guild=True).slash(
            world.channel, "model set", model="gemma", scope="server"
        )
        assert "answers in this server" in answer(said)
        guild = world.channel.guild
        assert guild is not None
        other = guild.create_text_channel("other")
        await world.bob.slash(other, "ask", prompt="Hm?")
        await world.until(lambda: len(engine.started) == 1)
        assert engine.started[0].model.alias == "gemma"


async def test_show_says_who_answers_and_why(engine: ScriptedEngine, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path) as world:
        mod = manager(world, manage_channels=True)
        await mod.slash(world.channel, "model set", model="gemma")
        shown = await world.bob.slash(world.channel, "model show")
        assert shown.ephemeral
        assert answer(shown).splitlines()[0].startswith("**gemma** answers here: Gemma 2 2B")
        assert answer(shown).splitlines()[1:] == [
            "▸ this channel: `gemma`",
            "· this server: nothing chosen",
            "· the bot's default: `smol`",
        ]


async def test_list_shows_what_there_is_and_which_one_answers(engine: ScriptedEngine, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path) as world:
        shown = await world.bob.slash(world.channel, "model list")
        assert shown.ephemeral
        lines = answer(shown).splitlines()
        assert lines[0].startswith("▸ **smol**")
        assert "-# google/gemma-2-2b-it" in lines
        assert len(lines) == 12


async def test_sixty_models_are_pages_to_turn_and_a_list_to_complete_from(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    own = tmp_path / "models.toml"
    own.write_text(MANY)
    async with open_world(engine, tmp_path, models_file=own) as world:
        shown = await world.bob.slash(world.channel, "model list")
        seen = [answer(shown)]
        message = shown.response
        assert message is not None
        for _ in range(6):
            await world.bob.click(message, label="Next")
            message = shown.response
            assert message is not None
            seen.append(message.content)
        assert all(len(page) <= 2000 for page in seen)
        assert seen[0].endswith("-# page 1 of 7")
        assert seen[-1].endswith("-# page 7 of 7")
        assert all(f"**m{n:02d}**" in "".join(seen) for n in range(60))
        everything = await world.bob.autocomplete(world.channel, "ask", "model", "")
        assert len(everything) == 25
        typed = await world.bob.autocomplete(world.channel, "model set", "model", "NUMBER 59")
        assert [choice["value"] for choice in typed] == ["m59"]
        typed = await world.bob.autocomplete(world.channel, "joke", "model", "someone/model-3")
        assert [choice["value"] for choice in typed] == [f"m3{n}" for n in range(10)]


async def test_the_buttons_of_a_list_go_when_they_do_nothing_any_more(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    own = tmp_path / "models.toml"
    own.write_text(MANY)
    async with open_world(engine, tmp_path, models_file=own) as world:
        shown = await world.bob.slash(world.channel, "model list")
        assert shown.response is not None
        assert shown.response.components
        await world.env.advance_time(301)
        assert shown.response.components == []


async def test_a_server_that_restricts_its_models_offers_only_those(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with open_world(engine, tmp_path) as world:
        owner = manager(world, manage_guild=True)
        refused = await world.bob.slash(world.channel, "model offer", models="smol")
        assert "Manage Server" in answer(refused)
        said = await owner.slash(world.channel, "model offer", models="Phi, gemma,")
        assert answer(said) == "This server offers **phi**, **gemma** from now on."
        typed = await world.bob.autocomplete(world.channel, "ask", "model", "")
        assert [choice["value"] for choice in typed] == ["phi", "gemma"]
        refused = await world.bob.slash(world.channel, "ask", prompt="Hm?", model="smol")
        assert refused.ephemeral
        assert answer(refused) == "smol is not offered in this server. Choose from: phi, gemma."
        assert await asked(world, world.bob, engine) == "phi"
        assert len(answer(await world.bob.slash(world.channel, "model list")).splitlines()) == 4
        assert (
            answer(await owner.slash(world.channel, "model offer"))
            == "This server offers all models from now on."
        )
        assert await asked(world, world.bob, engine, model="smol") == "smol"
        assert len(world.env.errors) == 2


async def test_the_list_of_offers_completes_its_last_name(engine: ScriptedEngine, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path) as world:
        typed = await manager(world, manage_guild=True).autocomplete(
            world.channel, "model offer", "models", "smol, gem"
        )
        assert [choice["value"] for choice in typed] == ["smol, gemma"]
        typed = await manager(world, manage_guild=True).autocomplete(
            world.channel, "model offer", "models", "smol,"
        )
        assert "smol, smol" not in [choice["value"] for choice in typed]


async def test_a_thread_has_a_choice_of_its_own_and_else_its_channels(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with open_world(engine, tmp_path) as world:
        mod = manager(world, manage_channels=True)
        backend = world.env.backend
        made = backend.create_thread(world.channel.id, "a thread", owner_id=mod.id)
        backend.announce_thread_create(made)
        thread = ChannelHandle(world.env, world.channel.guild, made)
        await world.env.settle()
        await mod.slash(thread, "model set", model="phi", scope="channel")
        assert await asked_in(world, thread, engine) == "phi"
        said = await mod.slash(thread, "model set", model="gemma")
        assert "in this thread" in answer(said)
        assert await asked_in(world, thread, engine) == "gemma"
        assert await asked(world, world.bob, engine) == "phi"


async def asked_in(world: World, channel: Any, engine: ScriptedEngine) -> str:
    before = len(engine.started)
    await world.bob.slash(channel, "ask", prompt="Hm?")
    await world.until(lambda: len(engine.started) > before)
    return engine.started[-1].model.alias


async def test_nothing_of_it_pings_anybody(engine: ScriptedEngine, tmp_path: Path) -> None:
    async with open_world(engine, tmp_path) as world:
        mod = manager(world, manage_channels=True)
        await mod.slash(world.channel, "model set", model="gemma")
        await mod.slash(world.channel, "model show")
        await mod.slash(world.channel, "model list")
        bodies: list[Any] = [request.json for request in world.env.http_requests if request.json]
        sent = [body.get("data", body) for body in bodies if isinstance(body, dict)]
        assert all(body["allowed_mentions"] == {"parse": []} for body in sent if body.get("content"))


async def test_in_a_direct_message_everybody_chooses_for_themselves(
    engine: ScriptedEngine, tmp_path: Path
) -> None:
    async with open_world(engine, tmp_path) as world:
        carol = world.env.create_user("carol")
        said = await carol.slash("model set", model="gemma")
        assert "**gemma** answers in this channel" in answer(said)
        await carol.slash("ask", prompt="Hm?")
        await world.until(lambda: len(engine.started) == 1)
        assert engine.started[0].model.alias == "gemma"
        refused = await carol.slash("model set", model="gemma", scope="server")
        assert answer(refused) == "This is not a server: leave `scope` out."
        assert len(world.env.errors) == 1
