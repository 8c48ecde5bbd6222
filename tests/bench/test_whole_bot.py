"""`bench` waits for an answer's end and not for words, and says so when an answer does not come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from bot.bench import joining as joining_module
from bot.bench import whole_bot
from bot.bench.joining import joining
from bot.bench.whole_bot import running
from bot.bench.work import Timeline, Work
from bot.errors import BotError, ModelUnavailable
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import Event, Finished, FinishReason, GenerationRequest, TextDelta, Usage
from bot.inference.scripted import ScriptedEngine
from bot.settings import Settings, load_settings

WORK = Work.of(SamplingParams(temperature=0.5), 3)


class Wordless(ScriptedEngine):
    """The first token of an answer is a word; the others are special tokens, which have no text."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        yield TextDelta("Once", Usage(8, 1, 0.01, 0.01))
        yield Finished(FinishReason.LENGTH, Usage(8, request.params.max_new_tokens, 0.01, 0.1))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, data_dir=tmp_path, cache_dir=tmp_path, default_model="smol")


async def test_an_answer_whose_last_tokens_have_no_text_has_ended(settings: Settings) -> None:
    async with running(settings, Wordless(), WORK, "smol") as bot, asyncio.timeout(60):
        row = await bot.ask(3, "once")
    assert row.users == 3
    assert row.tokens_per_second > 0


async def test_an_answer_that_fails_is_a_sentence_and_no_wait(settings: Settings) -> None:
    engine = ScriptedEngine(script=("Once", ModelUnavailable("its files are damaged.")))
    async with running(settings, engine, WORK, "smol") as bot, asyncio.timeout(60):
        with pytest.raises(BotError, match=r"2 of 2 answers ended after 1 of 3 tokens"):
            await bot.ask(2, "once")


async def test_a_model_that_says_nothing_any_more_is_a_sentence(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_bot, "STALL_S", 0.2)
    forever = asyncio.Event()
    async with running(settings, ScriptedEngine(script=(forever.wait,)), WORK, "smol") as bot:
        with pytest.raises(BotError, match="No token came for"):
            await bot.ask(1, "once")


def test_tokens_that_came_together_are_counted_and_those_that_are_no_news_are_not() -> None:
    timeline = Timeline(0.0)
    for at_s, count in ((1.0, 1), (2.0, 4), (2.5, 4), (3.0, 5)):
        timeline.note(at_s, count)
    assert timeline.tokens == [(1.0, 1), (2.0, 4), (3.0, 5)]
    assert (timeline.count, timeline.since_s(2), timeline.since_s(5)) == (5, 2.0, 3.0)


class Talking(ScriptedEngine):
    """Every third token is a special one, without text; all come at their time."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        tokens = request.params.max_new_tokens
        for count in range(1, tokens + 1):
            await asyncio.sleep(0.001)
            if count % 3:
                yield TextDelta("a", Usage(8, count, 0.001, 0.001 * count))
        yield Finished(FinishReason.LENGTH, Usage(8, tokens, 0.001, 0.001 * tokens))


SPEC = ModelSpec(alias="tiny", source="/models/tiny", context_tokens=4096, description="a model")


async def test_who_joins_is_measured_beside_answers_of_which_not_every_token_has_text() -> None:
    async with asyncio.timeout(60):
        short, long = await joining(Talking(), SPEC)
    assert short.first_token_s > 0
    assert long.step_s > 0


async def test_answers_that_end_before_anybody_has_joined_are_a_sentence() -> None:
    async with asyncio.timeout(60):
        with pytest.raises(BotError, match="ended before the last one had joined"):
            await joining(ScriptedEngine(), SPEC)


async def test_a_model_that_stops_talking_while_one_joins_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joining_module, "_STALL_S", 0.1)
    with pytest.raises(BotError, match="No token came"):
        await joining(ScriptedEngine(script=(asyncio.Event().wait,)), SPEC)
