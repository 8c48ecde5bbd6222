"""Answers that go on: what was cut and continued is what was not cut, and a conversation always leaves room."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from bot.chat.messages import AnswerTokens, ChatMessage, Role
from bot.inference import batches
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import Finished, FinishReason, GenerationRequest
from bot.inference.local import LocalEngine
from bot.inference.queue import InferenceQueue
from bot.inference.tokenizers import fingerprint
from tests.inference import tiny
from tests.inference.checkpoints import save_checkpoint
from tests.inference.reading import ending, text_of
from tests.inference.saying import save_saying, spec_of, with_words
from tests.inference.stepping import alone, loaded_exactly

CONTEXT_TOKENS = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("qwen", tmp_path_factory.mktemp("checkpoint"), context_tokens=CONTEXT_TOKENS)


def test_an_answer_that_was_cut_and_continued_is_the_answer_that_was_not_cut(folder: Path) -> None:
    """In float32: in bfloat16, tokens that are read in one piece round otherwise than tokens written one by one."""
    loaded = loaded_exactly(folder)
    prompt = loaded.encode([ChatMessage(Role.USER, "What is a database?")])
    uncut = alone(loaded, prompt, 40)
    cut = alone(loaded, prompt, 15)
    assert cut == uncut[:15]
    assert alone(loaded, [*prompt, *cut], 25) == uncut[15:]


async def test_a_conversation_longer_than_the_context_is_answered_without_its_oldest_parts(
    engine: LocalEngine, folder: Path
) -> None:
    turn = (ChatMessage(Role.USER, "word " * 20), ChatMessage(Role.ASSISTANT, "ok " * 20))
    question = ChatMessage(Role.USER, "What is a database?")
    spec = ModelSpec(alias="tiny", source=str(folder), context_tokens=CONTEXT_TOKENS, description="a model")
    params = SamplingParams(max_new_tokens=8, min_new_tokens=8, temperature=0.0)
    async with (
        InferenceQueue(engine) as queue,
        queue.submit(GenerationRequest(spec, (*turn * 4, question), params)) as generation,
    ):
        events = [event async for event in generation]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.usage.completion_tokens) == (FinishReason.LENGTH, 8)
    assert CONTEXT_TOKENS / 2 < finished.usage.prompt_tokens <= CONTEXT_TOKENS - 8


def saying(folder: Path, tokenizer: PreTrainedTokenizerBase, says: Sequence[str], template: str) -> ModelSpec:
    return spec_of(save_saying(folder, tokenizer, says, template))


def asked(spec: ModelSpec, *said: ChatMessage, tokens: int) -> GenerationRequest:
    params = SamplingParams(temperature=0.0, max_new_tokens=tokens)
    return GenerationRequest(spec, (ChatMessage(Role.USER, "Why?"), *said), params)


async def in_parts(
    engine: LocalEngine, spec: ModelSpec, *cuts: int, keeps_ids: bool = True
) -> tuple[list[str], Finished]:
    """The text of an answer in parts of so many tokens, each going on from the ones before; and how the last ended."""
    parts: list[str] = []
    tokens = None
    for most in cuts:
        said = [ChatMessage(Role.ASSISTANT, "".join(parts), tokens=tokens)] if parts else []
        events = [event async for event in engine.generate(asked(spec, *said, tokens=most))]
        parts.append(text_of(events))
        tokens = ending(events).tokens if keeps_ids else None
    return parts, ending(events)


WAYS = pytest.mark.parametrize("together", [True, False], ids=["in-a-batch", "one-at-a-time"])


@pytest.fixture
def answers(engine: LocalEngine, together: bool, monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    """An engine that answers in a batch, or takes each model for one that cannot be batched."""
    if not together:
        monkeypatch.setattr(batches, "is_batchable", lambda _: False)
    return engine


METASPACE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}tells{% endif %}"


@WAYS
@pytest.mark.parametrize("keeps_ids", [True, False], ids=["ids", "text"])
async def test_a_word_that_begins_with_its_space_keeps_it_where_an_answer_goes_on(
    answers: LocalEngine, tmp_path: Path, keeps_ids: bool
) -> None:
    tokenizer = tiny.sentencepiece_like("Hello", "world", "a", "model", "tells", "jokes")
    spec = saying(tmp_path / "saying", tokenizer, ["▁Hello", "▁world", "▁a", "▁model"], METASPACE)
    parts, finished = await in_parts(answers, spec, 1, 1, 9, keeps_ids=keeps_ids)
    assert parts == ["Hello", " world", " a model"]
    assert finished.reason is FinishReason.STOP
    assert finished.tokens is None


def named(text: str) -> list[str]:
    """The tokens of a text that are a byte each."""
    return [tiny.BYTE_NAMES[byte] for byte in text.encode()]


@WAYS
@pytest.mark.parametrize("cuts", [(4, 9), (3, 1, 9), (3, 2, 9), (2, 1, 1, 1, 1, 9)], ids=str)
async def test_an_emoji_that_is_cut_in_half_is_there_whole_when_the_answer_goes_on(
    answers: LocalEngine, tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    spec = saying(tmp_path / "saying", tiny.byte_level(), named("ok😂!"), tiny.CHATML)
    parts, _ = await in_parts(answers, spec, *cuts)
    assert "".join(parts) == "ok😂!"
    assert parts[0] == "ok"
    assert [part for part in parts if part] in (["ok", "😂!"], ["ok", "😂", "!"])


@WAYS
@pytest.mark.parametrize(
    "tail", ["é", "漢", "👍🏽", "ℤ", "½"], ids=["2-bytes", "3-bytes", "2-emoji", "letter", "fraction"]
)
async def test_no_character_is_cut_wherever_the_limit_is(
    answers: LocalEngine, tmp_path: Path, tail: str
) -> None:
    says = list(dict.fromkeys(named(f"ok{tail}!")))  # a token is followed by the same one each time
    whole = bytes(byte for name in says for byte, its in tiny.BYTE_NAMES.items() if its == name).decode(
        errors="ignore"
    )
    spec = saying(tmp_path / "saying", tiny.byte_level(), says, tiny.CHATML)
    for cut in range(1, len(says)):
        parts, _ = await in_parts(answers, spec, cut, 30)
        assert "\N{REPLACEMENT CHARACTER}" not in parts[0]
        assert "".join(parts).replace("\N{REPLACEMENT CHARACTER}", "") == whole


@WAYS
async def test_a_character_that_the_model_itself_leaves_unfinished_is_shown_as_what_it_is(
    answers: LocalEngine, tmp_path: Path
) -> None:
    spec = saying(tmp_path / "saying", tiny.byte_level(), named("ok😂")[:4], tiny.CHATML)
    parts, finished = await in_parts(answers, spec, 30)
    assert parts == ["ok\N{REPLACEMENT CHARACTER}"]
    assert finished.reason is FinishReason.STOP


@WAYS
async def test_the_ids_of_an_answer_that_was_cut_are_all_that_the_model_wrote(
    answers: LocalEngine, tmp_path: Path
) -> None:
    tokenizer = tiny.byte_level()
    spec = saying(tmp_path / "saying", tokenizer, named("ok😂!"), tiny.CHATML)
    _, finished = await in_parts(answers, spec, 2, 3)
    assert finished.reason is FinishReason.LENGTH
    assert finished.tokens is not None
    assert finished.tokens.ids == tuple(tiny.id_of(tokenizer, name) for name in named("ok😂")[:5])
    assert finished.usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("vocabulary", "ids"),
    [("another", (1, 2, 3)), (None, (10**6,)), (None, (5, 512))],
    ids=["of-another-model", "far-beyond-the-embedding", "just-beyond-the-embedding"],
)
async def test_ids_that_are_none_of_this_model_are_not_read_and_the_text_is(
    engine: LocalEngine, tmp_path: Path, vocabulary: str | None, ids: tuple[int, ...]
) -> None:
    spec = saying(tmp_path / "saying", tiny.byte_level(), named("ok!"), tiny.CHATML)
    _, cut = await in_parts(engine, spec, 1)
    assert cut.tokens is not None
    tokens = AnswerTokens(vocabulary or cut.tokens.vocabulary, ids)
    said = ChatMessage(Role.ASSISTANT, "o", tokens=tokens)
    events = [event async for event in engine.generate(asked(spec, said, tokens=9))]
    assert text_of(events) == "k!"
    assert ending(events).usage.prompt_tokens == cut.usage.prompt_tokens + 1


async def test_another_model_goes_on_from_the_text_with_the_space_that_its_own_words_have(
    engine: LocalEngine, tmp_path: Path
) -> None:
    words = ("Hello", "world", "a", "model", "tells", "jokes")
    first = saying(tmp_path / "first", tiny.sentencepiece_like(*words), ["▁Hello", "▁world"], METASPACE)
    other = tiny.sentencepiece_like("more", *words)
    second = saying(tmp_path / "second", other, ["▁Hello", "▁jokes"], METASPACE)
    _, cut = await in_parts(engine, first, 1)
    said = ChatMessage(Role.ASSISTANT, "Hello", tokens=cut.tokens)
    events = [event async for event in engine.generate(asked(second, said, tokens=9))]
    assert text_of(events) == " jokes"


def test_tokenizers_share_a_fingerprint_exactly_if_their_ids_mean_the_same() -> None:
    same = fingerprint(tiny.byte_level(chat_template=tiny.CHATML))
    assert fingerprint(tiny.byte_level(chat_template=tiny.LLAMA_3)) == same
    others = [
        tiny.byte_level("ab ab", merges=1),
        with_words(tiny.byte_level(), "<tool>"),
        with_words(tiny.byte_level(), special=["<tool>"]),
        tiny.sentencepiece_like("a"),
        tiny.byte_level_across("😂"),
    ]
    assert len({same, *map(fingerprint, others)}) == 6


@WAYS
async def test_a_thought_that_was_cut_goes_on_as_a_thought(answers: LocalEngine, tmp_path: Path) -> None:
    opened = tiny.CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    tokenizer = with_words(tiny.byte_level(), "Hm", " so", ".\n", "</think>", "\n\nHa", "!")
    says = ["Hm", " so", ".\n", "</think>", "\n\nHa", "!"]
    spec = saying(tmp_path / "saying", tokenizer, says, opened)
    for keeps_ids in (True, False):
        parts, _ = await in_parts(answers, spec, 1, 3, 1, 9, keeps_ids=keeps_ids)
        assert parts == ["<think>\nHm", " so.\n</think>", "\n\nHa", "!"]
