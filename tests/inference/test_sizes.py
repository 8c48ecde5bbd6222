"""A GPU that has room gives everybody a context of their own; it goes back when another model needs the room."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from bot.chat.messages import ChatMessage, Role
from bot.inference import sizes
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import GenerationRequest, TextDelta
from bot.inference.loader import ModelLoader
from bot.inference.local import LocalEngine
from bot.inference.queue import InferenceQueue
from bot.inference.sizes import full_cache_tokens, step_tokens_of, token_bytes
from tests.inference.checkpoints import called, save_checkpoint
from tests.inference.reading import ending, read
from tests.inference.stepping import Stepped, loaded_exactly

CONTEXT_TOKENS = 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("sizes") / "llama")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models are taken for a GPU's."""
    monkeypatch.setattr(sizes, "is_on_gpu", lambda _: True)


def ask(folder: Path, alias: str = "one", tokens: int = 8) -> GenerationRequest:
    spec = ModelSpec(
        alias=alias,
        source=str(called(alias, folder)),
        context_tokens=CONTEXT_TOKENS,
        quantization="none",
        description="a model",
    )
    how = SamplingParams(max_new_tokens=tokens, min_new_tokens=tokens, temperature=1.0, seed=1)
    return GenerationRequest(spec, (ChatMessage(Role.USER, "Hi"),), how)


def cache_tokens(engine: LocalEngine) -> dict[str, int]:
    return {loaded.spec.alias: batch.cache_tokens for loaded, batch in engine._batches._all.items()}


def test_on_the_cpu_the_cache_is_one_context_and_pieces_are_small(folder: Path) -> None:
    model = loaded_exactly(folder).model
    assert full_cache_tokens(model, 8192, 16, 10**12) == 8192
    assert step_tokens_of(model) == 256


def test_on_a_gpu_the_cache_is_what_there_is_room_for_up_to_a_context_for_each(
    folder: Path, gpu: None
) -> None:
    model = loaded_exactly(folder).model
    one = token_bytes(model)
    assert full_cache_tokens(model, 8192, 16, 10**12) == 16 * 8192
    assert full_cache_tokens(model, 8192, 16, 1000 * one) == 8192 + 800
    assert full_cache_tokens(model, 8192, 16, -(10**9)) == 8192  # its own was reserved
    assert step_tokens_of(model) == 1024


def test_a_token_is_counted_with_all_that_is_made_for_it(folder: Path) -> None:
    """Two caches that differ by so many tokens differ by as many bytes, but for what is read for a layer at a time."""
    loaded = loaded_exactly(folder)

    def held_bytes(tokens: int) -> int:
        batch = Stepped(loaded, step_tokens=256)
        batch.manager.continuous_batching_config.num_blocks = tokens // 32
        batch.manager.batch_processor = None
        processor = batch.manager._create_batch_processor()
        io, cache = processor.inputs_and_outputs, processor.cache
        made = [cache.cache_tensor, io.read_index_storage]
        return sum(tensor.numel() * tensor.element_size() for tensor in made)

    grown = held_bytes(32 * 64) - held_bytes(32 * 32)
    config: Any = loaded.model.config
    read = (2 * config.num_attention_heads + config.num_key_value_heads) * config.head_dim
    read *= loaded.model.dtype.itemsize
    assert 32 * 32 * (token_bytes(loaded.model) - read) == grown


async def test_everybody_has_a_context_until_another_model_comes_and_nobody_loses_a_word(
    folder: Path, tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = ask(folder, tokens=100), ask(folder, "other")
    loader = ModelLoader(tmp_path)
    engine = LocalEngine(loader, budget_bytes=10**9, batch_requests=4)
    async with InferenceQueue(engine, slots=4) as queue:
        await read(queue.submit(ask(folder)))
        assert cache_tokens(engine) == {"one": 4 * CONTEXT_TOKENS}
        need_bytes = engine.pool.report().reserved_bytes
        # Room for both with a context each, and for no more.
        engine.pool._budget_bytes = int(2.1 * need_bytes)
        async with queue.submit(one) as generation:
            async for event in generation:
                if isinstance(event, TextDelta):
                    break
            before = dict(engine._batches._all)
            waiting = queue.submit(other)
            finished = ending([event async for event in generation])
        assert finished.error is None
        assert finished.usage.completion_tokens == 100
        assert all(engine._batches._all.get(loaded) is not batch for loaded, batch in before.items())
        assert ending(await read(waiting)).error is None
        assert cache_tokens(engine)["one"] < 2 * CONTEXT_TOKENS
        engine.pool._budget_bytes = 10**9
        assert ending(await read(queue.submit(ask(folder)))).error is None
        assert cache_tokens(engine)["one"] == 4 * CONTEXT_TOKENS  # there is room again
    await engine.aclose()


async def test_a_model_that_fits_beside_the_larger_cache_takes_nothing_from_it(
    folder: Path, tmp_path: Path, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = PagedAttentionCache.__init__

    def counted(cache: Any, *args: Any, **kwargs: Any) -> None:
        made.append(1)
        make(cache, *args, **kwargs)

    monkeypatch.setattr(PagedAttentionCache, "__init__", counted)
    engine = LocalEngine(ModelLoader(tmp_path), budget_bytes=10**9, batch_requests=4)
    async with InferenceQueue(engine, slots=4) as queue:
        for asked in (ask(folder), ask(folder, "other"), ask(folder), ask(folder, "other")):
            assert ending(await asyncio.wait_for(read(queue.submit(asked)), 60)).error is None
    assert len(made) == 2
    assert cache_tokens(engine) == {"one": 4 * CONTEXT_TOKENS, "other": 4 * CONTEXT_TOKENS}
    await engine.aclose()
