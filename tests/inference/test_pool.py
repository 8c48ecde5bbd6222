"""Models come and go in memory: under the budget, in the right order, and when they go their memory is back."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import ClassVar

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bot.chat.messages import ChatMessage, Role
from bot.errors import ModelUnavailable, OutOfMemory
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.device import read_device
from bot.inference.engine import FinishReason, GenerationRequest, Loading
from bot.inference.generation import Generation
from bot.inference.loader import ModelLoader
from bot.inference.local import LocalEngine
from bot.inference.memory import Footprint
from bot.inference.observer import LoadEnding, Unobserved
from bot.inference.pool import ModelPool
from bot.inference.queue import InferenceQueue
from bot.inference.schedule import OVERTAKING_LIMIT
from tests.inference import tiny
from tests.inference.checkpoints import called
from tests.inference.reading import ending, read, rss_bytes, text_of


def make_llama(folder: Path, *, hidden_size: int = 64, layers: int = 2, extra_tokens: int = 0) -> Path:
    """A random Llama of the real class."""
    tokenizer = tiny.byte_level("Tell me a joke.", chat_template=tiny.CHATML)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + extra_tokens,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("pool") / "llama")


def spec_of(alias: str, folder: Path) -> ModelSpec:
    source = str(called(alias, folder))
    return ModelSpec(alias=alias, source=source, context_tokens=256, description="a model")


@pytest.fixture
def loader(tmp_path: Path) -> ModelLoader:
    loader = ModelLoader(tmp_path)
    loader.prepare()
    return loader


def a_hundred_bytes(_: Path, __: ModelSpec) -> Footprint:
    return Footprint(0, 100)  # the cache's: the weights are replaced by what they really take


def pool_for(loader: ModelLoader, models: float, **options: object) -> ModelPool:
    """A pool with room for so many models of `make_llama`'s."""
    weights_bytes = 110_000  # a little more than one really takes
    return ModelPool(
        loader,
        budget_bytes=int(models * weights_bytes),
        measure=lambda *_: Footprint(weights_bytes, 0),
        **options,  # type: ignore[arg-type]
    )


async def bring(pool: ModelPool, spec: ModelSpec) -> None:
    await pool.fetch(spec, lambda _: None)
    await pool.load(spec, lambda _: None)


def resident(pool: ModelPool) -> list[str]:
    return [one.alias for one in pool.report().residents]


def request(spec: ModelSpec, **params: object) -> GenerationRequest:
    drawn = SamplingParams.model_validate({"max_new_tokens": 12, "temperature": 0.0, **params})
    return GenerationRequest(spec, (ChatMessage(Role.USER, "Tell me a joke."),), drawn)


# --- Who stays ------------------------------------------------------------------------------------------------


async def test_the_model_that_was_used_longest_ago_makes_room(loader: ModelLoader, checkpoint: Path) -> None:
    pool = pool_for(loader, 2.5)
    a, b, c = (spec_of(alias, checkpoint) for alias in "abc")
    await bring(pool, a)
    await bring(pool, b)
    with pool.lease(a):
        pass
    await pool.fetch(c, lambda _: None)
    assert pool.victims(c) == (b.key,)
    await pool.load(c, lambda _: None)
    assert resident(pool) == ["a", "c"]


async def test_what_fits_beside_the_others_unloads_nobody(loader: ModelLoader, checkpoint: Path) -> None:
    pool = pool_for(loader, 3.5)
    for alias in "abc":
        await bring(pool, spec_of(alias, checkpoint))
    assert resident(pool) == ["a", "b", "c"]


async def test_a_model_in_use_is_waited_for(loader: ModelLoader, checkpoint: Path) -> None:
    pool = pool_for(loader, 1.5)
    a, b = spec_of("a", checkpoint), spec_of("b", checkpoint)
    await bring(pool, a)
    await pool.fetch(b, lambda _: None)
    with pool.lease(a) as loaded:
        assert pool.victims(b) is None
        loading = asyncio.create_task(pool.load(b, lambda _: None))
        await asyncio.sleep(0)
        assert resident(pool) == ["a"]
        assert loaded.model is not None
    await asyncio.wait_for(loading, 20)
    assert resident(pool) == ["b"]


