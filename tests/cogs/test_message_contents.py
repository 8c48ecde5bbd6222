"""A message is more than its content: names for numbers, what stands beside the content, and what cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import discord
import pytest
from simcord.backend.models.message import MessageSticker, Poll, PollAnswer

from bot.inference.scripted import ScriptedEngine
from bot.replies.message_text import readable, shown_name
from tests.cogs.test_mentions import answers, done, me, read
from tests.world import World, open_world


def guild_of(world: World) -> discord.Guild:
    assert world.channel.guild is not None
    guild = world.bot.get_guild(world.channel.guild.id)
    assert guild is not None
    return guild


def channel_name(world: World) -> str:
    channel = guild_of(world).get_channel(world.channel.id)
    assert channel is not None
    return channel.name


def own_role(world: World) -> discord.Role:
    """The bot's role, with what Discord says about whose it is; the simulated one leaves that out."""
    guild = guild_of(world)
    role = next(one for one in guild.me.roles if one.managed)
    assert world.bot.user is not None
    role.tags = discord.RoleTags({"bot_id": str(world.bot.user.id)})
    assert guild.self_role == role
    return role


async def posted(world: World, content: str = "", *, dm: bool = False, **more: Any) -> None:
    """Alice posts a message that has more than the actors of the simulated Discord can write."""
    channel_id = world.alice.user.dm_channel.id if dm else world.channel.id
    world.env.backend.create_message(channel_id, world.alice.id, content, **more)
    await world.env.settle()


async def test_a_mention_of_the_bots_role_says_how_to_ask_since_its_words_do_not_arrive(
    tmp_path: Path,
) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        role = own_role(world)
        await world.alice.send(world.channel, f"{role.mention} Why is the sky blue?")
        (answer,) = answers(world)
        assert answer.content.startswith("You mentioned my role")
        await world.alice.send(world.channel, f"{role.mention} Why is the sky blue?")
        assert len(answers(world)) == 1  # said once in a while
    assert engine.started == []


async def test_a_mention_of_the_role_and_the_bot_is_a_question_without_either(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        role = own_role(world)
        await world.alice.send(world.channel, f"{role.mention} {me(world)} Why?")
        await world.until(lambda: done(world))
    assert read(engine.started[0])[-1] == ("user", "Why?")


async def test_another_role_is_nothing_to_the_bot(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        own_role(world)
        everyone = guild_of(world).default_role
        await world.alice.send(world.channel, f"<@&{everyone.id}> Why?")
        assert answers(world) == []


async def test_names_stand_for_numbers(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        asked = (
            f"{me(world)} does {world.bob.mention} know {world.channel.mention}, <:blob_cat:123> <a:wave:9> "
            "or `<@12>`? At <t:0:R>, ask <@99> of <@&98> in <#97> with </model list:96>."
        )
        await world.alice.send(world.channel, asked)
        await world.until(lambda: done(world))
        name = channel_name(world)
    assert read(engine.started[0])[-1][1] == (
        f"does @bob know #{name}, :blob_cat: :wave: or `<@12>`? "
        "At 1970-01-01 00:00 UTC, ask @somebody of @some role in #some channel with /model list."
    )


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("<@1>", "@somebody"),
        ("<@!1> and <@&2>", "@somebody and @some role"),
        ("<t:99999999999999999>", "some time"),
        ("<t:1700000000:F>", "2023-11-14 22:13 UTC"),
        ("<id:customize>, <id:linked-roles:3>", "#customize, #linked-roles"),
        ("a < b, <b>, <@> and <:>", "a < b, <b>, <@> and <:>"),
        ("```\n<@1>\n``` <@1>", "```\n<@1>\n``` @somebody"),
        ("<@&1", "<@&1"),
        ("<@١٢> <a:é:4>", "<@١٢> <a:é:4>"),
        ("<sound:0:12> <sound:1>", "[a sound] <sound:1>"),
    ],
)
def test_what_is_known_nowhere_is_said_so(written: str, words: str) -> None:
    assert readable(written, None) == words


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.pdf", "a.pdf"),
        ("[x](https://evil.example).txt", r"\_x\_(https\_\_\_evil.example).txt"),
        ("@everyone\u202efdp.exe", r"\_everyonefdp.exe"),
        ("discord.gg/abc", r"discord.gg\_abc"),
        ("a\nb" + "c" * 100, "a b" + "c" * 60 + "…"),
    ],
)
def test_a_files_name_does_nothing(name: str, shown: str) -> None:
    assert shown_name(name) == shown


