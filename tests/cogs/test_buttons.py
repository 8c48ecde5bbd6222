"""The buttons under an answer, pressed as people press them, before and after a restart."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.archive import _kept_message, conversation, messages_for, messages_of, messages_to_go_on, words_of
from bot.chat.messages import Role
from bot.chat.prompt import within_history
from bot.client import PunchlineBot
from bot.errors import StorageError
from bot.inference.engine import FinishReason
from bot.inference.scripted import ScriptedEngine
from bot.storage.replies import KeptReply
from tests.world import World, labels, open_world


async def asked(world: World, **options: Any) -> None:
    """Alice asks, and has her answer."""
    await world.alice.slash(world.channel, "ask", prompt="Why?", **options)
    await world.until(lambda: world.ended)


async def restarted(world: World, folder: Path) -> None:
    await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=folder))


def words(result: Any) -> str:
    assert result.ephemeral, "everybody can read that"
    assert result.response is not None
    return str(result.response.content)


async def test_an_answer_offers_to_be_had_again_and_says_how_it_came_to_be(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        await asked(world)
        assert labels(world.messages[0]) == ["Regenerate", "Another model", "Details"]


@pytest.mark.parametrize("restart", [False, True])
async def test_regenerate_asks_the_same_again_with_another_seed_and_keeps_the_first_answer(
    tmp_path: Path, restart: bool
) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await asked(world, model="gemma")
        if restart:
            await restarted(world, tmp_path)
        await world.alice.click(world.messages[0], label="Regenerate")
        await world.until(lambda: len(world.messages) == 2 and world.ended)
        first, second = engine.started
        assert first.messages == second.messages
        assert second.model.alias == "gemma"
        assert first.params.seed != second.params.seed
        assert [message.content.split("\n")[0] for message in world.messages] == ["Hello, world."] * 2


async def test_another_model_is_chosen_from_what_is_offered_and_answers_the_same_question(
    tmp_path: Path,
) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await asked(world)
        result = await world.alice.click(world.messages[0], label="Another model")
        assert "another model" in words(result)
        assert result.response is not None
        (row,) = result.response.components
        (menu,) = row["components"]
        assert [option["value"] for option in menu["options"]] == ["llama", "phi", "gemma", "qwen", "mixtral"]
        await world.alice.select(result.response, ["phi"])
        await world.until(lambda: len(engine.started) == 2 and world.ended)
        assert engine.started[1].model.alias == "phi"
        assert engine.started[1].messages == engine.started[0].messages
        assert "-# phi" in world.messages[-1].content


async def test_more_models_than_discord_shows_are_named_as_that_and_do_not_break_the_list(
    tmp_path: Path,
) -> None:
    file = tmp_path / "models.toml"
    tables = [
        f'[m{number:02d}]\nsource = "/models/{number}"\ncontext_tokens = 512\ndescription = "one of many"\n'
        for number in range(30)
    ]
    file.write_text("\n".join(tables), encoding="utf-8")
    async with open_world(ScriptedEngine(), tmp_path, models_file=file) as world:
        await asked(world)
        result = await world.alice.click(world.messages[0], label="Another model")
        assert "There are more" in words(result)
        assert result.response is not None
        assert len(result.response.components[0]["components"][0]["options"]) == 25


async def test_continue_is_there_after_a_cut_and_goes_on_where_the_answer_stopped(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("Because the ",), reason=FinishReason.LENGTH)
    async with open_world(engine, tmp_path) as world:
        await asked(world)
        assert "Continue" in labels(world.messages[0])
        engine.script = ("sky ",)
        await world.alice.click(world.messages[0], label="Continue")
        await world.until(lambda: len(world.messages) == 2 and world.ended)
        assert world.messages[1].content.startswith("sky\n-# ✂ cut at the token limit")
        engine.script, engine.reason = ("is blue.",), FinishReason.STOP
        await world.alice.click(world.messages[1], label="Continue")
        await world.until(lambda: len(world.messages) == 3 and world.ended)
        assert "Continue" not in labels(world.messages[2])
    assert [request.messages[-1].content for request in engine.started] == [
        "Why?",
        "Because the ",
        "Because the sky ",
    ]
    assert engine.started[2].messages[-1].role is Role.ASSISTANT
    assert engine.started[2].messages[:-1] == engine.started[0].messages


async def test_a_code_block_that_was_cut_is_code_when_it_goes_on(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("Look:\n\n```python\na = 1\n",), reason=FinishReason.LENGTH)
    async with open_world(engine, tmp_path) as world:
        await asked(world)
        engine.script = ("b = 2\n```\nThat is all.",)
        await world.alice.click(world.messages[0], label="Continue")
        await world.until(lambda: len(world.messages) == 2 and world.ended)
        assert world.messages[1].content.startswith("```python\nb = 2\n```\nThat is all.")


async def test_a_thought_that_was_cut_stays_a_thought_when_it_goes_on(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("<think>Hm, ",), reason=FinishReason.LENGTH)
    async with open_world(engine, tmp_path) as world:
        await asked(world)
        engine.script, engine.reason = ("a pun.</think>\n\nHa.",), FinishReason.STOP
        await world.alice.click(world.messages[0], label="Continue")
        await world.until(lambda: len(world.messages) == 2 and world.ended)
        assert world.messages[1].content.startswith("Ha.\n-#")
        thinking = await world.alice.click(world.messages[1], label="Thinking")
        assert words(thinking) == "Hm, a pun."


async def test_what_a_model_thought_is_for_whoever_presses_and_pings_nobody(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("<think>Ask @everyone first.</think>Ha.",))
    async with open_world(engine, tmp_path) as world:
        await asked(world)
        result = await world.bob.click(world.messages[0], label="Thinking")
        assert words(result) == "Ask @everyone first."
        assert "@everyone" not in world.messages[0].content
        sent = [request.json for request in world.env.http_requests if "callback" in request.path][-1]
        assert isinstance(sent, dict)
        assert sent["data"]["allowed_mentions"] == {"parse": []}


async def test_a_long_thought_comes_whole_as_a_file(tmp_path: Path) -> None:
    thought = "so " * 2000
    async with open_world(ScriptedEngine(script=(f"<think>{thought}</think>Ha.",)), tmp_path) as world:
        await asked(world)
        result = await world.alice.click(world.messages[0], label="Thinking")
        assert len(words(result)) <= 2000
        assert result.response is not None
        (attached,) = result.response.attachments
        assert attached.filename == "thinking.md"


async def test_a_thought_as_long_as_a_book_is_a_page_and_a_file_too(tmp_path: Path) -> None:
    thought = "```c\n" + "a\n" * 200_000
    async with open_world(ScriptedEngine(script=(f"<think>{thought}</think>Ha.",)), tmp_path) as world:
        await asked(world)
        result = await world.alice.click(world.messages[0], label="Thinking")
        assert words(result).startswith("```c\na\n")
        assert words(result).endswith("a\n```")
        assert result.response is not None
        (attached,) = result.response.attachments
        assert attached.size == len(thought.strip())


async def test_details_have_all_that_is_needed_to_have_the_answer_again(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await asked(world, model="gemma")
        result = await world.alice.click(world.messages[0], label="Details")
        assert words(result) == ""
        assert result.response is not None
        (card,) = result.response.embeds
        text = " ".join(str(field.value) for field in card.fields)
        (request,) = engine.started
        assert f"`{request.model.revision}`" in text
        assert request.model.place in text
        assert "NF4" in text
        assert str(request.params.seed) in text
        assert f"temperature {request.params.temperature:g}" in text
        assert "8 tokens read, 3 written" in text
        (attached,) = result.response.attachments
        document = json.loads(await attached.read())
        assert document["messages"][-1] == {"role": "user", "content": "Why?"}
        assert document["sampling"]["seed"] == request.params.seed
        assert document["answer"] == "Hello, world."
        assert document["versions"]["torch"]


async def test_details_for_somebody_else_leave_out_what_was_asked(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        await asked(world)
        result = await world.bob.click(world.messages[0], label="Details")
        assert words(result) == ""
        assert result.response is not None
        assert result.response.attachments == []
        assert "Why?" not in str(result.response.embeds[0].to_dict())


@pytest.mark.parametrize("label", ["Regenerate", "Another model", "Continue"])
async def test_somebody_elses_press_is_refused_to_them_alone_and_nothing_happens(
    tmp_path: Path, label: str
) -> None:
    engine = ScriptedEngine(reason=FinishReason.LENGTH)
    async with open_world(engine, tmp_path) as world:
        await asked(world)
        result = await world.bob.click(world.messages[0], label=label)
        assert "Only the person who asked" in words(result)
        assert len(world.messages) == 1
    assert len(engine.started) == 1


async def test_an_answer_that_is_not_kept_any_more_says_so(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        await asked(world)
        await world.bot.services.archive._replies.forget(older_than_days=-1)
        for label in ("Regenerate", "Details"):
            assert "not kept any more" in words(await world.alice.click(world.messages[0], label=label))


async def test_a_full_queue_is_told_to_who_presses_and_the_answer_stays(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path, queue_limit=0) as world:
        await asked(world)
        engine.script = (forever.wait,)
        await world.bob.slash(world.channel, "joke")
        result = await world.alice.click(world.messages[0], label="Regenerate")
        assert "Too many people" in words(result)
        assert world.messages[0].content.startswith("Hello, world.")


async def test_a_model_that_the_server_does_not_offer_any_more_is_said(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        await asked(world, model="gemma")
        await world.alice.slash(world.channel, "model offer", models="smol")
        result = await world.alice.click(world.messages[0], label="Regenerate")
        assert "gemma is not offered in this server" in words(result)


async def test_a_failed_answer_can_be_tried_again(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("Half", ZeroDivisionError()))
    async with open_world(engine, tmp_path) as world:
        await asked(world)
        assert labels(world.messages[0]) == ["Retry", "Another model", "Details"]
        engine.script = ("Whole.",)
        await world.alice.click(world.messages[0], label="Retry")
        await world.until(lambda: len(world.messages) == 2 and world.ended)
        assert world.messages[1].content.startswith("Whole.")


async def test_a_stop_button_that_outlived_its_answer_says_that_it_has_ended(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=("Once", forever.wait))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        before = world.messages[0]
        await world.alice.click(before, label="Stop")
        await world.until(lambda: world.ended)
        from bot.replies.buttons import Press

        calls: list[str] = []

        class Interaction:
            class response:  # noqa: N801
                @staticmethod
                def is_done() -> bool:
                    return False

                @staticmethod
                async def send_message(text: str, **_: object) -> None:
                    calls.append(text)

        await world.bot.services.presses.pressed(Interaction(), Press.STOP, "ab12")  # type: ignore[arg-type]
        assert calls == ["This answer has ended already."]


async def test_a_database_that_does_not_take_it_costs_neither_the_answer_nor_its_buttons(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:

        async def broken(*_: object) -> None:
            raise StorageError("The disk is full.")

        replies = world.bot.services.archive._replies
        with pytest.MonkeyPatch.context() as fault:
            fault.setattr(replies, "put", broken)
            await asked(world)
            assert world.messages[0].content.startswith("Hello, world.")
            assert "The disk is full." in caplog.text
            await world.alice.click(world.messages[0], label="Regenerate")
            await world.until(lambda: world.ended and len(world.messages) == 2)
            first, second = (message.id for message in world.messages)
            assert await replies.of_message(first) is None
        assert await world.bot.services.archive.of_message(first) is not None
        await world.alice.click(world.messages[0], label="Regenerate")
        await world.until(lambda: world.ended and len(world.messages) == 3)
        for message_id in (first, second):  # what waited was written with the next one
            kept = await replies.of_message(message_id)
            assert kept is not None
            assert (kept.answer, kept.reason) == ("Hello, world.", "stop")


async def details(world: World, who: Any, message: Any) -> dict[str, Any]:
    result = await who.click(message, label="Details")
    assert words(result) == ""
    assert result.response is not None
    (attached,) = result.response.attachments
    document = json.loads(await attached.read())
    assert isinstance(document, dict)
    return document


async def said_to(world: World, who: Any, text: str, to: int) -> None:
    """Somebody replies to the bot's message of that number, and has their answer."""
    assert world.bot.user is not None
    replies = [one for one in world.messages if one.author.bot]
    await who.send(world.channel, f"{world.bot.user.mention} {text}", reply_to=replies[to])

    def answered() -> bool:
        found = [one for one in world.messages if one.author.bot]
        return len(found) == len(replies) + 1 and "Details" in labels(found[-1]) and world.queue.running == 0

    await world.until(answered)