async def test_a_pinned_model_stays_and_what_does_not_fit_beside_it_is_refused_with_the_numbers(
    loader: ModelLoader, checkpoint: Path
) -> None:
    pool = pool_for(loader, 1.5)
    a, b = spec_of("a", checkpoint), spec_of("b", checkpoint)
    pool.pin([a])
    await bring(pool, a)
    await pool.fetch(b, lambda _: None)
    with pytest.raises(ModelUnavailable) as refused:
        pool.victims(b)
    assert str(refused.value) == (
        "b needs about 0.0 GB, and there are 0.0 GB for models beside a, which stay loaded. Please choose a "
        "smaller model."
    )
    assert pool.report().residents[0].pinned


async def test_what_can_never_fit_is_refused_with_the_numbers_and_nothing_is_unloaded_for_it(
    loader: ModelLoader, checkpoint: Path
) -> None:
    pool = ModelPool(loader, budget_bytes=24 * 10**9, measure=lambda *_: Footprint(25 * 10**9, 10**9))
    mixtral = spec_of("mixtral", checkpoint)
    await pool.fetch(mixtral, lambda _: None)
    with pytest.raises(ModelUnavailable, match="mixtral needs about 26 GB, and there are 24 GB for models"):
        pool.victims(mixtral)


async def test_a_model_whose_load_takes_more_than_its_answers_has_room_made_for_the_load(
    loader: ModelLoader, checkpoint: Path
) -> None:
    a, b = spec_of("a", checkpoint), spec_of("b", checkpoint)

    def with_loading(loading_bytes: int) -> ModelPool:
        return ModelPool(
            loader,
            budget_bytes=300_000,
            measure=lambda *_: Footprint(110_000, 0, loading_bytes=loading_bytes),
        )

    beside = with_loading(50_000)
    await bring(beside, a)
    await bring(beside, b)
    assert resident(beside) == ["a", "b"]
    alone = with_loading(100_000)
    await bring(alone, a)
    await bring(alone, b)
    assert resident(alone) == ["b"]
    never = with_loading(200_000)
    await never.fetch(a, lambda _: None)
    with pytest.raises(ModelUnavailable, match="a needs about"):
        never.victims(a)


async def test_a_larger_cache_leaves_room_for_what_a_load_takes_beside(
    loader: ModelLoader, checkpoint: Path
) -> None:
    need = Footprint(100, 20, 5, loading_bytes=60)
    pool = ModelPool(loader, budget_bytes=1000, measure=lambda *_: need)
    asked = spec_of("one", checkpoint)
    await pool.fetch(asked, lambda _: None)
    assert pool.spare_bytes(asked) == 1000 - 160


async def test_without_a_budget_of_the_operators_it_is_what_is_free_less_a_margin(
    loader: ModelLoader, checkpoint: Path
) -> None:
    pool = ModelPool(loader)
    await pool.fetch(spec_of("a", checkpoint), lambda _: None)
    free_bytes = read_device().free_bytes
    assert 0.5 * free_bytes < pool.report().budget_bytes < free_bytes


async def test_a_model_nobody_uses_goes_after_its_time_and_a_pinned_one_does_not(
    loader: ModelLoader, checkpoint: Path
) -> None:
    pool = pool_for(loader, 5, unload_idle_after_s=0.05)
    used, idle, kept = (spec_of(alias, checkpoint) for alias in ("used", "idle", "kept"))
    pool.pin([kept])
    await bring(pool, kept)
    while not pool.ready(used):
        await bring(pool, used)
    with pool.lease(used):
        await bring(pool, idle)
        async with asyncio.timeout(20):
            while pool.ready(idle):
                pool._released.clear()
                await pool._released.wait()
        assert resident(pool) == ["kept", "used"]


# --- After a reload of the catalogue --------------------------------------------------------------------------


