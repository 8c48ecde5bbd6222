"""What is encoded of a long conversation, how often, and when that ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.chat.messages import ChatMessage, Role
from bot.errors import GenerationTimeout, PromptTooLong
from bot.inference import chat_template
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import FinishReason, GenerationRequest
from bot.inference.generation import Generation
from bot.inference.loader import LoadedModel
from bot.inference.local import LocalEngine
from bot.inference.prompt_ids import EncodingStopped, prompt_ids
from bot.inference.prompting import renderer
from bot.inference.queue import InferenceQueue
from tests.inference import tiny
from tests.inference.checkpoints import save_checkpoint
from tests.inference.reading import ending, read

SYSTEM, USER, ASSISTANT = Role.SYSTEM, Role.USER, Role.ASSISTANT
CONTEXT_TOKENS = 512


class Counting(LoadedModel):
    """A model that notes what is encoded."""

    __slots__ = ("encoded",)
    encoded: list[int]  # the characters of each encoding

    def encode(self, messages: Sequence[ChatMessage], entry: ModelSpec | None = None) -> list[int]:
        self.encoded.append(sum(len(one.content) for one in messages))
        return LoadedModel.encode(self, messages)

    def count(self, text: str) -> int:
        self.encoded.append(len(text))
        return LoadedModel.count(self, text)


@cache
def _tokenizer(template: str | None) -> Any:
    return tiny.byte_level(chat_template=template)


def counting(template: str | None = tiny.CHATML, context_tokens: int = CONTEXT_TOKENS) -> Counting:
    tokenizer = _tokenizer(template)
    spec = ModelSpec(alias="tiny", source="embedded", context_tokens=context_tokens, description="a model")
    traits = None
    if template is not None:
        traits = chat_template.probe(renderer(tokenizer))
    none: Any = None
    loaded = Counting(spec, tokenizer, none, traits, (2,), context_tokens)
    object.__setattr__(loaded, "encoded", [])
    return loaded


def asked(messages: Sequence[ChatMessage], loaded: LoadedModel, tokens: int = 64) -> GenerationRequest:
    return GenerationRequest(loaded.spec, tuple(messages), SamplingParams(max_new_tokens=tokens))


def chain(*lengths: int) -> list[ChatMessage]:
    """A conversation of exchanges with questions of these lengths, and a question at its end."""
    exchanges = [
        (ChatMessage(USER, f"{n}" * length), ChatMessage(ASSISTANT, "a")) for n, length in enumerate(lengths)
    ]
    said = [message for exchange in exchanges for message in exchange]
    return [ChatMessage(SYSTEM, "sys"), *said, ChatMessage(USER, "And now?")]


@pytest.mark.parametrize("template", [tiny.CHATML, tiny.LLAMA_3, tiny.GEMMA_2, tiny.MIXTRAL_1, None])
def test_two_hundred_long_questions_are_encoded_a_few_times_and_not_once_for_each(
    template: str | None,
) -> None:
    loaded = counting(template, context_tokens=8_192)
    messages = chain(*[1_990] * 200)
    ids, _ = prompt_ids(loaded, asked(messages, loaded))
    assert 3 * 1_990 < len(ids) <= 8_192 - 64
    whole = sum(len(one.content) for one in messages)
    assert sum(loaded.encoded) < 3 * whole
    assert sum(size > whole / 2 for size in loaded.encoded) == 1


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 200), max_size=30),
    st.sampled_from([tiny.CHATML, tiny.LLAMA_3, tiny.GEMMA_2, tiny.MIXTRAL_1, tiny.PHI_3_EARLY]),
)
def test_as_much_of_a_conversation_is_read_as_fits(lengths: list[int], template: str) -> None:
    loaded = counting(template)
    messages = chain(*lengths)
    ids, limit = prompt_ids(loaded, asked(messages, loaded))
    assert limit == 64
    most = CONTEXT_TOKENS - 64
    assert len(ids) <= most
    places = [place for place, one in enumerate(messages) if one.role is USER]
    tails = [[messages[0], *messages[place:]] for place in places]
    read_tails = [tail for tail in tails if loaded.encode(tail) == ids]
    assert read_tails, "something else was read than the newest exchanges"
    fitting = [tail for tail in tails if len(loaded.encode(tail)) <= most]
    # Arithmetic may drop one exchange more than it must, where a template's own words weigh more than the exchange.
    assert len(fitting[0]) - len(read_tails[0]) <= 2


def test_a_last_question_that_alone_is_too_long_is_refused_with_its_tokens() -> None:
    loaded = counting()
    messages = [*chain(100, 100)[:-1], ChatMessage(USER, "x" * 600)]
    with pytest.raises(PromptTooLong, match="too long for tiny") as caught:
        prompt_ids(loaded, asked(messages, loaded))
    assert caught.value.tokens > 600


def test_nothing_more_is_encoded_once_it_is_stopped() -> None:
    loaded, stopped = counting(), threading.Event()
    encode = loaded.encode

    class Stopping(Counting):
        __slots__ = ()

        def encode(self, messages: Sequence[ChatMessage], entry: ModelSpec | None = None) -> list[int]:
            stopped.set()  # while it is at the first
            return encode(messages)

    stopping = Stopping(*(getattr(loaded, one.name) for one in fields(LoadedModel) if one.init))
    object.__setattr__(stopping, "encoded", loaded.encoded)
    with pytest.raises(EncodingStopped):
        prompt_ids(stopping, asked(chain(*[300] * 20), stopping), stopped)
    assert len(loaded.encoded) == 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("prompt") / "llama")


def ask(folder: Path, messages: Sequence[ChatMessage], tokens: int = 40) -> GenerationRequest:
    spec = ModelSpec(alias="tiny", source=str(folder), context_tokens=CONTEXT_TOKENS, description="a model")
    return GenerationRequest(
        spec, tuple(messages), SamplingParams(max_new_tokens=tokens, min_new_tokens=tokens, seed=1)
    )


async def until_charged(generation: Generation) -> None:
    async with asyncio.timeout(60):
        while not generation.usage.prompt_tokens:
            await asyncio.sleep(0.001)


async def test_a_prompt_that_is_stopped_while_it_is_read_has_cost_its_tokens_and_its_time(
    engine: LocalEngine, folder: Path
) -> None:
    async with InferenceQueue(engine, slots=4) as queue:
        await read(queue.submit(ask(folder, chain(3), tokens=1)))
        generation = queue.submit(ask(folder, chain(200, 150)))
        await until_charged(generation)
        generation.cancel()
        (end,) = [event for event in [await anext(generation)] if event is generation.finished]
    assert end.reason is FinishReason.CANCELLED
    assert end.usage.prompt_tokens > 350
    assert end.usage.completion_tokens == 0
    assert end.usage.generation_s > 0


async def test_a_prompt_that_is_too_long_has_cost_what_it_took_to_find_out(
    engine: LocalEngine, folder: Path
) -> None:
    async with InferenceQueue(engine, slots=4) as queue:
        end = ending(await read(queue.submit(ask(folder, [ChatMessage(USER, "x" * 600)]))))
    assert isinstance(end.error, PromptTooLong)
    assert end.usage.prompt_tokens > 600
    assert end.usage.generation_s > 0


async def test_encoding_ends_with_the_time_out_of_the_answer(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    encodings: list[int] = []
    encode = LoadedModel.encode

    def slow(self: LoadedModel, messages: Sequence[ChatMessage], entry: ModelSpec | None = None) -> list[int]:
        encodings.append(len(messages))
        begun.set()
        assert go_on.wait(60)
        return encode(self, messages, entry)

    async with InferenceQueue(engine, slots=4) as queue:
        await read(queue.submit(ask(folder, chain(3), tokens=1)))
        monkeypatch.setattr(LoadedModel, "encode", slow)
        generation = queue.submit(ask(folder, chain(*[300] * 20)))
        assert await asyncio.to_thread(begun.wait, 60)
        queue._generation_expired(generation)
        assert isinstance(ending(await read(generation)).error, GenerationTimeout)
        for _ in range(20):
            await asyncio.sleep(0)
        assert queue.running == 1  # its slot is not free while its thread is at work
        go_on.set()
        async with asyncio.timeout(60):
            while queue.running:
                await asyncio.sleep(0.01)
        # The queue hears of the result before the thread has quite ended.
        for thread in threading.enumerate():
            if thread.name == "prompt":
                await asyncio.to_thread(thread.join, 60)
                assert not thread.is_alive()
        assert len(encodings) == 1
