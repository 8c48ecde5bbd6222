"""Discord refuses a further message or a file of an answer: the messages that exist carry the end, and say so."""

from __future__ import annotations

import asyncio
from pathlib import Path

import discord
import pytest

from bot.client import PunchlineBot
from bot.inference.scripted import ScriptedEngine
from bot.replies.refusal import retry_after_s
from tests.world import World, labels, open_world

LONG = tuple(f"word{n:05d} " for n in range(400))  # two messages
VERY_LONG = tuple(f"word{n:05d} " for n in range(3000))  # five messages and a file
WHOLE_ANSWER = "the whole answer is behind Details"


def answers(world: World) -> list[discord.Message]:
    return [message for message in world.messages if message.author.bot]


def has_end(message: discord.Message) -> bool:
    return "tokens/s" in message.content and "Details" in labels(message)


async def whole_answer(world: World, message: discord.Message) -> str:
    """The answer as somebody who did not ask reads it behind Details."""
    result = await world.bob.click(message, label="Details")
    assert result.response is not None
    (attached,) = result.response.attachments
    assert attached.filename == "answer.md"
    return (await attached.read()).decode()


async def test_a_refused_file_leaves_the_end_under_the_last_message_and_details_has_the_answer(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=(*VERY_LONG[:2000], gate.wait, *VERY_LONG[2000:]))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt="Say a lot")
        await world.until(lambda: len(answers(world)) == 5)
        world.env.inject_error("POST", "/webhooks/*", status=403, code=50013, times=None)
        gate.set()
        await world.until(lambda: has_end(answers(world)[-1]))
        assert len(answers(world)) == 5
        end = answers(world)[-1].content
        assert f"could not be posted: the bot may not attach files here · {WHOLE_ANSWER}\n-# smol" in end
        assert [labels(message) for message in answers(world)[:4]] == [[]] * 4
        assert await world.bot.services.archive.unfinished() == []
        assert await whole_answer(world, answers(world)[-1]) == "".join(VERY_LONG).strip()


@pytest.mark.parametrize(
    ("status", "code", "why"),
    [
        (403, 50001, "the bot may not send messages here"),
        (400, 40094, "Discord allows no more messages where you brought the bot yourself"),
        (413, 40005, "it is too large for this place"),
        (400, 160005, "this thread is closed"),
        (400, 20016, "slow mode is on here"),
        (400, 200000, "this server's rules (AutoMod) or Discord's filter do not take its words"),
        (400, 50035, "Discord does not take its words"),
        (400, 50109, "Discord does not take its words"),
        (400, 99999, "Discord refused it (400 99999)"),
    ],
)
async def test_a_refused_further_message_leaves_the_end_under_the_one_before(
    tmp_path: Path, status: int, code: int, why: str
) -> None:
    await refused_further(tmp_path, "command", status, code, why)


async def test_a_refused_further_message_of_an_answer_to_a_mention_leaves_the_end_under_the_one_before(
    tmp_path: Path,
) -> None:
    await refused_further(tmp_path, "mention", 403, 50013, "the bot may not send messages here")


async def refused_further(tmp_path: Path, way: str, status: int, code: int, why: str) -> None:
    gate = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once ", gate.wait, *LONG)), tmp_path) as world:
        assert world.bot.user is not None
        if way == "command":
            await world.alice.slash(world.channel, "ask", prompt="Say a lot")
        else:
            await world.alice.send(world.channel, f"{world.bot.user.mention} say a lot")
        await world.until(lambda: len(answers(world)) == 1)
        path = "/webhooks/*" if way == "command" else "/channels/*/messages"
        world.env.inject_error("POST", path, status=status, code=code, times=None)
        gate.set()
        await world.until(lambda: has_end(answers(world)[0]))
        (answer,) = answers(world)
        assert answer.content.startswith("Once word00000")
        assert f"could not be posted: {why} · {WHOLE_ANSWER}\n-# smol" in answer.content
        assert await world.bot.services.archive.unfinished() == []
        assert world.queue.running == 0
        assert await whole_answer(world, answer) == f"Once {''.join(LONG)}".strip()