def reread(spec: ModelSpec, **changed: object) -> ModelSpec:
    """The entry as a reload has it."""
    return spec.model_copy(update=changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"sampling": SamplingParams(temperature=0.1)},
        {"description": "the same in other words"},
        {"alias": "renamed"},
        {"enable_thinking": False},
        {"revision": "a-local-folder-has-none"},
    ],
    ids=lambda changed: next(iter(changed)),
)
async def test_a_reload_that_leaves_the_weights_as_they_are_loads_nothing_and_unloads_nothing(
    loader: ModelLoader, checkpoint: Path, changed: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bot.inference.pool")
    a, b = spec_of("a", checkpoint), spec_of("b", checkpoint)
    pool = pool_for(loader, 2.5)
    await bring(pool, a)
    await bring(pool, b)
    again = reread(a, **changed)
    await bring(pool, again)
    with pool.lease(again):
        assert pool.ready(a)
        assert len(pool.report().residents) == 2
    assert caplog.text.count("loaded ") == 2
    assert "unloading" not in caplog.text


async def test_a_model_in_memory_is_reported_by_the_alias_it_was_asked_by_last(
    loader: ModelLoader, checkpoint: Path
) -> None:
    a = spec_of("a", checkpoint)
    pool = pool_for(loader, 2.5)
    await bring(pool, a)
    with pool.lease(reread(a, alias="renamed")):
        assert resident(pool) == ["renamed"]


@pytest.mark.parametrize(
    "changed", [{"context_tokens": 128}, {"quantization": "none"}], ids=lambda changed: next(iter(changed))
)
async def test_a_reload_that_changes_what_is_loaded_makes_it_another_model(
    loader: ModelLoader, checkpoint: Path, changed: dict[str, object]
) -> None:
    a = spec_of("a", checkpoint)
    pool = pool_for(loader, 9)
    await bring(pool, a)
    assert not pool.ready(reread(a, **changed))


async def test_a_pinned_model_stays_pinned_under_whatever_words_it_is_asked_by(
    loader: ModelLoader, checkpoint: Path
) -> None:
    a, b = spec_of("a", checkpoint), spec_of("b", checkpoint)
    pool = pool_for(loader, 1.5)
    pool.pin([reread(a, description="in other words")])
    await bring(pool, reread(a, alias="another-name"))
    await pool.fetch(b, lambda _: None)
    with pytest.raises(ModelUnavailable, match="which stay loaded"):
        pool.victims(b)


async def test_what_a_pinned_alias_meant_before_a_reload_may_go(
    loader: ModelLoader, checkpoint: Path
) -> None:
    a, b = spec_of("a", checkpoint), spec_of("b", checkpoint)
    pool = pool_for(loader, 1.5, unload_idle_after_s=0.01)
    pool.pin([a])
    await bring(pool, a)
    await pool.fetch(b, lambda _: None)
    pool.pin([reread(a, context_tokens=128)])
    assert pool.victims(b) == (a.key,)
    async with asyncio.timeout(20):  # nor does it stay for ever when nobody needs its room
        while pool.ready(a):
            pool._released.clear()
            await pool._released.wait()


async def test_after_a_reload_two_models_take_turns_without_one_load_more(
    engine: LocalEngine, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bot.inference.pool")
    a, b = spec_of("a", checkpoint), spec_of("b", checkpoint)
    async with InferenceQueue(engine) as queue:
        for spec in (a, b):
            assert ending(await read(queue.submit(request(spec)))).error is None
        for changed in ({"description": "b"}, {"alias": "c"}, {"sampling": SamplingParams(top_k=3)}):
            for spec in (reread(a, **changed), b):
                assert ending(await read(queue.submit(request(spec)))).error is None
    assert caplog.text.count("loaded ") == 2


async def test_loading_is_told_in_percent(loader: ModelLoader, checkpoint: Path) -> None:
    pool = pool_for(loader, 2)
    told: list[Loading] = []
    spec = spec_of("a", checkpoint)
    await pool.fetch(spec, told.append)
    await pool.load(spec, told.append)
    fractions = [event.fraction for event in told if event.fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[-1] > 0.8
    assert {event.model for event in told} == {"a"}


async def test_whoever_looks_on_hears_of_each_load_and_how_it_ended(
    loader: ModelLoader, checkpoint: Path, tmp_path: Path
) -> None:
    class Notes(Unobserved):
        heard: ClassVar[list[tuple[str, LoadEnding]]] = []

        def loaded(self, model: ModelSpec, took_s: float, ending: LoadEnding) -> None:
            assert took_s > 0
            self.heard.append((model.alias, ending))

    pool = pool_for(loader, 5, observer=Notes())
    good, broken, left = (
        spec_of("good", checkpoint),
        spec_of("broken", tmp_path / "b"),
        spec_of("left", checkpoint),
    )
    make_llama(tmp_path / "b")
    await bring(pool, good)
    await bring(pool, good)  # it is there: no load
    await pool.fetch(broken, lambda _: None)
    (tmp_path / "b" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelUnavailable):
        await pool.load(broken, lambda _: None)
    await pool.fetch(left, lambda _: None)

    def leave(_: Loading) -> None:
        loading.cancel()

    loading = asyncio.create_task(pool.load(left, leave))
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert Notes.heard == [
        ("good", LoadEnding.LOADED),
        ("broken", LoadEnding.FAILED),
        ("left", LoadEnding.ABANDONED),
    ]


async def test_a_load_that_is_cancelled_stops_in_the_middle_and_leaves_nothing(
    loader: ModelLoader, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_for(loader, 2)
    spec = spec_of("a", checkpoint)
    await pool.fetch(spec, lambda _: None)
    told: list[Loading] = []

    def report(event: Loading) -> None:
        told.append(event)
        if event.fraction is not None:
            loading.cancel()

    loading = asyncio.create_task(pool.load(spec, report))
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert resident(pool) == []
    assert told[-1].fraction is not None
    assert told[-1].fraction < 0.5
    await bring(pool, spec)
    assert resident(pool) == ["a"]


# --- Memory comes back ----------------------------------------------------------------------------------------


@pytest.mark.timeout(700)
def test_twenty_loads_and_unloads_leave_memory_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_llama(tmp_path / "big", hidden_size=768, layers=6, extra_tokens=30_000)
    # In a process of its own, so that no other test's garbage counts.
    command = [sys.executable, "-m", "tests.inference.unloading", str(folder), "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    figures = json.loads(done.stdout)
    took_bytes = median(figures["loaded"]) - median(figures["unloaded"])
    crept_bytes = median(figures["unloaded"][15:]) - median(figures["unloaded"][2:7])
    with capsys.disabled():
        sys.stdout.write(
            f" [one model {took_bytes / 1e6:.0f} MB, crept {crept_bytes / 1e6:+.1f} MB in 13 rounds]"
        )
    assert took_bytes > 50e6
    assert crept_bytes < 0.1 * took_bytes
    # Back at once, or in a round or two a moment later: transformers' own threads let go when they end.
    at_once = sorted(figures["unloaded"][2:])
    assert at_once[-4] - at_once[0] < 0.3 * took_bytes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NEEDS A GPU: unloading gives GPU memory back")
async def test_twenty_loads_and_unloads_leave_gpu_memory_where_it_was(
    loader: ModelLoader, checkpoint: Path
) -> None:
    pool = ModelPool(loader, budget_bytes=10**10)
    spec = spec_of("a", checkpoint)
    before_bytes, kept_bytes = torch.cuda.memory_allocated(), list[int]()
    for _ in range(20):
        await bring(pool, spec)
        assert torch.cuda.memory_allocated() > before_bytes + 100_000
        await pool.unload_idle()
        kept_bytes.append(torch.cuda.memory_allocated() - before_bytes)
    # bitsandbytes keeps the table of values by which it quantizes scales, 256 numbers, from the first load on.
    assert max(kept_bytes) <= 4096
    assert kept_bytes[-1] == kept_bytes[0]


# --- Memory runs out in the middle ----------------------------------------------------------------------------


@pytest.fixture
def engine(loader: ModelLoader) -> Iterator[LocalEngine]:
    engine = LocalEngine(loader, budget_bytes=10**9)
    yield engine
    asyncio.run(engine.aclose())


class Exhausting:
    """Makes a model's forward pass run out of memory at certain calls."""

    def __init__(self, model: torch.nn.Module, at: set[int], error: Exception) -> None:
        self.calls = 0
        self._forward, self._at, self._error = model.forward, at, error

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls += 1
        if self.calls in self._at:
            raise self._error
        return self._forward(*args, **kwargs)


OOM = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    MemoryError(),
]


@pytest.mark.parametrize("error", OOM, ids=["GPU", "CPU", "Python"])
async def test_memory_that_runs_out_once_costs_nothing_of_the_answer(
    engine: LocalEngine, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    spec, idle = spec_of("a", checkpoint), spec_of("idle", checkpoint)
    await bring(engine.pool, idle)
    async with InferenceQueue(engine) as queue:
        whole = text_of(await read(queue.submit(request(spec))))
        with engine.pool.lease(spec) as loaded:
            exhausting = Exhausting(loaded.model, {5}, error)
            monkeypatch.setattr(loaded.model, "forward", exhausting)
        events = await read(queue.submit(request(spec)))
    assert ending(events).reason in (FinishReason.STOP, FinishReason.LENGTH)
    assert text_of(events) == whole
    assert ending(events).usage.completion_tokens == 12
    assert exhausting.calls > 5
    assert resident(engine.pool) == ["a"]


async def test_memory_that_stays_short_is_a_sentence_and_others_are_answered(
    engine: LocalEngine, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = spec_of("a", checkpoint), spec_of("b", checkpoint)
    async with InferenceQueue(engine) as queue:
        await read(queue.submit(request(a)))
        with engine.pool.lease(a) as loaded, monkeypatch.context() as patched:
            patched.setattr(loaded.model, "forward", Exhausting(loaded.model, {3, 4}, OOM[0]))
            failing, other = queue.submit(request(a)), queue.submit(request(b))
            events = await read(failing)
            assert isinstance(ending(events).error, OutOfMemory)
            assert "not enough memory" in str(ending(events).error)
            assert text_of(events)  # what was said stays
            assert ending(await read(other)).error is None
        assert ending(await read(queue.submit(request(a)))).error is None


async def test_a_long_prompt_is_read_in_small_pieces_after_memory_ran_out(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("a", make_llama(tmp_path / "llama"))
    monkeypatch.setattr("bot.inference.batches.SPARING_STEP_TOKENS", 16)
    lengths: list[int] = []
    async with InferenceQueue(engine) as queue:
        whole = text_of(await read(queue.submit(request(spec))))
        with engine.pool.lease(spec) as loaded:
            # Nothing of the prompt is in the cache, as it would be a second time.
            engine._batches.close(loaded)
            forward = loaded.model.forward

            def measured(*args: object, **kwargs: object) -> object:
                read_ids = kwargs["input_ids"]
                assert isinstance(read_ids, torch.Tensor)
                lengths.append(read_ids.shape[1])
                if len(lengths) == 1:
                    raise OOM[0]
                return forward(*args, **kwargs)

            monkeypatch.setattr(loaded.model, "forward", measured)
        assert text_of(await read(queue.submit(request(spec)))) == whole
    assert lengths[0] > 16
    assert max(lengths[1:]) <= 16


# --- All of it at once ----------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
async def test_two_hundred_requests_over_five_models_under_a_budget_for_two(
    loader: ModelLoader,
    checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The bound: nobody is overtaken by more than `OVERTAKING_LIMIT` later arrivals."""
    caplog.set_level(logging.INFO, "bot.inference.pool")
    specs = [spec_of(alias, checkpoint) for alias in ("one", "two", "three", "four", "five")]
    engine = LocalEngine(loader)
    await bring(engine.pool, specs[0])
    need_bytes = engine.pool.report().reserved_bytes
    await engine.pool.unload_idle()
    engine = LocalEngine(loader, budget_bytes=int(2.5 * need_bytes))
    over_budget: list[int] = []
    drawn = random.Random(7)

    async def ask(queue: InferenceQueue) -> Generation:
        generation = queue.submit(request(drawn.choice(specs), max_new_tokens=drawn.randint(1, 6)))
        async with generation:
            async for _ in generation:
                report = engine.memory()
                if report.reserved_bytes > report.budget_bytes:
                    over_budget.append(report.reserved_bytes)
        return generation

    async with InferenceQueue(engine, limit=1000, queue_timeout_s=600) as queue:
        await asyncio.gather(*(ask(queue) for _ in range(40)))  # whatever is made once is made now
        await engine.pool.unload_idle()
        floor_bytes = rss_bytes()
        async with asyncio.timeout(500):
            everybody = await asyncio.gather(*(ask(queue) for _ in range(200)))
        assert (queue.running, queue.waiting) == (0, 0)
    loads = caplog.text.count("loaded ")
    await engine.aclose()
    crept_bytes = rss_bytes() - floor_bytes
    with capsys.disabled():
        sys.stdout.write(f" [{loads} loads, crept {crept_bytes / 1e6:+.1f} MB]")
    answered = (FinishReason.STOP, FinishReason.LENGTH)
    assert all(one.finished is not None and one.finished.reason in answered for one in everybody)
    assert over_budget == []
    assert max(one.overtaken for one in everybody) <= OVERTAKING_LIMIT
    assert crept_bytes < 50e6
