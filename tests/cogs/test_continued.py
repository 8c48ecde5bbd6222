"""Answers of real models that are cut, go on and are asked about: thoughts stay apart, and no character is lost."""

from __future__ import annotations

import io
import json
import logging
import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import discord
import pytest
from transformers import PreTrainedTokenizerBase

from bot.chat.messages import Role
from bot.client import PunchlineBot
from bot.inference.catalog import load_catalog
from bot.inference.engine import GenerationRequest
from bot.inference.loader import ModelLoader
from bot.inference.local import LocalEngine
from bot.inference.tokenizers import fingerprint
from bot.ops.logs import configure_logging
from tests.inference import tiny
from tests.inference.saying import save_saying, with_words
from tests.world import World, labels, open_world

OPENED = tiny.CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
METASPACE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}tells{% endif %}"


class Overheard(LocalEngine):
    """Remembers what it was asked."""

    asked: list[GenerationRequest]

    async def generate(self, request: GenerationRequest) -> Any:
        self.asked.append(request)
        async for event in super().generate(request):
            yield event


@asynccontextmanager
async def answering(
    folder: Path, tokenizer: PreTrainedTokenizerBase, says: Sequence[str], template: str, **settings: Any
) -> AsyncIterator[tuple[World, Overheard]]:
    """The bot with a model that says this."""
    save_saying(folder / "model", tokenizer, says, template)
    models = folder / "models.toml"
    entry = {
        "source": str(folder / "model"),
        "quantization": "none",
        "context_tokens": 512,
        "description": "-",
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in entry.items()]
    models.write_text(
        "\n".join(["[smol]", *lines, "[smol.sampling]", "temperature = 0", ""]), encoding="utf-8"
    )
    engine = Overheard(ModelLoader(folder), budget_bytes=10**9)
    engine.asked = []
    try:
        async with open_world(engine, folder, models_file=models, **settings) as world:
            yield world, engine
    finally:
        await engine.aclose()


def answers(world: World) -> list[discord.Message]:
    return [one for one in world.messages if one.author.bot]


async def ended(world: World, number: int) -> str:
    """Wait for this many answers; the last one's text without the line under it."""

    def all_ended() -> bool:
        return len(answers(world)) == number and all("Details" in labels(one) for one in answers(world))

    await world.until(all_ended)
    return answers(world)[-1].content.rpartition("\n-# ")[0]


async def thoughts(world: World, message: discord.Message) -> str:
    result = await world.alice.click(message, label="Thinking")
    assert result.response is not None
    return str(result.response.content)


async def test_a_thought_that_the_prompt_opens_is_no_part_of_the_answer_of_what_is_kept_or_of_what_is_asked_next(
    tmp_path: Path,
) -> None:
    words = ["Secret", " plan.\n", "</think>", "\n\nHa", " ha."]
    tokenizer = with_words(tiny.byte_level(), *words)
    async with answering(tmp_path, tokenizer, words, OPENED) as (world, engine):
        await world.alice.slash(world.channel, "ask", prompt="Why?")
        assert await ended(world, 1) == "Ha ha."
        assert not any("Secret" in edit for edit in world.edits)
        assert await thoughts(world, world.messages[0]) == "Secret plan."
        assert world.bot.user is not None
        asked = f"{world.bot.user.mention} And why?"
        await world.alice.send(world.channel, asked, reply_to=world.messages[0])
        await ended(world, 2)
        said = [one.content for one in engine.asked[1].messages if one.role is Role.ASSISTANT]
        assert said == ["Ha ha."]


@pytest.mark.parametrize("restart", [False, True])
async def test_a_thought_that_is_cut_goes_on_as_one_until_the_answer_comes(
    tmp_path: Path, restart: bool
) -> None:
    words = ["Secret", " plan", ".\n", "</think>", "\n\nHa", " ha."]
    tokenizer = with_words(tiny.byte_level(), *words)
    async with answering(tmp_path, tokenizer, words, OPENED, max_new_tokens=2) as (world, _):
        await world.alice.slash(world.channel, "ask", prompt="Why?")
        assert "thought about it" in await ended(world, 1)
        if restart:
            await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path))
        await world.alice.click(world.messages[0], label="Continue")
        await ended(world, 2)
        assert not any("Secret" in edit or "plan" in edit for edit in world.edits)
        await world.alice.click(world.messages[1], label="Continue")
        assert await ended(world, 3) == "Ha ha."
        assert await thoughts(world, world.messages[1]) == "Secret plan."