async def test_a_message_refused_while_the_answer_grows_is_told_and_stop_stays(tmp_path: Path) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    async with open_world(
        ScriptedEngine(script=("Once ", gate.wait, *LONG, forever.wait)), tmp_path
    ) as world:
        await world.alice.slash(world.channel, "ask", prompt="Say a lot")
        await world.until(lambda: len(answers(world)) == 1)
        world.env.inject_error("POST", "/webhooks/*", status=403, code=50013, times=None)
        gate.set()
        await world.until(lambda: "could not be posted" in answers(world)[0].content)
        await world.until(lambda: labels(answers(world)[0]) == ["Stop"])
        assert world.queue.running == 1
        await world.alice.click(answers(world)[0], label="Stop")
        await world.until(lambda: "⏹ stopped by" in answers(world)[0].content)
        assert len(answers(world)) == 1


async def test_a_long_explanation_that_gets_no_message_of_its_own_makes_room_on_the_last_page(
    tmp_path: Path,
) -> None:
    from bot.errors import ModelUnavailable

    engine = ScriptedEngine(script=("x" * 1830, ModelUnavailable("Here is why: " + "y" * 200)))
    async with open_world(engine, tmp_path) as world:
        world.env.inject_error("POST", "/webhooks/*", status=403, code=50013, times=None)
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: "Details" in labels(answers(world)[0]))
        (answer,) = answers(world)
        assert answer.content.startswith("xxxxx")
        assert "y" * 200 in answer.content
        assert WHOLE_ANSWER in answer.content


async def test_an_end_that_a_crash_kept_from_being_shown_is_shown_at_the_start_though_a_message_is_refused(
    tmp_path: Path,
) -> None:
    gate = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once ", gate.wait, *LONG)), tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt="Say a lot")
        await world.until(lambda: len(answers(world)) == 1)
        for method in ("PATCH", "POST"):
            world.env.inject_error(method, "/webhooks/*", status=500, times=None)
        gate.set()
        await world.until(lambda: world.queue.running == 0 and not world.bot.services.answers._live)
        assert len(await world.bot.services.archive.unfinished()) == 1  # the fault is there
        world.env.inject_error("POST", "/channels/*/messages", status=403, code=50013, times=None)
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path))
        await world.until(lambda: has_end(answers(world)[0]))
        assert "the bot may not send messages here" in answers(world)[0].content
        assert await world.bot.services.archive.unfinished() == []


async def test_words_that_automod_blocks_make_way_for_a_sentence_with_the_end(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once", gate.wait, " cursed.")), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: len(answers(world)) == 1)
        world.env.inject_error("PATCH", "/webhooks/*", status=400, code=200000)
        gate.set()
        await world.until(lambda: has_end(answers(world)[0]))
        assert answers(world)[0].content.startswith(
            "*(This part of the answer cannot be shown: "
            "this server's rules (AutoMod) or Discord's filter do not take its words.)*\n-# smol"
        )
        assert await world.bot.services.archive.unfinished() == []


async def test_a_reply_whose_words_cannot_be_read_after_a_crash_keeps_them_and_gets_retry(
    tmp_path: Path,
) -> None:
    forever = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once upon", forever.wait)), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: "Once upon" in answers(world)[0].content)
        # Without Read Message History, a bot edits its messages but does not read them.
        world.env.inject_error("GET", "/channels/*/messages/*", status=403, code=50013, times=None)
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path))
        await world.until(lambda: labels(answers(world)[0]) == ["Retry"])
        assert answers(world)[0].content == "Once upon"
        assert await world.bot.services.archive.unfinished() == []


