"""Memory runs out in a step: what it held is free before anything else is made, and who goes on makes do with less."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.continuous_api import (
    BackgroundThreadStatus,
    ContinuousBatchingManager,
)

from bot.chat.messages import ChatMessage, Role
from bot.errors import OutOfMemory
from bot.inference import batches, device
from bot.inference.batch import Batch
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import GenerationRequest, TextDelta
from bot.inference.local import LocalEngine
from bot.inference.queue import InferenceQueue
from bot.inference.sizes import sparing_cache_tokens
from tests.inference.checkpoints import called, save_checkpoint
from tests.inference.reading import ending, read

CONTEXT_TOKENS = 160
SHORT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("short") / "llama")


def ask(folder: Path, question: str = "Hi", alias: str = "tiny", tokens: int = 8) -> GenerationRequest:
    spec = ModelSpec(
        alias=alias,
        source=str(called(alias, folder)),
        context_tokens=CONTEXT_TOKENS,
        quantization="none",
        description="a model",
    )
    how = {"max_new_tokens": tokens, "min_new_tokens": tokens, "temperature": 1.0, "seed": 1}
    return GenerationRequest(spec, (ChatMessage(Role.USER, question),), SamplingParams.model_validate(how))


def batch_of(engine: LocalEngine) -> Batch:
    (batch,) = engine._batches._all.values()
    return batch


def batch_for(engine: LocalEngine, alias: str) -> Batch:
    return next(batch for loaded, batch in engine._batches._all.items() if loaded.spec.alias == alias)


class Caches:
    """The caches that are made, and which of those before were still there when one was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[weakref.ref[Any]] = []
        self.still_there: list[int] = []
        self.tokens: list[int] = []
        make = PagedAttentionCache.__init__

        def watched(cache: Any, *args: Any, **kwargs: Any) -> None:
            self.still_there.append(self.alive())
            make(cache, *args, **kwargs)
            self.made.append(weakref.ref(cache.cache_tensor))
            self.tokens.append(cache.num_blocks * kwargs["continuous_batching_config"].page_size)

        monkeypatch.setattr(PagedAttentionCache, "__init__", watched)

    def alive(self) -> int:
        return sum(tensor() is not None for tensor in self.made)


def fail_at(monkeypatch: pytest.MonkeyPatch, engine: LocalEngine, asked: GenerationRequest, *at: int) -> None:
    """Have these forward passes of the model run out of memory, with a large tensor of their own in hand."""
    with engine.pool.lease(asked.model) as loaded:
        model: Any = loaded.model
    forward, calls = model.forward, iter(range(1, 10_000))

    def failing(*args: Any, **kwargs: Any) -> Any:
        working = torch.zeros(1_000_000)
        if next(calls) in at:
            raise SHORT
        del working
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", failing)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing is freed by looking for cycles but where the bot itself asks for that."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_the_old_cache_is_gone_before_room_is_made_and_before_there_is_another(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch, uncollected: None
) -> None:
    caches = Caches(monkeypatch)
    at_room: list[int] = []
    unload_idle = engine.pool.unload_idle

    async def looked_at() -> None:
        at_room.append(caches.alive())
        await unload_idle()

    monkeypatch.setattr(engine.pool, "unload_idle", looked_at)
    asked = [ask(folder, f"Question {n}") for n in range(3)]
    async with InferenceQueue(engine, slots=4) as queue:
        await read(queue.submit(asked[0]))
        fail_at(monkeypatch, engine, asked[0], 3)
        everybody = await asyncio.gather(*(read(queue.submit(one)) for one in asked))
    assert [ending(events).error for events in everybody] == [None] * 3
    assert [ending(events).usage.completion_tokens for events in everybody] == [8] * 3
    assert at_room == [0]  # once for all three
    assert caches.still_there == [0, 0]