async def test_details_show_what_this_person_wrote_and_not_what_somebody_else_gave_a_command(
    tmp_path: Path,
) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        await world.alice.slash(world.channel, "joke", topic="my secret", audience="my secret friends")
        await world.until(lambda: world.ended)
        await said_to(world, world.bob, "ok", 0)
        await said_to(world, world.alice, "Another one?", 1)
        by_bob, by_alice = [one for one in world.messages if one.author.bot][1:]
        bobs = await details(world, world.bob, by_bob)
        alices = await details(world, world.alice, by_alice)
        assert "secret" not in json.dumps(bobs)
        assert [one["content"] for one in bobs["messages"]] == [None, None, "Hello, world.", "ok"]
        assert "secret friends" in alices["messages"][0]["content"]
        assert [one["content"] for one in alices["messages"][1:]] == [
            "Tell me a joke about my secret.",
            "Hello, world.",
            None,
            "Hello, world.",
            "Another one?",
        ]
        # Whoever has it answered anew is no more let in on it.
        await world.bob.click(by_bob, label="Regenerate")
        await world.until(lambda: len(world.messages) == 6 and world.ended)
        assert "secret" not in json.dumps(await details(world, world.bob, world.messages[-1]))


async def test_details_of_a_reply_that_was_kept_without_authors_show_nothing_of_others(
    tmp_path: Path,
) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt="my secret")
        await world.until(lambda: world.ended)
        await said_to(world, world.bob, "ok", 0)
        with sqlite3.connect(tmp_path / "punchline.sqlite3") as file:
            for reply_id, request in file.execute("SELECT id, request FROM replies").fetchall():
                old = json.loads(request)
                for message in old["messages"]:
                    message.pop("author_id", None)
                file.execute("UPDATE replies SET request = ? WHERE id = ?", (json.dumps(old), reply_id))
        file.close()
        by_alice, by_bob = [one for one in world.messages if one.author.bot]
        contents = [one["content"] for one in (await details(world, world.bob, by_bob))["messages"]]
        assert contents == [None, None, "Hello, world.", "ok"]
        assert (await details(world, world.alice, by_alice))["messages"][-1]["content"] == "my secret"
        await said_to(world, world.bob, "And now?", 1)
        newest = [one for one in world.messages if one.author.bot][-1]
        assert "secret" not in json.dumps(await details(world, world.bob, newest))


