"""Answers that go on: what was cut and continued is what was not cut, and a conversation always leaves room."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.chat.messages import ChatMessage, Role
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import Finished, FinishReason, GenerationRequest
from bot.inference.local import LocalEngine
from bot.inference.queue import InferenceQueue
from tests.inference.checkpoints import save_checkpoint
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
