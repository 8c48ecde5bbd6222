"""Several people are answered at once: who joins, who leaves, and what the others notice of it."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from bot.chat.messages import ChatMessage, Role
from bot.inference.anatomy import examine
from bot.inference.answer import Answer
from bot.inference.batch import Batch
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.device import free_memory
from bot.inference.engine import Event, Finished, FinishReason, GenerationRequest, Queued, TextDelta
from bot.inference.generation import Generation
from bot.inference.local import LocalEngine
from bot.inference.queue import InferenceQueue
from tests.inference.checkpoints import called, save_checkpoint, save_mamba
from tests.inference.reading import ending, read, rss_bytes, text_of
from tests.inference.stepping import Stepped, loaded_exactly


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("batch") / "llama")


def ask(folder: Path, question: str = "Hi", alias: str = "tiny", **values: float) -> GenerationRequest:
    source = str(called(alias, folder))
    # Not quantized: who joins and leaves does not depend on that, and without a kernel for NF4 each product takes long.
    spec = ModelSpec(
        alias=alias, source=source, context_tokens=512, quantization="none", description="a model"
    )
    how = {"max_new_tokens": 40, "min_new_tokens": 40, "temperature": 1.0, "seed": 1, **values}
    return GenerationRequest(spec, (ChatMessage(Role.USER, question),), SamplingParams.model_validate(how))


async def until_words(generation: Generation) -> None:
    async for event in generation:
        if isinstance(event, TextDelta):
            return


async def test_sixteen_are_answered_at_once_each_with_their_own_sampling(
    engine: LocalEngine, folder: Path
) -> None:
    asked = [
        ask(folder, f"Question {n}", temperature=n / 8, seed=n, max_new_tokens=80 + n, min_new_tokens=80 + n)
        for n in range(16)
    ]
    async with InferenceQueue(engine, slots=16) as queue:
        generations = [queue.submit(one) for one in asked]
        await until_words(generations[0])
        assert queue.running == 16
        everybody = await asyncio.gather(*map(read, generations))
    assert [ending(events).usage.completion_tokens for events in everybody] == [80 + n for n in range(16)]
    assert all(ending(events).reason is FinishReason.LENGTH for events in everybody)


async def test_who_comes_later_joins_and_whoever_is_done_leaves(engine: LocalEngine, folder: Path) -> None:
    async with InferenceQueue(engine, slots=16) as queue:
        long = queue.submit(ask(folder, max_new_tokens=200, min_new_tokens=200))
        await until_words(long)
        short = await read(queue.submit(ask(folder, "And me?", max_new_tokens=5, min_new_tokens=5)))
        assert ending(short).usage.completion_tokens == 5
        assert long.finished is None
        assert ending(await read(long)).usage.completion_tokens == 200


async def test_who_leaves_frees_the_place_in_the_batch_with_the_next_token(
    engine: LocalEngine, folder: Path
) -> None:
    async with InferenceQueue(engine, slots=16) as queue:
        staying = queue.submit(ask(folder, max_new_tokens=200, min_new_tokens=200))
        leaving = queue.submit(ask(folder, "Me", max_new_tokens=300, min_new_tokens=300))
        await until_words(leaving)
        leaving.cancel()
        (batch,) = engine._batches._all.values()
        # With which step exactly: test_cache.py, which takes them one by one. Here, long before the other one is done.
        while len(batch._manager.batch_processor.scheduler.active_requests) > 1:
            await until_words(staying)
        assert staying.finished is None
        assert len(batch._draws) == 1
        assert ending(await read(staying)).usage.completion_tokens == 200


async def test_a_long_prompt_is_read_between_the_others_words(engine: LocalEngine, folder: Path) -> None:
    async with InferenceQueue(engine, slots=16) as queue:
        talking = queue.submit(ask(folder, max_new_tokens=120, min_new_tokens=120))
        await until_words(talking)
        reading = queue.submit(ask(folder, "long " * 75, max_new_tokens=16, min_new_tokens=16))
        words, told = 0, list[Event]()
        # The few tokens of the answer may be bytes that are no text yet.
        while not any(isinstance(event, TextDelta | Finished) for event in told):
            async with asyncio.timeout(20):
                event = await anext(talking)
            words += isinstance(event, TextDelta)
            if isinstance(event, Finished):  # on a busy machine it is over before the long prompt is encoded
                talking = queue.submit(ask(folder, max_new_tokens=120, min_new_tokens=120))
            told += iter(reading.next_nowait, None)
        assert words >= 1
        assert ending([*told, *await read(reading)]).error is None
        assert ending(await read(talking)).usage.completion_tokens == 120


async def test_the_same_seed_says_the_same_again(engine: LocalEngine, folder: Path) -> None:
    async with InferenceQueue(engine, slots=16) as queue:
        first, again, other = [
            text_of(await read(queue.submit(ask(folder, seed=seed)))) for seed in (7, 7, 8)
        ]
    assert first == again != other


async def test_more_than_the_cache_holds_are_answered_all_the_same(engine: LocalEngine, folder: Path) -> None:
    # 16 x (60 + 80) tokens and more, in a cache of 512.
    asked = [ask(folder, f"{n} " * 20, max_new_tokens=80, min_new_tokens=80, seed=n) for n in range(16)]
    async with InferenceQueue(engine, slots=16) as queue:
        everybody = await asyncio.gather(*(read(queue.submit(one)) for one in asked))
    assert [ending(events).usage.completion_tokens for events in everybody] == [80] * 16


async def test_one_models_thread_has_ended_before_anothers_begins(engine: LocalEngine, folder: Path) -> None:
    def threads() -> int:
        return sum("_run_generation_loop" in thread.name for thread in threading.enumerate())

    async with InferenceQueue(engine, slots=16) as queue:
        for _ in range(3):
            for alias in ("one", "two"):
                asked = [
                    queue.submit(ask(folder, alias=alias, max_new_tokens=4, min_new_tokens=4))
                    for _ in range(3)
                ]
                everybody = await asyncio.gather(*map(read, asked))
                assert all(ending(events).error is None for events in everybody)
                assert threads() == 1
    await engine.rest()
    assert threads() == 0


NOTHING = {"read": 0, "drawn": 0, "queued": 0, "active": 0, "waiting": 0, "blocks": 0}


def left_behind(batch: Batch) -> dict[str, int]:
    """How much of whatever a request brings is still there."""
    manager: Any = batch._manager
    scheduler = manager.batch_processor.scheduler
    queues = [
        one
        for part in (manager, manager.output_router)
        for one in vars(part).values()
        if isinstance(one, Queue)
    ]
    tables = (one.block_table for one in manager.batch_processor.cache.cache_allocators.values())
    return {
        "read": len(batch._readers),
        "drawn": len(batch._draws),
        "queued": sum(one.qsize() for one in queues),
        "active": len(scheduler.active_requests),
        "waiting": len(scheduler.waiting_requests) + len(scheduler.waiting_requests_order),
        "blocks": sum(map(len, tables)),
    }


async def test_answers_that_are_stopped_leave_nothing_behind(engine: LocalEngine, folder: Path) -> None:
    """At random moments: before the batch has heard of them, while they are read, after some words, at their end."""
    drawn = random.Random(11)

    async def stopped(queue: InferenceQueue, number: int) -> None:
        async with queue.submit(ask(folder, f"{number}", seed=number)) as generation:
            for _ in range(drawn.randint(0, 60)):
                await asyncio.sleep(0)
            for _ in range(drawn.choice([0, 0, 1, 3, 39])):
                if isinstance(await anext(generation), Finished):
                    break

    async with InferenceQueue(engine, slots=16) as queue:
        for first in range(0, 96, 16):
            await asyncio.gather(*(stopped(queue, first + n) for n in range(16)))
        # Whoever comes after them all is answered, and its steps let the batch take in what was stopped.
        assert ending(await read(queue.submit(ask(folder)))).error is None
        (batch,) = engine._batches._all.values()
        async with asyncio.timeout(20):
            while left_behind(batch) != NOTHING:
                await asyncio.sleep(0.01)


async def test_what_comes_for_an_answer_that_was_stopped_in_the_middle_of_a_step_is_dropped(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go = threading.Semaphore(0), threading.Semaphore(0)
    async with InferenceQueue(engine, slots=16) as queue:
        await read(queue.submit(ask(folder, max_new_tokens=2, min_new_tokens=2)))
        (batch,) = engine._batches._all.values()
        model: Any = batch._loaded.model
        forward = model.forward

        def held(*args: Any, **kwargs: Any) -> Any:
            entered.release()
            go.acquire(timeout=60)
            return forward(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(model, "forward", held)
            for number in range(5):
                async with queue.submit(ask(folder, f"{number}", seed=number)):
                    assert await asyncio.to_thread(entered.acquire, timeout=60)
                while queue.running:  # the bot has let go of it, and the step goes on
                    await asyncio.sleep(0)
                go.release()
        assert ending(await read(queue.submit(ask(folder)))).error is None
        async with asyncio.timeout(60):
            while left_behind(batch) != NOTHING:
                await asyncio.sleep(0.01)


def test_a_request_that_is_stopped_before_the_batch_has_heard_of_it_is_not_answered_to_its_end(
    folder: Path,
) -> None:
    with Stepped(loaded_exactly(folder)) as batch:
        batch.processor.output_router = batch.batch._readers  # the bot's own
        batch.cancel("0")  # taken in one step before the request is
        assert batch.step() == {}
        assert batch.add([1, 5, 6, 7], 100) == "0"
        assert len(batch.steps()) <= 2


async def test_who_reads_when_the_batch_ends_without_a_word_hears_that_it_has(
    engine: LocalEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(folder)
    async with InferenceQueue(engine) as queue:
        await read(queue.submit(asked))
    (batch,) = engine._batches._all.values()
    answer = Answer(batch._loaded, asked)
    monkeypatch.setattr(batch._manager.input_queue, "put", lambda *_, **__: None)  # what is added is lost
    with pytest.raises(RuntimeError, match="the batch has ended"):
        async with asyncio.timeout(20), aclosing(batch.generate(answer)) as events:
            asyncio.get_running_loop().call_later(0.01, batch.stop)
            async for _ in events:
                pass
    assert len(batch._readers) == 0


async def test_many_short_answers_leave_nothing_behind(
    engine: LocalEngine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def some(queue: InferenceQueue, count: int) -> None:
        for first in range(0, count, 16):
            asked = [
                ask(folder, f"{n}", max_new_tokens=2, min_new_tokens=2, seed=n)
                for n in range(first, first + 16)
            ]
            await asyncio.gather(*(read(queue.submit(one)) for one in asked))

    async with InferenceQueue(engine, slots=16) as queue:
        await some(queue, 960)  # the heap grows by a few MB for as long as that, and not after
        free_memory()
        before_bytes = rss_bytes()
        await some(queue, 800)
        free_memory()
        crept = rss_bytes() / before_bytes - 1
        (batch,) = engine._batches._all.values()
        assert left_behind(batch) == NOTHING
    with capsys.disabled():
        print(f" [crept {crept:+.1%} in 800 answers]", end="")  # noqa: T201
    assert crept < 0.01


@pytest.fixture(scope="module")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that keeps a state, and so answers one request at a time."""
    return save_mamba(tmp_path_factory.mktemp("batch") / "mamba")