def test_a_conversation_that_was_shortened_gives_nobody_the_words_of_an_older_row() -> None:
    """Rows of before have no authors: what others wrote stays theirs, however much of the conversation is left."""
    before = [
        {"role": "system", "content": "You perform for somebody's secret."},
        {"role": "user", "content": "Tell me a joke."},
        {"role": "assistant", "content": "ha"},
        {"role": "user", "content": "ok"},
    ]
    old = KeptReply("ab", 2, 1, 1, "smol", {"messages": before}, answer="y" * 17_000, reason="stop")
    short = within_history(asyncio.run(conversation(old, "and now?")), 2_048)
    new = KeptReply("cd", 2, 1, 1, "smol", {"messages": [_kept_message(one, 2) for one in short]})
    assert [one["content"] for one in messages_for(new, 2)] == [None, "and now?"]


KEPT = KeptReply("ab12", 1, 2, 3, "gemma", {"messages": [{"role": "user", "content": "Why?"}]})
IDS = {"vocabulary": "ab", "ids": [1, 2, 3], "said": 0}


def going_on(said: str, **values: Any) -> KeptReply:
    """A reply that went on from `said`."""
    messages = [*KEPT.request["messages"], {"role": "assistant", "content": said}]
    return replace(KEPT, request={"messages": messages}, **values)


