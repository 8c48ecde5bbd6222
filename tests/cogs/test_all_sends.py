"""Whatever a model, a person or a catalogue writes, nothing that the bot sends deceives: a walk over all requests."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import regex
from simcord.backend.errors import SetupError

from bot.errors import HubUnreachable, ModelUnavailable
from bot.inference.accelerator import Accelerator
from bot.inference.scripted import ScriptedEngine
from bot.ops import machine_checks
from bot.ops.hub_checks import HubChecks
from bot.replies.details import as_json
from bot.replies.limits import safe
from bot.replies.pages import units
from tests.cogs.operator import administrator
from tests.inference.checkpoints import save_checkpoint
from tests.replies.discord_markdown import live
from tests.world import World, labels, open_world

HOSTILE = (
    "[your bank](https://evil.example) discord.gg/abc HTTPS://PTB.Discord.com/invite/abc <@11> <@&22> "
    "\x1b[31mred\u202etxt.exe\u200b\u2060 https://%64iscord.gg/abc"
)
HIDDEN = regex.compile(r"[^\P{Cc}\n\t]|[\u200b\u2060\ufeff\u00ad\u061c\u202a-\u202e\p{Cs}]")
_SHOWN = ("content", "title", "description", "name", "value", "text", "label", "placeholder")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("gemma", tmp_path_factory.mktemp("models") / "gemma")


def texts(body: Any) -> Iterator[tuple[str, str]]:
    """All that people see of a request, with what it is: content, a title, a label."""
    if isinstance(body, list):
        for one in body:
            yield from texts(one)
    elif isinstance(body, dict):
        for key, value in body.items():
            if key in _SHOWN and isinstance(value, str):
                yield key, value
            elif key not in ("allowed_mentions", "options") or isinstance(value, list):
                yield from texts(value)


def assert_harmless(world: World, *, names: tuple[int, ...] = ()) -> int:
    """Nothing that was sent deceives. Returns how many texts there were.

    Args:
        names: people and roles that may be shown by name: where the bot itself says whom it means.
    """
    count = 0
    for request in world.env.http_requests:
        if request.method not in ("POST", "PATCH", "PUT") or "/commands" in request.path:
            continue
        if not isinstance(request.json, dict):
            continue
        body = request.json.get("data") or request.json
        shown = list(texts(body))
        for kind, text in shown:
            assert HIDDEN.search(text) is None, (request.path, kind, text)
            if kind in ("content", "description", "value", "title", "text"):
                for own in names:
                    text = re.sub(rf"<@[!&]?{own}>", "", text)
                assert not live(text), (request.path, kind, text)
            count += 1
        if body.get("content") or body.get("embeds"):
            assert body.get("allowed_mentions") == {"parse": []}, (request.path, body)
    return count


def hostile_catalogue(folder: Path, source: Path) -> Path:
    own = folder / "models.toml"
    models = [
        f"[{alias}]\nsource = {json.dumps(str(source))}\ncontext_tokens = 128\ndescription = {json.dumps(said)}\n"
        for alias, said in (("tiny", HOSTILE[:100]), ("tiny2", HOSTILE[-100:]))
    ]
    own.write_text("\n".join(models))
    return own


async def test_nothing_that_a_model_writes_deceives_in_any_send(tmp_path: Path) -> None:
    script = ("<think>", *HOSTILE, "</think>", *HOSTILE, f"\n`{HOSTILE}`\n```\n{HOSTILE}\n``` ", HOSTILE * 30)
    async with open_world(ScriptedEngine(script=script), tmp_path) as world:
        await world.alice.slash(world.channel, "ask", prompt=HOSTILE)
        await world.until(lambda: world.ended)
        last = world.messages[-1]
        for label in ("Thinking", "Details", "Another model"):
            await world.alice.click(last, label=label)
        assert assert_harmless(world) > 3


async def test_no_error_deceives_whatever_it_quotes(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=("Once", ModelUnavailable(f"It says: {HOSTILE}")))
    async with open_world(engine, tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        assert "It says" in world.messages[0].content
        result = await world.alice.slash(world.channel, "joke", model=HOSTILE[:90])
        assert result.response is not None
        assert "There is no model" in result.response.content
        world.env.errors.clear()
        assert assert_harmless(world) > 2


async def test_no_name_of_a_person_or_a_file_deceives(tmp_path: Path) -> None:
    forever = asyncio.Event()
    async with open_world(ScriptedEngine(script=("Once", forever.wait)), tmp_path) as world:
        guild = world.channel.guild
        assert guild is not None and world.bot.user is not None
        named = guild.add_member(
            world.env.create_user("carol", global_name="discord.gg/abc [a](https://b.c)")
        )
        await world.env.settle()
        files = [("[x](https://evil.example) discord.gg\u202e.txt", b"x")]
        await named.send(world.channel, f"{world.bot.user.mention} what is this?", attachments=files)
        await world.until(lambda: bool(world.messages) and "Stop" in labels(world.messages[-1]))
        await named.click(world.messages[-1], label="Stop")
        await world.until(lambda: "Details" in labels(world.messages[-1]))
        assert "cannot read" in world.messages[-1].content
        await named.send(world.channel, world.bot.user.mention, attachments=files)
        assert assert_harmless(world) > 2


async def test_nothing_that_commands_show_deceives(tmp_path: Path, gemma: Path) -> None:
    own = hostile_catalogue(tmp_path, gemma)
    async with open_world(ScriptedEngine(), tmp_path, models_file=own) as world:
        admin = administrator(world)
        for command, options in (
            ("model list", {}),
            ("model show", {}),
            ("model set", {"model": "tiny"}),
            ("model inspect", {"model": "tiny"}),
            ("model offer", {"models": "tiny, tiny2"}),
            ("gpu", {}),
            ("panel", {}),
            ("queue", {}),
            ("reload", {}),
            ("access show", {}),
            ("drain", {"reason": HOSTILE[:100]}),
            ("joke", {}),
            ("resume", {}),
            ("joke", {"model": "tiny", "topic": HOSTILE[:100]}),
        ):
            await admin.slash(world.channel, command, **options)
            await world.pass_time(1)
        await world.until(lambda: world.queue.running == 0)
        choices = await admin.autocomplete(world.channel, "joke", "model", "")
        assert choices
        assert not any(HIDDEN.search(choice["name"]) for choice in choices)
        last = next(one for one in reversed(world.messages) if "Another model" in labels(one))
        await admin.click(last, label="Another model")
        world.env.errors.clear()
        assert assert_harmless(world, names=(admin.id, world.alice.id)) > 20


async def test_nothing_that_doctor_shows_deceives(
    tmp_path: Path, gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = hostile_catalogue(tmp_path, gemma)
    own.write_text(
        own.read_text()
        + "".join(
            f"[own{number}]\nsource = {json.dumps(f'/nowhere`{number} {HOSTILE}')}\n"
            f"context_tokens = 128\ndescription = {json.dumps(HOSTILE[:100])}\n"
            for number in range(4)
        )
    )

    async def said(_: HubChecks) -> str | None:
        raise HubUnreachable(f"The Hub says: {HOSTILE} ` {HOSTILE}")

    def broken() -> Accelerator:
        raise ImportError(f"{HOSTILE} `{HOSTILE}`")

    monkeypatch.setattr(HubChecks, "_ask", said)
    monkeypatch.setattr(HubChecks, "_access", lambda *_, **__: said(_[0]))
    monkeypatch.setattr(machine_checks, "read_accelerator", broken)
    async with open_world(ScriptedEngine(), tmp_path, models_file=own) as world:
        admin = administrator(world)
        result = await admin.slash(world.channel, "doctor")
        await world.until(lambda: bool(result.response and result.response.content))
        (message,) = world.channel.history(viewer=admin)
        pages = [message.content]
        with suppress(SetupError):  # the last page has no next one
            while len(pages) < 20:
                await admin.click(message, label="Next")
                (message,) = world.channel.history(viewer=admin)
                pages.append(message.content)
        assert len(pages) > 2
        assert "bank" in "".join(pages)
        assert assert_harmless(world) > len(pages)


async def test_descriptions_that_are_harmless_each_are_so_together(tmp_path: Path, gemma: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text(
        "".join(
            f"[{alias}]\nsource = {json.dumps(str(gemma))}\ncontext_tokens = 128\ndescription = {json.dumps(said)}\n"
            for alias, said in (("tiny", "a ` b"), ("tiny2", "`[x](https://e.x) <@1>`"))
        )
    )
    async with open_world(ScriptedEngine(), tmp_path, models_file=own) as world:
        await administrator(world).slash(world.channel, "model list")
        assert assert_harmless(world) > 0


@pytest.mark.parametrize("limit", [1, 7, 20, 100, 2000])
@pytest.mark.parametrize(
    "text",
    [HOSTILE, HOSTILE * 30, "discord.gg/a " * 200, "](https://a.b)" * 200, "<@1>" * 500, "`" + HOSTILE],
)
def test_a_text_that_is_cut_is_safe_and_fits(text: str, limit: int) -> None:
    shown = safe(text, limit)
    assert units(shown) <= limit
    assert not live(shown)
    assert HIDDEN.search(shown) is None


def test_a_document_is_exact_and_hides_nothing() -> None:
    document = {"answer": HOSTILE + "👩\u200d👩 é 漢\ud800\u2028"}
    text = as_json(document)
    assert json.loads(text) == document
    assert regex.search(r"[\p{Cc}\p{Cf}\p{Cs}--\n]", text, flags=regex.V1) is None
    assert "漢" in text
    assert as_json({"answer": "👩\u200d👩"}) == json.dumps(
        {"answer": "👩\u200d👩"}, indent=2, ensure_ascii=False
    )