async def test_a_file_alone_is_named_and_no_model_is_asked(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await world.alice.send(world.channel, me(world), attachments=[("a.pdf", b"%PDF"), ("b.txt", b"b")])
        (answer,) = answers(world)
        assert answer.content.startswith("I cannot read the file a.pdf and the file b.txt here.")
    assert engine.started == []


async def test_a_file_beside_a_question_is_named_under_the_answer_and_to_the_model(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await world.alice.send(world.channel, f"{me(world)} What is in it?", attachments=[("a.pdf", b"%PDF")])
        await world.until(lambda: done(world))
        assert "-# 📎 I cannot read the file a.pdf here\n-# smol" in answers(world)[0].content
    assert read(engine.started[0])[-1][1] == (
        "What is in it?\n\n(You cannot see the file a.pdf that came with this.)"
    )


async def test_a_file_in_a_message_that_is_asked_about_is_named(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        said = await world.bob.send(
            world.channel, f"{world.bob.mention} {me(world)}", attachments=[("a.png", b"png")]
        )
        await world.alice.send(world.channel, f"{me(world)} what is this?", reply_to=said)
        await world.until(lambda: bool(engine.started))
    assert "a.png" in read(engine.started[-1])[-1][1]


async def test_what_stands_beside_the_content_is_read(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await world.alice.send_dm("Hello")
        await world.until(lambda: len(engine.started) == 1 and world.queue.running == 0)
        await posted(
            world,
            "Which?",
            dm=True,
            embeds=[{"type": "rich", "title": "A title", "description": "for <@1>", "fields": []}],
            stickers=[MessageSticker(5, "Wave", 1, world.channel.guild.id if world.channel.guild else 0)],
            poll=Poll(
                "Tea or coffee?",
                [PollAnswer(1, "Tea"), PollAnswer(2, "Coffee", "☕")],
                "2027-01-01T00:00:00Z",
            ),
        )
        await world.until(lambda: len(engine.started) == 2)
    assert read(engine.started[1])[-1][1] == (
        "Which?\n\n[sticker: Wave]\n\n[embed]\nA title\nfor @somebody\n\n"
        "[poll] Tea or coffee?\n- Tea\n- ☕ Coffee"
    )


async def test_a_forwarded_message_is_read_and_no_reply(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        said = await world.bob.send(world.channel, "Is a monad a burrito?", attachments=[("a.pdf", b"%PDF")])
        await world.alice.send_dm("Hello")
        await world.until(lambda: len(engine.started) == 1 and world.queue.running == 0)
        await posted(
            world,
            dm=True,
            reference=forward_of(world, said.id),
        )
        await world.until(lambda: len(engine.started) == 2)
    assert read(engine.started[1])[-1][1] == (
        "[forwarded message]\nIs a monad a burrito?\n\n(You cannot see the file a.pdf that came with this.)"
    )


async def test_a_command_has_names_for_numbers_too(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt=f"Who is in {world.channel.mention}? <:cat:1>")
        await world.until(lambda: bool(engine.started))
        name = channel_name(world)
    assert read(engine.started[0])[-1][1] == f"Who is in #{name}? :cat:"


def voice_message() -> dict[str, Any]:
    return {
        "id": "77",
        "filename": "voice-message.ogg",
        "size": 4321,
        "url": "https://cdn.discordapp.com/voice-message.ogg",
        "proxy_url": "https://media.discordapp.net/voice-message.ogg",
        "content_type": "audio/ogg",
        "duration_secs": 2.5,
        "waveform": "AAAA",
    }


async def replied(world: World, words: str, to: int) -> None:
    reference = {"type": 0, "channel_id": str(world.channel.id), "message_id": str(to)}
    await posted(world, f"{me(world)} {words}", reference=reference)


async def test_a_voice_message_is_named_as_one(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        said: list[discord.Message] = []
        world.bot.add_listener(seen_by(said), "on_message")
        await world.alice.send_dm("Hello")
        await world.until(lambda: len(engine.started) == 1 and world.queue.running == 0)
        await posted(world, dm=True, flags=1 << 13, attachments=[voice_message()])
        assert said[-1].content.startswith("I cannot read the voice message here.")
        # Without a waveform it is a file like any other.
        plain = {key: value for key, value in voice_message().items() if key != "waveform"}
        await posted(world, "What is it?", dm=True, attachments=[plain])
        await world.until(lambda: len(engine.started) == 2)
    assert "the file voice-message.ogg" in read(engine.started[1])[-1][1]


async def test_a_forwarded_voice_message_is_named_and_one_with_nothing_to_read_too(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        voice = world.env.backend.create_message(
            world.channel.id, world.bob.id, flags=1 << 13, attachments=[voice_message()]
        )
        gallery = {"type": 12, "items": [{"media": {"url": "https://x.example/y.png"}}]}
        pictures = world.env.backend.create_message(
            world.channel.id, world.bob.id, flags=1 << 15, components=[gallery]
        )
        await world.alice.send_dm("Hello")
        await world.until(lambda: len(engine.started) == 1 and world.queue.running == 0)
        for one in (voice, pictures):
            await posted(world, "What is it?", dm=True, reference=forward_of(world, one.id))
            await world.until(lambda: world.queue.running == 0)
        await world.until(lambda: len(engine.started) == 3)
    assert "You cannot see the voice message" in read(engine.started[1])[-1][1]
    assert "You cannot see the forwarded message" in read(engine.started[2])[-1][1]


def forward_of(world: World, message_id: int) -> dict[str, Any]:
    return {"type": 1, "channel_id": str(world.channel.id), "message_id": str(message_id)}


def seen_by(said: list[discord.Message]) -> Any:
    async def on_message(message: discord.Message) -> None:
        if message.author.bot:
            said.append(message)

    return on_message


@pytest.mark.parametrize("is_gone", [False, True])
async def test_a_reply_to_what_discord_does_not_show_says_so(tmp_path: Path, is_gone: bool) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        # Discord shows the bot nothing of a message that does not mention it, not even to whoever replies to it.
        other = await world.bob.send(world.channel, "Is a monad a burrito?")
        await replied(world, "explain this", 12345 if is_gone else other.id)
        await world.until(lambda: done(world))
        assert "-# 📎 I cannot read the replied-to message here\n-# smol" in answers(world)[0].content
        await replied(world, "", 12345 if is_gone else other.id)
        assert answers(world)[1].content.startswith("I cannot read the replied-to message here.")
    assert read(engine.started[0])[-1][1] == (
        "explain this\n\n(You cannot see the replied-to message that came with this.)"
    )


async def test_the_texts_of_a_message_made_of_components_are_read(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    text = {"type": 10, "content": "Build failed for <@1>"}
    section = {
        "type": 9,
        "components": [{"type": 10, "content": "Step 3"}],
        "accessory": {"type": 11, "media": {"url": "https://x.example/y.png"}},
    }
    async with open_world(engine, tmp_path) as world:
        await world.alice.send_dm("Hello")
        await world.until(lambda: len(engine.started) == 1 and world.queue.running == 0)
        box = {"type": 17, "components": [text, section]}
        await posted(world, dm=True, flags=1 << 15, components=[box])
        await world.until(lambda: len(engine.started) == 2)
    assert read(engine.started[1])[-1][1] == "Build failed for @somebody\nStep 3"
