"""The commands as people in a channel see them: the real bot, real discord.py, a simulated Discord."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import discord
import discord.http
import pytest

from bot import presses
from bot.client import PunchlineBot
from bot.errors import ModelUnavailable
from bot.inference.engine import FinishReason, GenerationRequest, Loading
from bot.inference.scripted import ScriptedEngine
from bot.registration import refused
from bot.replies.status import READING
from tests.world import World, labels, open_world, over

FOOTER = "-# smol · 3 tokens · 20.0 tokens/s · 0.1 s"


def said(request: GenerationRequest) -> str:
    return " | ".join(message.content for message in request.messages)


async def test_a_joke_is_told_about_the_topic_for_the_audience_by_the_model(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        result = await world.alice.slash(
            world.channel, "joke", topic="tea", audience="pirates", model="gemma"
        )
        await world.until(lambda: world.ended)
        assert result.response is not None
        assert result.response.content.startswith("Hello, world.\n-# gemma")
    (request,) = engine.started
    assert request.model.alias == "gemma"
    assert "tea" in said(request)
    assert "pirates" in said(request)


async def test_a_joke_with_no_options_is_for_a_room_of_data_scientists_by_the_default_model(
    tmp_path: Path,
) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        assert world.messages[0].content == f"Hello, world.\n{FOOTER}"
    assert engine.started[0].model.alias == "smol"
    assert "a room of data scientists" in said(engine.started[0])


async def test_ask_puts_the_question_to_the_model(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        await world.bob.slash(world.channel, "ask", prompt="What is NF4?", model="smol")
        await world.until(lambda: world.ended)
    assert "What is NF4?" in said(engine.started[0])


async def test_the_answer_is_cut_to_the_operators_limit_of_tokens(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path, max_new_tokens=7) as world:
        await world.alice.slash(world.channel, "ask", prompt="Hm?")
        await world.until(lambda: world.ended)
    assert engine.started[0].params.max_new_tokens == 7


async def test_the_command_is_acknowledged_before_the_model_has_done_anything(tmp_path: Path) -> None:
    forever = asyncio.Event()
    async with open_world(ScriptedEngine(script=(forever.wait,)), tmp_path) as world:
        result = await world.alice.slash(world.channel, "joke")
        assert result.acknowledged
        assert world.env.now().second == 0  # no simulated time went by
        paths = [request.path for request in world.env.http_requests if "/callback" in request.path]
        assert len(paths) == 1


async def test_the_first_words_are_shown_at_once_and_the_rest_about_once_a_second(tmp_path: Path) -> None:
    gates = [asyncio.Event() for _ in range(3)]
    script = ("One", gates[0].wait, " two", gates[1].wait, " three", gates[2].wait, " four.")
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        assert world.edits == ["One"]
        gates[0].set()
        await world.pass_time(0.3)
        gates[1].set()
        await world.pass_time(0.3)
        assert world.edits == ["One"]
        await world.pass_time(0.5)
        assert world.edits == ["One", "One two three"]
        gates[2].set()
        await world.until(lambda: world.ended)
        assert world.edits[-1].startswith("One two three four.\n-# smol")
        assert len(world.edits) == 3


async def test_the_end_is_shown_at_once_even_right_after_an_edit(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Short", gate.wait, " joke.")), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        gate.set()
        await world.pass_time(0.01)
        assert world.edits == ["Short", "Short joke.\n-# smol · 2 tokens · 20.0 tokens/s · 0.1 s"]


async def test_the_asker_stops_the_answer_and_what_was_said_stays(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=("Once upon a time", forever.wait))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        result = await world.alice.click(world.messages[0], label="Stop")
        await world.until(lambda: world.ended)
        assert result.acknowledged
        assert world.messages[0].content.startswith("Once upon a time\n-# ⏹ stopped by you · smol · 1 tokens")
        assert (engine.stopped, world.queue.running) == (1, 0)


async def test_somebody_elses_stop_is_refused_to_them_alone_and_changes_nothing(tmp_path: Path) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=("Once", gate.wait, " more."))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        result = await world.bob.click(world.messages[0], label="Stop")
        assert result.ephemeral
        assert result.response is not None
        assert "Only the person who asked" in result.response.content
        gate.set()
        await world.until(lambda: over(world.messages[0]))
        assert world.messages[0].content.startswith("Once more.")
        assert engine.stopped == 0


async def test_a_moderator_stops_somebody_elses_answer_and_is_named(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=("Once", forever.wait))
    async with open_world(engine, tmp_path) as world:
        guild = world.channel.guild
        assert guild is not None
        role = guild.create_role("mods", permissions=discord.Permissions(manage_messages=True))
        mod = guild.add_member(world.env.create_user("*Mod*"), roles=[role])
        await world.alice.slash(world.channel, "joke")
        await mod.click(world.messages[0], label="Stop")
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("Once\n-# ⏹ stopped by \\*Mod\\* · smol")


async def test_who_waits_sees_their_place_and_can_stop_waiting(tmp_path: Path) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=("Hi", gate.wait))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.bob.slash(world.channel, "joke")
        third = await world.alice.slash(world.channel, "ask", prompt="And me?")
        assert [m.content for m in world.messages[1:]] == ["-# ⏳ You are next", "-# ⏳ 1 ahead of you"]
        await world.bob.click(world.messages[1], label="Stop")
        await world.pass_time(1.1)
        assert world.messages[1].content == "-# ⏹ stopped by bob · smol"
        assert third.response is not None
        assert third.response.content == "-# ⏳ You are next"
        gate.set()
        await world.until(lambda: world.ended)
    assert len(engine.started) == 2


async def test_a_full_queue_is_a_sentence_for_the_asker_alone(tmp_path: Path) -> None:
    forever = asyncio.Event()
    async with open_world(ScriptedEngine(script=(forever.wait,)), tmp_path, queue_limit=0) as world:
        await world.alice.slash(world.channel, "joke")
        result = await world.bob.slash(world.channel, "joke")
        assert result.ephemeral
        assert result.response is not None
        assert "Too many people" in result.response.content
        assert len(world.env.errors) == 1


async def test_an_unknown_model_is_a_sentence_with_the_nearest_name(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with open_world(engine, tmp_path) as world:
        result = await world.alice.slash(world.channel, "joke", model="gema @everyone")
        assert result.ephemeral
        assert result.response is not None
        assert "There is no model called 'gema @everyone'" in result.response.content
        assert len(world.env.errors) == 1
    assert engine.started == []


async def test_loading_is_seen_with_how_far_it_is(tmp_path: Path) -> None:
    gate, later = asyncio.Event(), asyncio.Event()
    script = (Loading("gemma", 0.62), gate.wait, Loading("gemma", None), later.wait, "Ha.")
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await world.alice.slash(world.channel, "joke", model="gemma")
        assert world.messages[0].content == "-# ⏳ Loading gemma · 62%"
        gate.set()
        await world.pass_time(1.1)
        assert world.messages[0].content == "-# ⏳ Loading gemma"
        later.set()
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("Ha.\n-# gemma")


async def test_a_wait_counts_down_and_past_it_nothing_is_promised(tmp_path: Path) -> None:
    gate = asyncio.Event()
    script = (Loading("gemma", 0.1, 25.0), gate.wait, "Ha.")
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await world.alice.slash(world.channel, "joke", model="gemma")
        await world.pass_time(31)
        gate.set()
        await world.until(lambda: world.ended)
        assert world.edits[:4] == [
            "-# ⏳ Loading gemma · 10% · about 25 s",
            "-# ⏳ Loading gemma · 10% · about 15 s",
            "-# ⏳ Loading gemma · 10% · about 5 s",
            "-# ⏳ Loading gemma · 10%",
        ]


async def test_a_model_that_cannot_be_loaded_says_why_under_a_number_that_the_log_has_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    engine = ScriptedEngine(script=(ModelUnavailable("gemma is not on this disk: pull it."),))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke", model="gemma")
        await world.until(lambda: world.ended)
        content = world.messages[0].content
        assert content.startswith("⚠️ gemma is not on this disk: pull it.\n-# failed · gemma · reference ")
        assert content.rsplit(" ", 1)[1] in caplog.text


async def test_a_failure_in_the_middle_keeps_the_words_and_shows_no_traceback(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("Half an ans", ZeroDivisionError("secret internals")))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        content = world.messages[0].content
        assert content.startswith("Half an ans\n⚠️ Something went wrong while the model was answering.")
        assert "secret internals" not in content
        assert world.queue.running == 0


async def test_an_answer_that_takes_too_long_is_ended_and_says_so(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=("Er", forever.wait))
    async with open_world(engine, tmp_path, generation_timeout_s=0.05) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("Er\n⚠️ The answer was not finished within")
        assert "-# ⏱ timed out · smol" in world.messages[0].content
        assert engine.stopped == 1


async def test_a_length_end_is_explained(tmp_path: Path) -> None:
    engine = ScriptedEngine(reason=FinishReason.LENGTH)
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        assert "✂ cut at the token limit" in world.messages[0].content


async def test_a_model_with_nothing_to_say_is_not_an_empty_message(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(script=(" \n",)), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("*(The model had nothing to say.)*")


async def test_white_space_before_the_first_words_is_not_shown_as_an_answer(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with open_world(ScriptedEngine(script=("\n\n", gate.wait, "Ha.")), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.pass_time(1)
        assert world.edits == []
        await world.pass_time(1)
        assert world.edits == [READING]
        gate.set()
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("Ha.\n-#")


async def test_the_end_is_shown_though_discord_fails_at_first(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with open_world(ScriptedEngine(script=("One", gate.wait, " two.")), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        world.env.inject_error("PATCH", "/webhooks/*", status=500, times=2)
        gate.set()
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("One two.\n-# smol")


async def test_a_channel_where_the_bot_may_do_nothing_still_has_its_replies(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        guild = world.channel.guild
        assert guild is not None
        await world.env.settle()
        everyone = discord.Permissions(view_channel=True, use_application_commands=True)
        for role in guild._guild.roles.values():
            role.permissions = everyone.value if role.id == guild.id else 0
        bot_id = world.env.backend.bot_user.id
        allowed = world.env.backend.compute_permissions(guild.id, bot_id, world.channel.id)
        assert not discord.Permissions(allowed).send_messages
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("Hello, world.")


async def test_a_long_answer_goes_on_in_further_messages_and_none_of_it_is_lost(tmp_path: Path) -> None:
    words = tuple(f"word{n:04d} " for n in range(700))
    gate = asyncio.Event()
    async with open_world(ScriptedEngine(script=(*words[:500], gate.wait, *words[500:])), tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt="Say a lot")
        first_page = world.messages[0].content
        assert len(world.messages) == 3
        assert [labels(message) for message in world.messages] == [[], [], ["Stop"]]
        gate.set()
        await world.until(lambda: world.ended)
        contents = [message.content for message in world.messages]
        assert contents[0] == first_page
        assert all(len(content) <= 2000 for content in contents)
        shown = " ".join(contents).split("-# ")[0].split()
        assert shown == "".join(words).split()
        assert "-# smol · 700 tokens" in contents[-1]
        assert sum("-#" in content for content in contents) == 1


async def test_nothing_a_model_writes_pings_anybody_in_any_send_or_edit(tmp_path: Path) -> None:
    gate = asyncio.Event()
    text = "@everyone @here <@1> <@&2> "
    async with open_world(ScriptedEngine(script=(text, gate.wait, text * 100)), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.bob.click(world.messages[0], label="Stop")
        gate.set()
        await world.until(lambda: world.ended)
        bodies: list[Any] = [request.json for request in world.env.http_requests if request.json]
        with_content = [body.get("data", body) for body in bodies if isinstance(body, dict)]
        sent = [body for body in with_content if body.get("content")]
        assert len(sent) >= 4
        assert all(body["allowed_mentions"] == {"parse": []} for body in sent)


async def test_a_deleted_reply_stops_the_model(tmp_path: Path) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(script=("One", gate.wait, " two", forever.wait))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        world.env.backend.delete_message(world.channel.id, world.messages[0].id)
        gate.set()
        await world.until(lambda: engine.stopped == 1)
        assert world.queue.running == 0


async def test_a_moment_of_trouble_at_discord_costs_an_edit_and_not_the_answer(tmp_path: Path) -> None:
    gate, later = asyncio.Event(), asyncio.Event()
    async with open_world(
        ScriptedEngine(script=("One", gate.wait, " two", later.wait, " three.")), tmp_path
    ) as world:
        await world.alice.slash(world.channel, "joke")
        world.env.inject_error("PATCH", "/webhooks/*", status=500)
        gate.set()
        await world.pass_time(1.1)
        assert world.messages[0].content == "One"
        later.set()
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("One two three.")


async def test_the_model_option_completes_from_the_catalogue(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        for command in ("joke", "ask"):
            everything = await world.alice.autocomplete(world.channel, command, "model", "")
            assert [choice["value"] for choice in everything] == [
                "smol",
                "llama",
                "phi",
                "gemma",
                "qwen",
                "mixtral",
            ]
            typed = await world.alice.autocomplete(world.channel, command, "model", "Mistral")
            assert [choice["value"] for choice in typed] == ["mixtral"]
            assert all(len(choice["name"]) <= 100 for choice in everything)


async def test_commands_are_registered_once_and_again_only_when_they_change(tmp_path: Path) -> None:
    def registrations(world: World) -> int:
        return sum(r.method == "PUT" and r.path.endswith("/commands") for r in world.env.http_requests)

    async with open_world(ScriptedEngine(), tmp_path) as world:
        assert registrations(world) == 1
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path))
        assert registrations(world) == 1
        changed = PunchlineBot(services=world.bot.services, data_dir=tmp_path)

        @changed.tree.command(description="New")
        async def news(interaction: discord.Interaction) -> None: ...

        await world.env.restart_bot(changed)
        assert registrations(world) == 2
        forced = PunchlineBot(services=world.bot.services, data_dir=tmp_path, force_sync=True)
        await world.env.restart_bot(forced)
        assert registrations(world) == 3


async def test_a_failed_registration_does_not_stop_the_bot_and_is_tried_again(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path / "first") as world:
        world.env.inject_error("PUT", "/applications/*/commands", status=403)
        again = PunchlineBot(services=world.bot.services, data_dir=tmp_path / "second")
        await world.env.restart_bot(again)
        assert not (tmp_path / "second" / "commands.sha256").exists()
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path / "second"))
        assert (tmp_path / "second" / "commands.sha256").exists()


INVALID = "Invalid Form Body: the name of an option is not valid in ja"


async def test_a_command_that_discord_refuses_is_named_with_the_reason_and_the_others_are_registered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[str] = []

    async def singly(_: object, __: int, payload: dict[str, Any]) -> None:
        if payload["name"] == "joke":
            response: Any = SimpleNamespace(status=400, reason="Bad Request")
            raise discord.HTTPException(response, {"message": INVALID, "code": 50035})
        registered.append(payload["name"])

    # The simulated Discord registers all commands together only.
    monkeypatch.setattr(discord.http.HTTPClient, "upsert_global_command", singly)
    async with open_world(ScriptedEngine(), tmp_path / "first") as world:
        world.env.inject_error("PUT", "/applications/*/commands", status=400, code=50035, message=INVALID)
        new = PunchlineBot(services=world.bot.services, data_dir=tmp_path / "second")
        caplog.clear()
        await world.env.restart_bot(new)
        assert {"joke", *registered} == {command.name for command in new.tree.get_commands()}
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 2
        assert f"not registered: /joke: 400 Bad Request (error code: 50035): {INVALID}" in errors[1]
        assert not (tmp_path / "second" / "commands.sha256").exists()
        assert refused(tmp_path / "second").startswith("/joke: 400 Bad Request")
        # The next start tries again, and has nothing more to tell then.
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path / "second"))
        assert refused(tmp_path / "second") == ""


async def test_commands_that_were_refused_and_are_as_before_again_are_registered_and_no_refusal_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def singly(_: object, __: int, ___: dict[str, Any]) -> None: ...

    monkeypatch.setattr(discord.http.HTTPClient, "upsert_global_command", singly)
    async with open_world(ScriptedEngine(), tmp_path) as world:
        changed = PunchlineBot(services=world.bot.services, data_dir=tmp_path)

        @changed.tree.command(description="New")
        async def news(interaction: discord.Interaction) -> None: ...

        world.env.inject_error("PUT", "/applications/*/commands", status=400, code=50035, message=INVALID)
        await world.env.restart_bot(changed)
        assert "50035" in refused(tmp_path)
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path))
        assert refused(tmp_path) == ""
        puts = [r for r in world.env.http_requests if r.method == "PUT" and r.path.endswith("/commands")]
        assert len(puts) == 3


async def test_a_refusal_of_all_commands_is_logged_with_discords_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(ScriptedEngine(), tmp_path / "first") as world:
        world.env.inject_error("PUT", "/applications/*/commands", status=403, code=20012, message="not yours")
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path / "second"))
        assert "error code: 20012): not yours" in caplog.text
        assert "error code: 20012): not yours" in refused(tmp_path / "second")


async def test_a_bug_in_a_command_is_a_sentence_with_a_reference_that_the_log_has_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:

        @world.bot.tree.command(description="Broken")
        async def broken(interaction: discord.Interaction) -> None:
            raise LookupError("a row of the ledger")

        await world.bot.tree.sync()
        result = await world.alice.slash(world.channel, "broken")
        assert result.ephemeral
        assert result.response is not None
        assert "ledger" not in result.response.content
        reference = result.response.content.rstrip(".").split()[-1]
        assert reference in caplog.text
        assert len(world.env.errors) == 1


async def test_an_answer_that_cannot_be_acknowledged_gives_its_place_back(tmp_path: Path) -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=(forever.wait,))
    async with open_world(engine, tmp_path) as world:
        world.env.inject_error("POST", "/interactions/*/callback", status=404, code=10062)
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.queue.running == 0)


async def test_what_a_model_thinks_is_not_shown_but_that_it_does_is(tmp_path: Path) -> None:
    gates = [asyncio.Event() for _ in range(2)]
    script = ("<thi", "nk>\nA pun on tables", gates[0].wait, " maybe.</think>\n\n", gates[1].wait, "Ha.")
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.pass_time(1.1)
        assert world.messages[0].content == "-# 💭 thinking…"
        for gate in gates:
            gate.set()
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("Ha.\n-# smol")
        assert not any("pun" in edit for edit in world.edits)


async def test_nothing_that_hides_or_reverses_text_is_in_an_answer_or_a_thought(tmp_path: Path) -> None:
    script = (
        "<think>a\u202e thou\u200bght</think>",
        "gpj.\u202e",
        "exe \x1b",
        "[31mred \U000e0041\u2066",
        "x\u2069",
    )
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("gpj.exe red x\n-# smol")
        thinking = await world.alice.click(world.messages[0], label="Thinking")
        assert thinking.response is not None
        assert thinking.response.content == "a thought"


async def test_a_model_that_only_thought_says_so(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(script=("<think>on and on",)), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        assert world.messages[0].content.startswith("*(The model thought about it, and said nothing.)*")


async def test_a_model_that_loops_does_not_fill_the_channel(tmp_path: Path) -> None:
    words = tuple(f"word{n:05d} " for n in range(3000))
    gate = asyncio.Event()
    async with open_world(
        ScriptedEngine(script=(*words[:2000], gate.wait, *words[2000:])), tmp_path
    ) as world:
        await world.alice.slash(world.channel, "ask", prompt="Say a lot")
        await world.until(lambda: len(world.messages) == 5)
        await world.pass_time(1.1)
        assert world.messages[4].content.endswith("-# 📄 the rest comes as a file")
        gate.set()
        await world.until(lambda: world.ended)
        assert len(world.messages) == 6
        (attached,) = world.messages[5].attachments
        assert attached.filename == "rest.md"
        rest = (await attached.read()).decode()
        shown = " ".join(message.content for message in world.messages[:5])
        assert f"{shown} {rest}".split() == "".join(words).split()
        assert world.messages[5].content.startswith("-# smol · 3000 tokens")


async def test_code_that_goes_on_in_the_next_message_is_code_there(tmp_path: Path) -> None:
    lines = [f"value_{n:03d} = {n}\n" for n in range(200)]
    script = ("Here:\n\n```python\n", *lines, "```\nThat is all.")
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt="Code, please")
        await world.until(lambda: world.ended)
        contents = [message.content for message in world.messages]
        assert len(contents) == 2
        assert contents[0].endswith("\n```")
        assert contents[1].startswith("```python\nvalue_")
        assert "```\nThat is all.\n-# smol" in contents[1]


async def test_a_long_explanation_under_a_full_page_is_not_lost(tmp_path: Path) -> None:
    engine = ScriptedEngine(
        script=("x" * 1830, ModelUnavailable("This went wrong, and here is why: " + "y" * 200))
    )
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        assert [message.content[:10] for message in world.messages] == ["x" * 10, "⚠️ This we"]


async def test_the_name_of_who_stops_an_answer_hides_nothing(tmp_path: Path) -> None:
    forever = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once", forever.wait)), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: "Once" in world.messages[0].content)
        (under_way,) = world.bot.services.answers.under_way
        stranger: Any = SimpleNamespace(display_name="\u202egnp.*exe*\u200b")
        under_way.reply.stop(presses._name_of(stranger))
        await world.until(lambda: world.ended)
        assert "stopped by gnp.\\*exe\\* ·" in world.messages[0].content