async def test_details_and_thoughts_come_as_messages_where_files_are_refused(tmp_path: Path) -> None:
    script = ("<think>", *LONG, "</think>", *LONG)
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt="Why?")
        await world.until(lambda: world.ended)
        last = answers(world)[-1]
        for label in ("Details", "Thinking"):
            seen = {message.id for message in world.channel.history(viewer=world.alice)}
            world.env.inject_error("POST", "/interactions/*/callback", status=403, code=50013)
            await world.alice.click(last, label=label)
            shown = [m for m in world.channel.history(viewer=world.alice) if m.id not in seen]
            text = " ".join(message.content for message in shown)
            assert "word00000" in text and "word00399" in text, label
            assert all(message.flags.ephemeral for message in shown)


async def test_an_answer_to_a_press_that_discord_forbids_is_told(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        world.env.inject_error("POST", "/interactions/*/callback", status=403, code=50013, times=2)
        result = await world.alice.click(answers(world)[0], label="Details")
        assert result.response is not None
        assert "Discord did not take my answer" in result.response.content


@pytest.mark.parametrize("way", ["command", "mention"])
@pytest.mark.parametrize("code", [200000, 200001, 240000, 50035, 50109])
async def test_words_that_are_refused_while_they_grow_end_the_answer_and_free_the_model(
    tmp_path: Path, way: str, code: int
) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(script=("Once", gate.wait, " cursed", forever.wait))
    async with open_world(engine, tmp_path) as world:
        await asked(world, way)
        await world.until(lambda: len(answers(world)) == 1)
        path = "/webhooks/*" if way == "command" else "/channels/*/messages/*"
        world.env.inject_error("PATCH", path, status=400, code=code)
        before = len(world.edits)
        gate.set()
        await world.until(lambda: has_sentence(answers(world)[0]))
        assert engine.stopped == 1
        assert world.queue.running == 0
        assert ("stopped by this server's rules" in answers(world)[0].content) == (code >= 200000)
        await world.pass_time(10)
        assert len(world.edits) <= before + 2  # the refused one, and the end
        assert await world.bot.services.archive.unfinished() == []


@pytest.mark.parametrize("way", ["command", "mention"])
async def test_a_first_message_that_is_refused_makes_way_for_a_sentence(tmp_path: Path, way: str) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(script=(gate.wait, "Cursed", forever.wait))
    async with open_world(engine, tmp_path) as world:
        if way == "command":
            world.env.inject_error("PATCH", "/webhooks/*", status=400, code=200000)
        else:
            world.env.inject_error("POST", "/channels/*/messages", status=400, code=200000)
        gate.set()
        await asked(world, way)
        await world.until(lambda: bool(answers(world)) and has_sentence(answers(world)[0]))
        assert len(answers(world)) == 1
        assert engine.stopped == 1
        assert world.queue.running == 0


async def test_a_further_message_that_automod_blocks_frees_the_model(tmp_path: Path) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(script=("Once ", gate.wait, *LONG, forever.wait))
    async with open_world(engine, tmp_path) as world:
        await asked(world, "command")
        await world.until(lambda: len(answers(world)) == 1)
        world.env.inject_error("POST", "/webhooks/*", status=400, code=200000, times=None)
        gate.set()
        await world.until(lambda: "Details" in labels(answers(world)[0]))
        assert "could not be posted: this server's rules" in answers(world)[0].content
        assert engine.stopped == 1


async def test_where_every_edit_is_refused_stop_goes_and_the_next_start_does_not_try_again(
    tmp_path: Path,
) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(script=("Once", gate.wait, " cursed", forever.wait))
    async with open_world(engine, tmp_path) as world:
        await asked(world, "command")
        await world.until(lambda: len(answers(world)) == 1)
        world.env.inject_error("PATCH", "/webhooks/*", status=400, code=200000, times=2)
        gate.set()
        await world.until(lambda: not world.bot.services.answers.under_way)
        assert answers(world)[0].content == "Once"
        assert "Stop" not in labels(answers(world)[0])
        assert engine.stopped == 1
        assert await world.bot.services.archive.unfinished() == []


@pytest.mark.parametrize("ended", [False, True])
async def test_after_a_crash_words_that_are_refused_get_their_buttons_and_are_not_tried_again(
    tmp_path: Path, ended: bool
) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    script = ("Once", gate.wait, " upon") if ended else ("Once", forever.wait)
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await asked(world, "command")
        await world.until(lambda: bool(answers(world)) and "Once" in answers(world)[0].content)
        if ended:
            world.env.inject_error("PATCH", "/webhooks/*", status=500, times=None)
            gate.set()
            await world.until(lambda: world.queue.running == 0 and not world.bot.services.answers.under_way)
        world.env.inject_error(
            "PATCH", "/channels/*/messages/*", status=400, code=200000, times=2 if ended else 1
        )
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path))
        await world.until(lambda: "Retry" in labels(answers(world)[0]))
        assert await world.bot.services.archive.unfinished() == []


