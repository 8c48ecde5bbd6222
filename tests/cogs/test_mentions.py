"""Questions without a command: mentions, replies, direct messages."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import discord
import pytest

from bot.chat.prompt import HISTORY_CHARACTERS
from bot.errors import PromptTooLong
from bot.inference.engine import GenerationRequest
from bot.inference.scripted import ScriptedEngine
from tests.world import World, labels, open_world


def me(world: World) -> str:
    assert world.bot.user is not None
    return world.bot.user.mention


def answers(world: World) -> list[discord.Message]:
    return [message for message in world.messages if message.author.bot]


def done(world: World, count: int = 1) -> bool:
    found = answers(world)
    return len(found) == count and all("-# " in one.content and "Stop" not in labels(one) for one in found)


def read(request: GenerationRequest) -> list[tuple[str, str]]:
    return [(str(message.role), message.content) for message in request.messages]


def typings(world: World) -> int:
    return sum(request.path.endswith("/typing") for request in world.env.http_requests)


async def test_a_mention_is_answered_in_a_reply_that_pings_nobody(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        asked = await world.alice.send(world.channel, f"{me(world)} Why is the sky blue?")
        await world.until(lambda: done(world))
        (answer,) = answers(world)
        assert answer.content.startswith("Hello, world.\n-# smol")
        assert answer.reference is not None
        assert answer.reference.message_id == asked.id
        sent = [
            r.json for r in world.env.http_requests if r.method == "POST" and r.path.endswith("/messages")
        ]
        assert all(isinstance(body, dict) and body["allowed_mentions"]["parse"] == [] for body in sent)
        assert not any(
            body["allowed_mentions"].get("replied_user") for body in sent if isinstance(body, dict)
        )
    assert read(engine.started[0])[-1] == ("user", "Why is the sky blue?")


async def test_the_model_that_was_chosen_for_the_channel_answers(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "model set", model="gemma")
        await world.alice.send(world.channel, f"{me(world)} Why?")
        await world.until(lambda: bool(engine.started))
    assert engine.started[0].model.alias == "gemma"


async def test_what_is_not_meant_for_the_bot_is_left_alone(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await world.alice.send(world.channel, "Why is the sky blue?")
        await world.alice.send(world.channel, f"{world.bob.mention} Why?")
        await world.alice.send(world.channel, "@everyone Why?")
        await world.pass_time(2)
        assert answers(world) == []
        assert world.env.errors == []
    assert engine.started == []


async def test_a_mention_with_nothing_else_says_how_to_ask(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await world.alice.send(world.channel, me(world))
        (answer,) = answers(world)
        assert "Ask me something behind my name" in answer.content
    assert engine.started == []


async def test_a_reply_to_an_answer_goes_on_with_the_conversation_and_its_model(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("<think>Hm.</think>Because of Rayleigh.",))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt="Why is the sky blue?", model="gemma")
        await world.until(lambda: done(world))
        await world.bob.send(world.channel, f"{me(world)} And who was he?", reply_to=answers(world)[0])
        await world.until(lambda: done(world, 2))
        await world.bob.send(world.channel, f"{me(world)} When?", reply_to=answers(world)[1])
        await world.until(lambda: done(world, 3))
    assert read(engine.started[1])[1:] == [
        ("user", "Why is the sky blue?"),
        ("assistant", "Because of Rayleigh."),
        ("user", "And who was he?"),
    ]
    assert [one[1] for one in read(engine.started[2])][-3:] == [
        "And who was he?",
        "Because of Rayleigh.",
        "When?",
    ]
    assert engine.started[1].model.alias == "gemma"


async def test_a_question_about_somebody_elses_message_has_that_message(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        said = await world.bob.send(world.channel, f"{me(world)} is a monad a burrito?")
        await world.until(lambda: done(world))
        await world.alice.send(world.channel, f"{me(world)} explain this", reply_to=said)
        await world.until(lambda: done(world, 2))
    (_, question) = read(engine.started[1])[-1]
    assert question.startswith("explain this")
    assert "is a monad a burrito?" in question


async def test_a_direct_message_needs_no_mention(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await world.alice.send_dm("Why is the sky blue?")
        await world.until(lambda: bool(engine.started) and world.queue.running == 0)
        await world.pass_time(1)
        contents = [message.content for message in world.alice.user.dm_channel.history()]
        assert contents[-1].startswith("Hello, world.")
    assert read(engine.started[0])[-1] == ("user", "Why is the sky blue?")


async def test_the_bot_is_seen_to_type_until_the_answer_is_there(tmp_path: Path) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=(gate.wait, "Ha."))
    async with open_world(engine, tmp_path) as world:
        await world.alice.send(world.channel, f"{me(world)} Why?")
        assert typings(world) == 1
        await world.until(lambda: typings(world) >= 4)
        gate.set()
        await world.until(lambda: done(world))
        until_then = typings(world)
        await world.pass_time(30)
        assert typings(world) == until_then


async def test_several_answers_in_one_channel_type_as_one(tmp_path: Path) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=(gate.wait, "Ha."))
    async with open_world(engine, tmp_path) as world:
        for _ in range(4):
            await world.alice.send(world.channel, f"{me(world)} Why?")
        assert typings(world) == 1
        gate.set()
        await world.until(lambda: done(world, 4))


async def test_a_mention_is_stopped_by_its_button_and_the_typing_ends(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=("Once", forever.wait))
    async with open_world(engine, tmp_path) as world:
        await world.alice.send(world.channel, f"{me(world)} Why?")
        await world.until(lambda: bool(answers(world)))
        refused = await world.bob.click(answers(world)[0], label="Stop")
        assert refused.response is not None
        assert "Only the person" in refused.response.content
        await world.alice.click(answers(world)[0], label="Stop")
        await world.until(lambda: done(world))
        assert "stopped by you" in answers(world)[0].content
        assert engine.stopped == 1


async def test_a_full_queue_is_a_sentence_in_the_channel(tmp_path: Path) -> None:
    forever = asyncio.Event()
    async with open_world(ScriptedEngine(script=(forever.wait,)), tmp_path, queue_limit=0) as world:
        await world.alice.slash(world.channel, "joke")
        await world.bob.send(world.channel, f"{me(world)} Why?")
        assert "Too many people" in answers(world)[-1].content
        assert world.env.errors == []


async def test_a_person_cannot_make_the_bot_repeat_itself_in_a_channel(tmp_path: Path) -> None:
    forever = asyncio.Event()
    async with open_world(ScriptedEngine(script=(forever.wait,)), tmp_path, queue_limit=0) as world:
        await world.alice.slash(world.channel, "joke")
        for question in ("Why?", ""):
            before = len(answers(world))
            for _ in range(40):
                await world.bob.send(world.channel, f"{me(world)} {question}")
            assert len(answers(world)) == before + 1
        await world.pass_time(60)
        await world.bob.send(world.channel, f"{me(world)} Why?")
        assert answers(world)[-1].content.startswith("Too many people")
        assert len(answers(world)) == 4


async def test_questions_that_a_full_queue_refused_count_as_asked(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=(forever.wait,))
    async with open_world(engine, tmp_path, queue_limit=0, person_requests_per_minute=10) as world:
        await world.alice.slash(world.channel, "joke")
        for _ in range(10):
            await world.bob.send(world.channel, f"{me(world)} Why?")
        await world.bob.send(world.channel, f"{me(world)} Why?")
        assert answers(world)[-1].content.startswith("You have asked 10 times within a minute.")
        assert len(answers(world)) == 3


async def test_a_bug_that_a_person_meets_again_and_again_is_said_once_and_always_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:

        async def broken(*_: object) -> None:
            raise LookupError("a row of the ledger")

        world.bot.services.chooser.resolve = broken  # type: ignore[method-assign, assignment]
        for _ in range(3):
            await world.alice.send(world.channel, f"{me(world)} Why?")
        assert len(answers(world)) == 1
        assert caplog.text.count("a row of the ledger") >= 3


async def test_where_the_bot_may_not_write_it_does_not_even_ask_the_model(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        guild = world.channel.guild
        assert guild is not None
        assert world.bot.user is not None
        silence = discord.PermissionOverwrite(send_messages=False)
        quiet = guild.create_text_channel("quiet", overwrites={world.bot.user: silence})
        await world.alice.send(quiet, f"{me(world)} Why?")
        await world.pass_time(1)
        assert world.env.errors == []
    assert engine.started == []


async def test_a_bug_is_a_sentence_with_a_number_that_the_log_has_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:

        async def broken(*_: object) -> None:
            raise LookupError("a row of the ledger")

        world.bot.services.chooser.resolve = broken  # type: ignore[method-assign, assignment]
        await world.alice.send(world.channel, f"{me(world)} Why?")
        (answer,) = answers(world)
        assert "ledger" not in answer.content
        assert answer.content.rstrip(".").split()[-1] in caplog.text


def kept_sizes(folder: Path) -> list[int]:
    """The characters of each kept request, the newest last."""
    with sqlite3.connect(folder / "punchline.sqlite3") as file:
        rows = file.execute("SELECT length(request) FROM replies ORDER BY begun_at").fetchall()
    file.close()
    return [size for (size,) in rows]


async def test_a_question_that_was_too_long_is_no_part_of_what_follows(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("Because.",))
    async with open_world(engine, tmp_path) as world:
        await world.bob.send(world.channel, f"{me(world)} Why?")
        await world.until(lambda: done(world))
        engine.script = (PromptTooLong("That is too long for smol: 9000 tokens.", 9000),)
        for count in (2, 3):
            await world.bob.send(world.channel, f"{me(world)} {'w' * 1900}", reply_to=answers(world)[-1])
            await world.until(lambda count=count: done(world, count))  # type: ignore[misc]
            assert "too long for smol" in answers(world)[-1].content
        engine.script = ("Well.",)
        await world.bob.send(world.channel, f"{me(world)} And how?", reply_to=answers(world)[-1])
        await world.until(lambda: done(world, 4))
    assert read(engine.started[-1])[1:] == [("user", "Why?"), ("assistant", "Because."), ("user", "And how?")]


async def test_a_chain_of_replies_is_read_and_kept_up_to_a_length_and_no_further(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("a" * 1_000,))
    async with open_world(engine, tmp_path) as world:
        await world.bob.send(world.channel, f"{me(world)} Why?")
        await world.until(lambda: done(world))
        old = [{"role": "system", "content": "s"}, {"role": "user", "content": "Why?"}]
        for number in range(200):  # as it was kept before there was a limit
            old.append({"role": "assistant", "content": "a" * 1_000})
            old.append({"role": "user", "content": f"{number} {'w' * 1_980}"})
        with sqlite3.connect(tmp_path / "punchline.sqlite3") as file:
            ((request,),) = file.execute("SELECT request FROM replies").fetchall()
            file.execute(
                "UPDATE replies SET request = ?", (json.dumps(json.loads(request) | {"messages": old}),)
            )
        file.close()
        for count in (2, 3, 4):
            await world.bob.send(world.channel, f"{me(world)} {'w' * 1_900}", reply_to=answers(world)[-1])
            await world.until(lambda count=count: done(world, count))  # type: ignore[misc]
        await world.bob.click(answers(world)[0], label="Regenerate")
        await world.until(lambda: done(world, 5))
    for asked in engine.started[1:]:
        said = read(asked)
        assert said[0][1] == ("s")
        assert sum(len(content) for _, content in said) <= HISTORY_CHARACTERS
        assert len(said) > 30
    assert max(kept_sizes(tmp_path)[1:]) < 1.2 * HISTORY_CHARACTERS