def ask_mamba(folder: Path, tokens: int) -> GenerationRequest:
    asked = ask(folder, max_new_tokens=tokens, min_new_tokens=tokens)
    return replace(asked, model=asked.model.model_copy(update={"quantization": "none"}))


async def test_a_model_that_cannot_be_batched_answers_one_after_the_other(
    engine: LocalEngine, mamba: Path
) -> None:
    asked = ask_mamba(mamba, 6)
    async with InferenceQueue(engine, slots=4) as queue:
        generations = [queue.submit(asked) for _ in range(3)]
        everybody = await asyncio.gather(*map(read, generations))
    assert [ending(events).error for events in everybody] == [None] * 3
    assert [ending(events).usage.completion_tokens for events in everybody] == [6] * 3
    assert engine._batches._all == {}
    assert examine(mamba, asked.model).batched is False


async def test_eight_who_ask_a_model_that_cannot_be_batched_wait_in_line_for_their_turns(
    engine: LocalEngine, mamba: Path
) -> None:
    asked = ask_mamba(mamba, 20)
    async with InferenceQueue(engine, slots=16) as queue:
        first, *others = [queue.submit(asked) for _ in range(8)]
        await until_words(first)
        assert (queue.running, queue.waiting) == (1, 7)
        assert all(one.begun_s is None for one in others)  # nobody's time for an answer runs yet
        told = [
            [event for event in iter(one.next_nowait, None) if isinstance(event, Queued)] for one in others
        ]
        assert [events[-1].position for events in told] == [1, 2, 3, 4, 5, 6, 7]
        everybody = await asyncio.gather(*map(read, (first, *others)))
    assert [ending(events).error for events in everybody] == [None] * 8
    assert [ending(events).usage.completion_tokens for events in everybody] == [20] * 8
