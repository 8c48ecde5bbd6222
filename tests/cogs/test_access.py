"""`/access` as moderators use it, and what those see whom it keeps out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from simcord import SetupError
from simcord.actors import MemberActor
from simcord.builders import ChannelHandle, RoleHandle

from bot.errors import BotError, PromptTooLong
from bot.inference.engine import FinishReason
from bot.inference.scripted import ScriptedEngine
from tests.world import World, labels, open_world


@asynccontextmanager
async def opened(engine: ScriptedEngine, folder: Path, **settings: Any) -> AsyncIterator[World]:
    """The bot; refusals are errors that discord.py hands to its error handler, and anything else is a bug."""
    async with open_world(engine, folder, **settings) as world:
        yield world
        causes = [error.__cause__ or error for error in world.env.errors]
        assert [cause for cause in causes if not isinstance(cause, BotError)] == []


def words(result: Any) -> str:
    """What a moderator, or somebody who was refused, reads alone."""
    assert result.ephemeral, "everybody can read that"
    assert result.response is not None
    return str(result.response.content)


def me(world: World) -> str:
    assert world.bot.user is not None
    return world.bot.user.mention


def said(world: World) -> list[str]:
    """What the bot wrote for everybody to read."""
    return [message.content for message in world.messages if message.author.bot]


def role_of(world: World, name: str = "members") -> RoleHandle:
    assert world.channel.guild is not None
    return world.channel.guild.create_role(name)


def carol(world: World, *roles: RoleHandle) -> MemberActor:
    assert world.channel.guild is not None
    return world.channel.guild.add_member(world.env.create_user("carol"), roles=list(roles))


async def thread_in(world: World, channel: ChannelHandle) -> ChannelHandle:
    made = world.env.backend.create_thread(channel.id, "a thread", owner_id=world.bob.id)
    world.env.backend.announce_thread_create(made)
    await world.env.settle()
    assert world.channel.guild is not None
    return ChannelHandle(world.env, world.channel.guild, made)


async def access(world: World, what: str, **options: Any) -> str:
    return words(await world.alice.slash(world.channel, f"access {what}", **options))


async def asked(world: World, who: MemberActor, engine: ScriptedEngine, **options: str) -> None:
    """Somebody asks, and is answered."""
    before = len(engine.started)
    await who.slash(world.channel, "ask", prompt="Hm?", **options)
    await world.until(lambda: len(engine.started) == before + 1 and world.queue.running == 0)
    await world.pass_time(2)


async def refused(world: World, who: MemberActor, **options: str) -> str:
    return words(await who.slash(world.channel, "ask", prompt="Hm?", **options))


async def test_somebody_who_is_denied_is_told_so_alone_and_is_let_in_again(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with opened(engine, tmp_path) as world:
        assert (
            await access(world, "deny", who=world.bob)
            == f"From now on: {world.bob.mention} may **not** ask me."
        )
        assert "This server's moderators do not let you ask me here" in await refused(world, world.bob)
        await asked(world, world.alice, engine)
        assert await access(world, "clear", who=world.bob) == f"The rule about {world.bob.mention} is gone."
        assert await access(world, "clear", who=world.bob) == f"There was no rule about {world.bob.mention}."
        await asked(world, world.bob, engine)


async def test_a_server_can_be_for_one_role_only(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with opened(engine, tmp_path) as world:
        members = role_of(world)
        member = carol(world, members)
        assert world.channel.guild is not None
        everyone = world.channel.guild.default_role
        assert await access(world, "deny", who=everyone) == "From now on: @everyone may **not** ask me."
        await access(world, "allow", who=members)
        await asked(world, member, engine)
        assert "do not let you" in await refused(world, world.bob)


async def test_a_server_can_be_closed_but_for_one_channel_and_its_threads(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with opened(engine, tmp_path) as world:
        assert world.channel.guild is not None
        bots = world.channel.guild.create_text_channel("bots")
        assert "may **not** ask me in channels without a rule" in await access(world, "deny", everywhere=True)
        assert f"may ask me in <#{bots.id}>" in await access(world, "allow", channel=bots)
        assert "Try another channel" in await refused(world, world.bob)
        thread = await thread_in(world, bots)
        await world.bob.slash(bots, "ask", prompt="Hm?")
        await world.bob.slash(thread, "ask", prompt="Hm?")
        await world.bob.send(thread, f"{me(world)} Why?")
        await world.until(lambda: len(engine.started) == 3)


async def test_a_category_is_closed_with_its_channels_and_their_threads(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with opened(engine, tmp_path) as world:
        assert world.channel.guild is not None
        games = world.channel.guild.create_category("games")
        chess = world.channel.guild.create_text_channel("chess", category=games)
        thread = await thread_in(world, chess)
        await access(world, "deny", channel=games)
        for place in (chess, thread):
            assert "do not let anybody ask me here" in words(
                await world.bob.slash(place, "ask", prompt="Hm?")
            )
            await world.bob.send(place, f"{me(world)} Why?")
            assert not any(message.author.bot for message in place.history())
        await access(world, "allow", channel=thread)
        await world.bob.slash(thread, "ask", prompt="Hm?")
        await world.until(lambda: len(engine.started) == 1)
        await asked(world, world.bob, engine)


async def test_a_model_can_be_for_some_and_others_are_told_to_name_another(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with opened(engine, tmp_path) as world:
        said_so = await access(world, "deny", who=world.bob, model="mixtral")
        assert said_so == f"From now on: {world.bob.mention} may **not** ask **mixtral**."
        assert "do not let you ask mixtral here. Name another model" in await refused(
            world, world.bob, model="mixtral"
        )
        await asked(world, world.bob, engine, model="phi")
        await asked(world, world.alice, engine, model="mixtral")
        unknown = await access(world, "deny", who=world.bob, model="mixtrall")
        assert "mixtral" in unknown
        assert "From now on" not in unknown


async def test_a_server_that_is_off_answers_no_command_no_button_and_no_mention(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with opened(engine, tmp_path) as world:
        await asked(world, world.alice, engine)
        (answer,) = world.messages
        assert "**switched off**" in await access(world, "off")
        before = said(world)
        assert "I am switched off in this server" in await refused(world, world.alice)
        assert "switched off" in words(await world.alice.slash(world.channel, "joke"))
        assert "switched off" in words(await world.alice.click(answer, label="Regenerate"))
        for question in ("Why?", ""):
            await world.bob.send(world.channel, f"{me(world)} {question}")
        await world.pass_time(3)
        assert said(world) == before
        assert not any(request.path.endswith("/typing") for request in world.env.http_requests)
        assert len(engine.started) == 1
        assert await access(world, "on") == "I am on again."
        assert await access(world, "on") == "I am on already."
        await asked(world, world.bob, engine)


async def test_the_list_of_models_and_continue_are_kept_shut_too(tmp_path: Path) -> None:
    engine = ScriptedEngine(reason=FinishReason.LENGTH)
    async with opened(engine, tmp_path) as world:
        await asked(world, world.bob, engine)
        (answer,) = world.messages
        menu = await world.bob.click(answer, label="Another model")
        assert menu.response is not None
        await access(world, "deny", who=world.bob, model="phi")
        assert "ask phi here" in words(await world.bob.select(menu.response, ["phi"]))
        await access(world, "deny", who=world.bob)
        assert "Continue" in labels(answer)
        assert "do not let you ask me" in words(await world.bob.click(answer, label="Continue"))
        assert len(engine.started) == 1


async def test_a_refused_mention_is_answered_briefly_and_once_in_a_while(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with opened(engine, tmp_path) as world:
        await access(world, "deny", who=world.bob)
        for _ in range(5):
            await world.bob.send(world.channel, f"{me(world)} Why?")
            await world.pass_time(5)
        (once,) = said(world)
        assert "do not let you ask me" in once
        await world.pass_time(600)
        await world.bob.send(world.channel, f"{me(world)} Why?")
        assert len(said(world)) == 2
        assert engine.started == []


async def test_in_a_closed_channel_a_mention_is_not_answered_at_all(tmp_path: Path) -> None:
    async with opened(ScriptedEngine(), tmp_path) as world:
        await access(world, "deny", channel=world.channel)
        await world.bob.send(world.channel, f"{me(world)} Why?")
        await world.pass_time(3)
        assert said(world) == []
        assert "here" in await refused(world, world.bob)


async def test_the_operators_limit_is_a_sentence_with_the_time_and_opens_again(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with opened(engine, tmp_path, person_requests_per_minute=2) as world:
        for _ in range(2):
            await asked(world, world.bob, engine)
        said_so = await refused(world, world.bob)
        assert said_so.startswith("You have asked 2 times within a minute. You can ask again <t:")
        opens_s = int(said_so.split("<t:")[1].split(":R>")[0])
        left_s = opens_s - world.env.now().timestamp()
        assert 0 < left_s <= 60
        await asked(world, world.alice, engine)
        await world.pass_time(left_s + 1)
        await asked(world, world.bob, engine)


async def test_tokens_are_counted_for_complete_stopped_and_failed_answers_and_direct_messages(
    tmp_path: Path,
) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine()  # 8 tokens read, 3 written
    async with opened(engine, tmp_path, person_tokens_per_day=39) as world:
        await asked(world, world.bob, engine)  # 11
        engine.script = ("Once ", "upon ", forever.wait)
        await world.bob.slash(world.channel, "ask", prompt="Hm?")
        await world.bob.click(world.messages[-1], label="Stop")
        await world.until(lambda: engine.stopped == 1)  # 21
        await world.pass_time(2)
        engine.script = ("Half", LookupError("a bug"))
        await asked(world, world.bob, engine)  # 30
        engine.script = ("One",)
        await world.bob.send_dm("Why?")
        await world.until(lambda: len(engine.started) == 4 and world.queue.running == 0)  # 39
        await world.pass_time(2)
        assert "You have used 39 tokens within a day" in await refused(world, world.bob)
        await world.bob.send_dm("Why?")
        assert "used 39 tokens" in world.bob.user.dm_channel.history()[-1].content
        await asked(world, world.alice, engine)
        await world.env.advance_time(86_400)
        await asked(world, world.bob, engine)


async def test_a_prompt_that_is_stopped_while_it_is_read_or_is_too_long_is_counted(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=(forever.wait,))  # 8 tokens read
    async with opened(engine, tmp_path, person_tokens_per_day=16) as world:
        await world.bob.slash(world.channel, "ask", prompt="Hm?")
        await world.until(lambda: len(engine.started) == 1)
        (under_way,) = world.bot.services.answers.under_way
        under_way.reply.stop("bob")
        await world.until(lambda: engine.stopped == 1 and world.queue.running == 0)
        await world.pass_time(2)
        engine.script = (PromptTooLong("That is too long for smol.", 8),)
        await asked(world, world.bob, engine)
        assert "You have used 16 tokens within a day" in await refused(world, world.bob)


@pytest.mark.parametrize("how", ["stopped", "gone", "failed", "complete"])
async def test_however_a_request_ends_the_next_one_has_its_place(tmp_path: Path, how: str) -> None:
    more, forever = asyncio.Event(), asyncio.Event()

    async def end() -> None:
        await (forever.wait() if how in ("stopped", "gone") else more.wait())
        if how == "failed":
            raise LookupError("a bug")

    engine = ScriptedEngine(script=("Once", more.wait, " upon", end))
    async with opened(engine, tmp_path, person_concurrent_requests=1) as world:
        await world.bob.slash(world.channel, "ask", prompt="Hm?")
        assert "An answer for you is on the way" in await refused(world, world.bob)
        growing = world.messages[-1]
        if how == "stopped":
            await world.bob.click(growing, label="Stop")
        elif how == "gone":
            world.env.backend.delete_message(world.channel.id, growing.id)
        more.set()
        await world.until(lambda: world.queue.running == world.queue.waiting == 0)
        await world.pass_time(2)
        engine.script = ("Ha.",)
        await asked(world, world.bob, engine)


async def test_a_request_that_the_queue_refused_was_asked_and_holds_no_place(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=(forever.wait,))
    limits = {"person_concurrent_requests": 1, "person_requests_per_minute": 3, "queue_limit": 0}
    async with opened(engine, tmp_path, **limits) as world:
        await world.alice.slash(world.channel, "ask", prompt="Hm?")
        for _ in range(2):
            assert "Too many people" in await refused(world, world.bob)
        forever.set()
        await world.until(lambda: world.queue.running == 0)
        await asked(world, world.bob, engine)
        assert "asked 3 times" in await refused(world, world.bob)


async def test_a_rule_for_a_model_that_left_the_catalogue_is_cleared_by_its_name(tmp_path: Path) -> None:
    async with opened(ScriptedEngine(), tmp_path) as world:
        await access(world, "deny", who=world.bob, model="phi")
        await access(world, "deny", who=world.bob)
        catalog = world.bot.services.moderation._catalog
        del catalog._specs["phi"]
        assert "no model called 'phi'" in await access(world, "deny", who=world.bob, model="phi")
        assert "no model called 'phee'" in await access(world, "clear", who=world.bob, model="phee")
        said_so = await access(world, "clear", who=world.bob, model=" Phi ")
        assert said_so == f"The rule about {world.bob.mention} and phi is gone."
        result = await world.alice.slash(world.channel, "access show")
        assert result.response is not None
        shown = str(result.response.embeds[0].description)
        assert "phi" not in shown
        assert f"• {world.bob.mention} may **not** ask me" in shown


async def test_a_server_that_is_off_is_told_so_by_everything_but_access(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("<think>Hm.</think>Ha.",))
    async with opened(engine, tmp_path) as world:
        await asked(world, world.alice, engine)
        (answer,) = world.messages
        menu = await world.alice.click(answer, label="Another model")
        assert menu.response is not None
        await access(world, "off")
        commands: dict[str, dict[str, Any]] = {
            "gpu": {},
            "model list": {},
            "model show": {},
            "model set": {"model": "phi"},
            "model reset": {},
            "model offer": {},
            "model inspect": {},
            "joke": {},
            "doctor": {},
            "queue": {},
            "panel": {},
        }
        for command, options in commands.items():
            everywhere = world.env.backend.find_command(command.split()[0], world.channel.guild.id, type=1)  # type: ignore[union-attr]
            assert everywhere is not None
            everywhere["default_member_permissions"] = None
            said_so = words(await world.alice.slash(world.channel, command, **options))
            assert said_so.startswith("I am switched off in this server"), command
        for label in ("Regenerate", "Another model", "Thinking", "Details"):
            assert "switched off" in words(await world.alice.click(answer, label=label)), label
        assert "switched off" in words(await world.alice.select(menu.response, ["phi"]))
        assert await world.alice.autocomplete(world.channel, "ask", "model", "") == []
        assert len(world.messages) == 1
        assert len(engine.started) == 1
        await access(world, "on")
        assert "Hm." in words(await world.alice.click(answer, label="Thinking"))


async def test_what_is_under_way_when_a_server_is_switched_off_can_be_stopped(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=("Once", forever.wait))
    async with opened(engine, tmp_path) as world:
        await world.bob.slash(world.channel, "ask", prompt="Hm?")
        await world.until(lambda: bool(world.messages and "Once" in world.messages[0].content))
        await access(world, "off")
        await world.bob.click(world.messages[0], label="Stop")
        await world.until(lambda: engine.stopped == 1)


async def test_moderators_give_quotas_to_roles_people_and_the_server(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with opened(engine, tmp_path) as world:
        members = role_of(world)
        member = carol(world, members)
        assert world.channel.guild is not None
        everyone = world.channel.guild.default_role
        said_so = await access(world, "quota", who=everyone, requests_per_minute=1)
        assert said_so.startswith("From now on: each person may have 1 request a minute.")
        await access(world, "quota", who=members, requests_per_minute=2, tokens_per_day=1000)
        await asked(world, world.bob, engine)
        assert "asked once within a minute here, which is what" in await refused(world, world.bob)
        for _ in range(2):
            await asked(world, member, engine)
        assert "asked 2 times" in await refused(world, member)
        kept = await access(world, "quota", who=members, requests_per_minute=0)
        assert "any number of requests a minute, 1,000 tokens a day" in kept
        await asked(world, member, engine)
        assert "the whole server may have 5 GPU seconds" in await access(
            world, "quota", gpu_seconds_per_day=5
        )
        assert await access(world, "quota") == "The quota of the whole server is gone."
        assert await access(world, "quota") == "There was no quota of the whole server."


async def test_show_says_all_that_holds_and_what_was_used(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with opened(engine, tmp_path, person_requests_per_minute=10) as world:

        async def shown() -> str:
            result = await world.alice.slash(world.channel, "access show")
            assert result.ephemeral
            assert result.response is not None
            return str(result.response.embeds[0].description)

        empty = await shown()
        assert empty.startswith("I am on here.\nEverybody may ask everywhere: there are no rules.")
        assert "Used within a day: 0 tokens" in empty
        await asked(world, world.bob, engine)
        await access(world, "deny", who=world.bob, model="phi")
        await access(world, "allow", channel=world.channel)
        await access(world, "quota", who=world.bob, tokens_per_day=5000)
        await access(world, "off")
        full = await shown()
        assert "switched off" in full
        assert f"• {world.bob.mention} may **not** ask **phi**" in full
        assert f"• people may ask me in <#{world.channel.id}>" in full
        assert f"• {world.bob.mention}: 5,000 tokens a day" in full
        assert "Used within a day: 11 tokens" in full
        assert "and a person 10 requests a minute" in full
        assert await access(world, "clear", all=True) == (
            "3 rules and quotas are gone. What the bot's operator decided still holds."
        )
        assert "switched off" in await shown()


async def test_as_many_rules_as_a_server_may_have_are_shown_within_discords_limit(tmp_path: Path) -> None:
    async with opened(ScriptedEngine(), tmp_path) as world:
        guild_id = world.channel.guild.id if world.channel.guild else 0
        moderation = world.bot.services.moderation
        from bot.storage.access import Quota, Subject, SubjectKind

        async def decide_all() -> None:
            for number in range(100):
                subject = Subject(SubjectKind.ROLE, 10**18 + number)
                await moderation.decide(guild_id, subject, "mixtral", allowed=False, by=1)
                await moderation.allot(guild_id, subject, Quota(10**12, 10**12, 10**12), by=1)

        await decide_all()
        refusal = await access(world, "deny", who=world.bob)
        assert "This server has 100 of them" in refusal
        text = await moderation.text(guild_id)
        assert len(text) <= 4096
        assert "… and more" in text
        assert "Used within a day" in text
        # what is there already can be changed
        again = await moderation.decide(
            guild_id, Subject(SubjectKind.ROLE, 10**18), "mixtral", allowed=True, by=1
        )
        assert "may ask" in again


@pytest.mark.parametrize(
    "options", [{}, {"everywhere": True, "who": "bob"}, {"who": "bob", "channel": "here"}]
)
async def test_a_rule_is_about_one_thing(tmp_path: Path, options: dict[str, Any]) -> None:
    async with opened(ScriptedEngine(), tmp_path) as world:
        handles = {"bob": world.bob, "here": world.channel, True: True}
        filled = {name: handles[value] for name, value in options.items()}
        for command in ("allow", "deny", "clear"):
            assert await access(world, command, **filled) == "Name one: `who`, `channel` or `everywhere`."


async def test_the_command_is_hidden_from_others_and_refused_should_discord_let_them(tmp_path: Path) -> None:
    async with opened(ScriptedEngine(), tmp_path) as world:
        with pytest.raises(SetupError, match="not visible"):
            await world.bob.slash(world.channel, "access off")
        assert world.channel.guild is not None
        registered = world.env.backend.find_command("access", world.channel.guild.id, type=1)
        assert registered is not None
        registered["default_member_permissions"] = None
        for command in ("access off", "access on", "access show", "access quota"):
            assert "You need the permission Manage Server" in words(
                await world.bob.slash(world.channel, command)
            )


async def test_the_operators_file_wins_and_moderators_are_told_so(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    file = tmp_path / "access.toml"
    async with opened(engine, tmp_path) as world:
        bob_id, alice_id = world.bob.id, world.alice.id
    file.write_text(
        f"deny.people = [{bob_id}]\nallow.people = [{alice_id}]\n[models.phi]\nonly.people = [{alice_id}]\n"
    )
    async with opened(engine, tmp_path / "again", access_file=file) as world:
        assert (world.bob.id, world.alice.id) == (bob_id, alice_id)
        assert "The bot's operator does not let you ask me" in await refused(world, world.bob)
        assert "that wins" in await access(world, "allow", who=world.bob)
        assert "operator does not let you" in await refused(world, world.bob)
        await access(world, "deny", who=world.alice)
        await asked(world, world.alice, engine, model="phi")
        assert "only some people" in await refused(world, carol(world), model="phi")


async def test_a_question_that_is_too_long_is_refused_before_it_is_queued(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with opened(engine, tmp_path, max_prompt_characters=10) as world:
        result = await world.bob.slash(world.channel, "ask", prompt="x" * 11)
        assert words(result) == "Your question has 11 characters, and the most is 10. Please make it shorter."
        assert engine.started == []


async def test_a_share_of_the_queue_is_all_that_one_person_gets(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=(forever.wait,))
    async with opened(engine, tmp_path, queue_limit=7, person_queue_share=0.25) as world:
        for _ in range(2):
            await world.bob.slash(world.channel, "ask", prompt="Hm?")
        assert "2 answers for you are on the way" in await refused(world, world.bob)
        await world.alice.slash(world.channel, "ask", prompt="Hm?")
        assert world.queue.waiting == 2
        forever.set()
        await world.until(lambda: world.queue.running == world.queue.waiting == 0)