@pytest.mark.parametrize(("status", "code"), [(400, 20016), (400, 20028), (400, 30046), (503, 0)])
async def test_an_edit_that_is_refused_for_now_is_tried_less_and_less_and_the_end_soon(
    tmp_path: Path, status: int, code: int
) -> None:
    gate, end = asyncio.Event(), asyncio.Event()
    script = ("Once", gate.wait, " upon", end.wait, " a time")
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await asked(world, "mention")
        await world.until(lambda: len(answers(world)) == 1)
        world.env.inject_error("PATCH", "/channels/*/messages/*", status=status, code=code, times=None)
        before = len(world.edits)
        gate.set()
        await world.pass_time(64)
        assert 3 <= len(world.edits) - before <= 7  # after 1, 2, 4, 8, 16 and 30 s
        assert world.queue.running == 1
        world.env.backend.faults.clear()
        end.set()
        await world.until(lambda: has_end(answers(world)[0]), ticks=30)
        assert answers(world)[0].content.startswith("Once upon a time")


async def test_an_edit_that_is_taken_again_ends_the_long_pauses(tmp_path: Path) -> None:
    gates = [asyncio.Event() for _ in range(4)]
    script = ("Once", gates[0].wait, " upon", gates[1].wait, " a", gates[2].wait, " time", gates[3].wait)
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await asked(world, "mention")
        await world.until(lambda: len(answers(world)) == 1)
        world.env.inject_error("PATCH", "/channels/*/messages/*", status=400, code=20016, times=3)
        gates[0].set()
        await world.until(lambda: "Once upon" in answers(world)[0].content, ticks=90)  # after 1, 2 and 4 s
        gates[1].set()
        await world.until(lambda: "Once upon a" in answers(world)[0].content, ticks=30)
        world.env.inject_error("PATCH", "/channels/*/messages/*", status=400, code=20016, times=1)
        gates[2].set()
        await world.until(lambda: "Once upon a time" in answers(world)[0].content, ticks=30)
        gates[3].set()


@pytest.mark.parametrize(
    ("told", "seconds"), [("7.5", 7.5), ("0", 0), ("-1", 0), ("nan", 0), ("1e9", 0), ("Sun, 29 Nov 2026", 0)]
)
def test_how_long_discord_asks_to_wait_is_heeded_where_it_can_be(told: str, seconds: float) -> None:
    class Response:
        status, reason, headers = 503, "", {"Retry-After": told}

    assert retry_after_s(discord.DiscordServerError(Response(), "")) == seconds  # type: ignore[arg-type]
    assert retry_after_s(TimeoutError()) == 0


async def test_an_answer_to_a_press_that_automod_blocks_is_told(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(script=("<think>Hm.</think>Ha.",)), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        world.env.inject_error("POST", "/interactions/*/callback", status=400, code=200000)
        result = await world.alice.click(answers(world)[0], label="Thinking")
        assert result.response is not None
        assert "this server's rules" in result.response.content


async def asked(world: World, way: str) -> None:
    assert world.bot.user is not None
    if way == "command":
        await world.alice.slash(world.channel, "joke")
    else:
        await world.alice.send(world.channel, f"{world.bot.user.mention} say something")


def has_sentence(message: discord.Message) -> bool:
    return (
        message.content.startswith("*(This part of the answer cannot be shown")
        and "Details" in labels(message)
        and "Stop" not in labels(message)
    )