@pytest.mark.parametrize(
    ("kept", "ids"),
    [
        (replace(KEPT, answer="Be"), None),
        (replace(KEPT, answer="Be", tokens=IDS), (1, 2, 3)),
        (going_on("Be", answer="cause", tokens={**IDS, "said": 2}), (1, 2, 3)),
        (going_on("Be", answer="", tokens={**IDS, "said": 3}), (1, 2, 3)),
        (going_on("Be", answer="", tokens={**IDS, "said": 2}), (1, 2, 3)),  # half a character
        (going_on("Be", answer="cause", tokens={**IDS, "said": 3}), None),  # an engine without ids went on
        (going_on("Be", answer="cause"), None),
    ],
)
def test_an_answer_goes_on_from_its_ids_only_where_they_are_those_of_all_its_words(
    kept: KeptReply, ids: tuple[int, ...] | None
) -> None:
    last = messages_to_go_on(kept)[-1]
    assert last.content == words_of(kept)
    assert (None if last.tokens is None else last.tokens.ids) == ids


def test_an_answer_that_went_on_is_had_again_from_the_ids_before_it() -> None:
    last = messages_of(going_on("Be", answer="cause", tokens={**IDS, "said": 2}))[-1]
    assert last.tokens is not None
    assert (last.content, last.tokens.ids) == ("Be", (1, 2))