async def test_who_comes_before_those_who_ran_out_are_back_has_room_made_too(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch, uncollected: None
) -> None:
    caches = Caches(monkeypatch)
    asked = ask(folder, tokens=40)
    give_up, gave_up = engine._batches._give_up, asyncio.Event()

    async def late(*args: Any, **kwargs: Any) -> None:
        await gave_up.wait()
        await give_up(*args, **kwargs)

    monkeypatch.setattr(engine._batches, "_give_up", late)
    async with InferenceQueue(engine, slots=4) as queue:
        await read(queue.submit(ask(folder, alias="idle")))
        await read(queue.submit(ask(folder)))
        fail_at(monkeypatch, engine, asked, 3)
        first = queue.submit(asked)
        while not batch_for(engine, "tiny").is_broken:
            await asyncio.sleep(0)
        newcomer = ending(await read(queue.submit(ask(folder, "And me?"))))
        assert [one.alias for one in engine.memory().residents] == ["tiny"]
        gave_up.set()
        finished = ending(await read(first))
    assert (newcomer.error, finished.error) == (None, None)
    assert finished.usage.completion_tokens == 40
    assert caches.still_there[2:] == [0]


async def test_who_comes_while_a_batch_fails_is_answered_by_the_next_one(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(folder, tokens=40)
    fails, heard_of_another = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    record, add = BackgroundThreadStatus.record_fatal_error, Batch._add

    def recorded_late(status: Any, error: Exception) -> None:
        """Until then it takes nobody in, and does not say why."""
        loop.call_soon_threadsafe(fails.set)
        assert heard_of_another.wait(20)
        record(status, error)

    def added(*args: Any) -> Any:
        try:
            return add(*args)
        finally:
            if fails.is_set():
                heard_of_another.set()

    monkeypatch.setattr(BackgroundThreadStatus, "record_fatal_error", recorded_late)
    monkeypatch.setattr(Batch, "_add", added)
    async with InferenceQueue(engine, slots=4) as queue:
        await read(queue.submit(ask(folder)))
        fail_at(monkeypatch, engine, asked, 3)
        first = asyncio.create_task(read(queue.submit(asked)))
        await asyncio.wait_for(fails.wait(), 20)
        newcomer = ending(await read(queue.submit(ask(folder, "And me?"))))
        finished = ending(await first)
    assert (newcomer.error, finished.error) == (None, None)
    assert finished.usage.completion_tokens == 40


async def test_who_is_left_has_room_made_when_the_first_to_give_up_is_stopped_in_the_middle(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [ask(folder, f"Question {n}", tokens=40 + n) for n in range(2)]
    gave_up: list[int] = []
    give_up, free = engine._batches._give_up, device.free_memory
    frees, has_left = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def noted(loaded: Any, batch: Any, answer: Any, **options: Any) -> None:
        gave_up.append(answer.draw.params.max_new_tokens - 40)
        await give_up(loaded, batch, answer, **options)

    def slowly() -> None:
        loop.call_soon_threadsafe(frees.set)
        assert has_left.wait(20)
        free()

    async with InferenceQueue(engine, slots=4) as queue:
        await read(queue.submit(ask(folder, alias="idle")))
        await read(queue.submit(ask(folder)))
        fail_at(monkeypatch, engine, asked[0], 4)
        monkeypatch.setattr(engine._batches, "_give_up", noted)
        monkeypatch.setattr(batches, "free_memory", slowly)
        generations = [queue.submit(one) for one in asked]
        reading = [asyncio.create_task(read(one)) for one in generations]
        await asyncio.wait_for(frees.wait(), 20)
        generations[gave_up[0]].cancel()
        has_left.set()
        left = ending(await reading[1 - gave_up[0]])
        assert [one.alias for one in engine.memory().residents] == ["tiny"]
    assert left.error is None
    assert left.usage.completion_tokens >= 40


@pytest.mark.parametrize("at", [(3,), tuple(range(1, 1000))], ids=["once", "always"])
async def test_nobody_waits_for_a_batch_that_cannot_even_tell_that_it_fails(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[int, ...]
) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError

    asked = [ask(folder, f"Question {n}", tokens=40) for n in range(3)]
    async with InferenceQueue(engine, slots=4) as queue:
        await read(queue.submit(ask(folder)))
        fail_at(monkeypatch, engine, asked[0], *at)
        monkeypatch.setattr(ContinuousBatchingManager, "_fail_all_remaining_requests", fails)
        async with asyncio.timeout(30):
            everybody = await asyncio.gather(*(read(queue.submit(one)) for one in asked))
    wanted = type(None) if len(at) == 1 else OutOfMemory
    assert [type(ending(events).error) for events in everybody] == [wanted] * 3


async def test_memory_that_ends_where_a_prompt_is_encoded_is_the_same_sentence(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with InferenceQueue(engine) as queue:
        await read(queue.submit(ask(folder)))

        def short(*_: Any) -> None:
            raise MemoryError

        monkeypatch.setattr(batches, "Answer", short)
        told = ending(await read(queue.submit(ask(folder))))
    assert isinstance(told.error, OutOfMemory)


async def test_after_memory_ran_out_the_cache_is_smaller_too(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = Caches(monkeypatch)
    asked = ask(folder)
    async with InferenceQueue(engine) as queue:
        await read(queue.submit(asked))
        fail_at(monkeypatch, engine, asked, 2)
        assert ending(await read(queue.submit(asked))).error is None
    assert caches.tokens[0] >= CONTEXT_TOKENS
    assert caches.tokens[1] <= CONTEXT_TOKENS // 2 + 64


async def test_an_answer_that_needs_more_than_half_goes_on_all_the_same(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(folder, tokens=90)
    async with InferenceQueue(engine) as queue:
        await read(queue.submit(ask(folder, tokens=1)))
        fail_at(monkeypatch, engine, asked, 40)
        finished = ending(await read(queue.submit(asked)))
        assert batch_of(engine).cache_tokens > CONTEXT_TOKENS // 2
    assert finished.error is None
    assert finished.usage.completion_tokens == 90


async def test_when_memory_was_short_for_long_enough_the_next_answer_has_a_whole_context_again(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(folder)
    async with InferenceQueue(engine) as queue:
        await read(queue.submit(asked))
        fail_at(monkeypatch, engine, asked, 2)
        await read(queue.submit(asked))
        assert batch_of(engine).cache_tokens == CONTEXT_TOKENS // 2
        monkeypatch.setattr(batches, "SPARING_S", -1.0)
        for short in engine._batches._short.values():
            short.until_s = 0.0
        assert ending(await read(queue.submit(asked))).error is None
        assert batch_of(engine).cache_tokens == CONTEXT_TOKENS


async def test_who_needs_more_than_the_smaller_cache_has_it_made_larger_when_nobody_else_is_there(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = ask(folder, tokens=40), ask(folder, tokens=90)
    async with InferenceQueue(engine, slots=4) as queue:
        await read(queue.submit(short))
        fail_at(monkeypatch, engine, short, 2)
        async with queue.submit(short) as generation:
            words = 0
            async for event in generation:
                words += isinstance(event, TextDelta)
                if words == 5:  # it goes on in the smaller cache
                    break
            told = ending(await read(queue.submit(long)))
            assert isinstance(told.error, OutOfMemory)
            assert "shorten the question" in str(told.error)
        assert ending(await read(queue.submit(long))).error is None
        assert batch_of(engine).cache_tokens == CONTEXT_TOKENS


async def test_a_model_that_answers_one_at_a_time_goes_on_too_when_what_is_idle_has_gone(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "is_batchable", lambda _: False)
    asked = ask(folder)
    async with InferenceQueue(engine) as queue:
        await read(queue.submit(ask(folder, alias="idle")))
        await read(queue.submit(asked))
        fail_at(monkeypatch, engine, asked, 3)
        finished = ending(await read(queue.submit(asked)))
    assert finished.error is None
    assert finished.usage.completion_tokens == 8
    assert [one.alias for one in engine.memory().residents] == ["tiny"]


@pytest.mark.parametrize(
    ("held", "needed", "sparing"),
    [(8192, 700, 4096), (8192, 6000, 6000), (16 * 8192, 700, 8192), (4096, 5000, 4096)],
)
def test_the_smaller_cache_is_half_of_it_one_context_at_most_and_holds_the_longest(
    held: int, needed: int, sparing: int
) -> None:
    assert sparing_cache_tokens(held, 8192, needed) == sparing