async def test_an_answer_goes_on_with_the_space_before_its_next_word(tmp_path: Path) -> None:
    tokenizer = tiny.sentencepiece_like("Hello", "world", "a", "model", "tells", "jokes")
    says = ["▁Hello", "▁world", "▁a", "▁model"]
    async with answering(tmp_path, tokenizer, says, METASPACE, max_new_tokens=1) as (world, _):
        await world.alice.slash(world.channel, "ask", prompt="Why?")
        assert await ended(world, 1) == "Hello"
        for number, expected in ((2, "world"), (3, "a")):
            await world.alice.click(world.messages[-1], label="Continue")
            assert await ended(world, number) == expected
        details = await world.alice.click(world.messages[-1], label="Details")
        assert details.response is not None
        document = json.loads(await details.response.attachments[0].read())
        assert document["messages"][-1] == {"role": "assistant", "content": "Hello world"}
        assert document["answer"] == " a"


async def test_an_emoji_that_the_limit_cuts_comes_whole_when_the_answer_goes_on(tmp_path: Path) -> None:
    says = [tiny.BYTE_NAMES[byte] for byte in "ok😂!".encode()]
    async with answering(tmp_path, tiny.byte_level(), says, tiny.CHATML, max_new_tokens=4) as (world, _):
        await world.alice.slash(world.channel, "ask", prompt="Why?")
        assert await ended(world, 1) == "ok"
        await world.alice.click(world.messages[0], label="Continue")
        assert await ended(world, 2) == "😂!"
        assert "Continue" not in labels(world.messages[1])
        # What was continued can be had again from the same place.
        await world.alice.click(world.messages[1], label="Regenerate")
        assert await ended(world, 3) == "😂!"


async def test_another_model_under_the_same_name_goes_on_from_the_text(tmp_path: Path) -> None:
    words = ("Hello", "world", "a", "model", "tells", "jokes")
    says = ["▁Hello", "▁world"]
    async with answering(tmp_path, tiny.sentencepiece_like(*words), says, METASPACE, max_new_tokens=1) as (
        world,
        engine,
    ):
        await world.alice.slash(world.channel, "ask", prompt="Why?")
        assert await ended(world, 1) == "Hello"
        other = tiny.sentencepiece_like("more", *words)
        models = tmp_path / "models.toml"
        save_saying(tmp_path / "other", other, ["▁Hello", "▁jokes"], METASPACE)
        models.write_text(models.read_text().replace(f"{tmp_path}/model", f"{tmp_path}/other"))
        world.bot.services.chooser._catalog.become(load_catalog(models))
        await world.alice.click(world.messages[0], label="Continue")
        assert await ended(world, 2) == "jokes"
        assert engine.asked[1].model.source == str(tmp_path / "other")


async def test_token_ids_are_kept_with_the_answer_shown_to_nobody_and_deleted_with_it(tmp_path: Path) -> None:
    says = [tiny.BYTE_NAMES[byte] for byte in b"ok!"]
    async with answering(tmp_path, tiny.byte_level(), says, tiny.CHATML, max_new_tokens=2) as (world, _):
        await world.alice.slash(world.channel, "ask", prompt="Why?")
        await ended(world, 1)

        def kept() -> list[Any]:
            with sqlite3.connect(tmp_path / "punchline.sqlite3") as connection:
                rows = [json.loads(row[0]) for row in connection.execute("SELECT tokens FROM replies")]
            connection.close()
            return rows

        (row,) = kept()
        assert row["ids"] == [tiny.id_of(tiny.byte_level(), name) for name in says[:2]]
        assert row["said"] == 0
        for person in (world.alice, world.bob):
            details = await person.click(world.messages[0], label="Details")
            assert details.response is not None
            shown = [await one.read() for one in details.response.attachments]
            assert row["vocabulary"] not in f"{details.response.embeds[0].to_dict()}{shown}"
        await world.bot.services.archive._replies.forget(older_than_days=-1)
        assert kept() == []


@pytest.mark.parametrize("form", ["text", "json"])
async def test_token_ids_are_in_no_line_of_the_log_at_any_level(tmp_path: Path, form: Any) -> None:
    says = [tiny.BYTE_NAMES[byte] for byte in b"jokes!"]
    stream = io.StringIO()
    configure_logging("DEBUG", (), stream, form=form)
    try:
        async with answering(tmp_path, tiny.byte_level(), says, tiny.CHATML, max_new_tokens=3) as (world, _):
            await world.alice.slash(world.channel, "ask", prompt="Why?")
            await ended(world, 1)
            await world.alice.click(world.messages[0], label="Continue")
            assert await ended(world, 2) == "es!"
    finally:
        logging.getLogger().handlers.clear()
    text = stream.getvalue()
    assert "bot.answers" in text
    tokenizer = tiny.byte_level()
    assert fingerprint(tokenizer) not in text
    for words in ("jok", "es!", "Why?"):
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
        assert re.search(r"\D+".join(map(str, ids)), text) is None
