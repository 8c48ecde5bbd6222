"""Several models on one GPU, as those who wait for them see it: shared loads, progress, failures, fairness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.chat.messages import ChatMessage, Role
from bot.errors import GenerationTimeout, ModelUnavailable, QueueTimeout, Unexpected
from bot.inference.catalog import ModelKey, ModelSpec, SamplingParams
from bot.inference.engine import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Loading,
    LoadStep,
    Queued,
    Report,
    TextDelta,
    Usage,
)
from bot.inference.estimate import Estimates
from bot.inference.generation import Generation
from bot.inference.queue import InferenceQueue
from bot.inference.scripted import ScriptedEngine


def spec_of(alias: str) -> ModelSpec:
    return ModelSpec(alias=alias, source=f"/models/{alias}", context_tokens=256, description="a model")


def request(alias: str) -> GenerationRequest:
    return GenerationRequest(spec_of(alias), (ChatMessage(Role.USER, "Hi"),))


@dataclass
class Crowded(ScriptedEngine):
    """Answers at once or when told, from room for `fits` models; fetching and loading wait for their gates.

    Attributes:
        journal: what was fetched, loaded, unloaded and answered, in order.
        trouble: what fetching ("fetch x") or loading ("load x") raises.
        gates: what fetching, loading or answering ("answer") waits for.
        load_eta_s: what a load says that it will still take.
        reports: takes what fetching or loading says later.
        usage: the numbers of every answer.
    """

    fits: int = 2
    journal: list[str] = field(default_factory=list)
    trouble: dict[str, Exception] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    resident: dict[ModelKey, ModelSpec] = field(default_factory=dict)
    in_use: list[ModelKey] = field(default_factory=list)
    load_eta_s: float | None = 9.0
    reports: dict[str, Report] = field(default_factory=dict)
    usage: Usage = Usage(8, 1)  # noqa: RUF009  it is frozen

    def ready(self, model: ModelSpec) -> bool:
        return model.key in self.resident

    def victims(self, model: ModelSpec) -> tuple[ModelKey, ...] | None:
        if error := self.trouble.get(f"fit {model.alias}"):
            raise error
        excess = len(self.resident) + 1 - self.fits
        idle = [one for one in self.resident if one not in self.in_use]
        return tuple(idle[: max(0, excess)]) if len(idle) >= excess else None

    async def fetch(self, model: ModelSpec, report: Report) -> None:
        await self._do(f"fetch {model.alias}", Loading(model.alias, 0.5, 9.0, LoadStep.DOWNLOADING), report)

    def unload(self, models: tuple[ModelKey, ...]) -> None:
        for key in models:
            assert key not in self.in_use
            self.journal.append(f"unload {self.resident.pop(key).alias}")

    async def load(self, model: ModelSpec, report: Report) -> None:
        await self._do(f"load {model.alias}", Loading(model.alias, 0.62, self.load_eta_s), report)
        self.resident[model.key] = model

    async def _do(self, what: str, progress: Loading, report: Report) -> None:
        self.journal.append(what)
        self.reports[what] = report
        report(progress)
        try:
            await self.gates.get(what, _OPEN).wait()
        except asyncio.CancelledError:
            self.journal.append(f"gave up {what}")
            raise
        if error := self.trouble.pop(what, None):
            raise error

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        assert self.ready(request.model)
        self.journal.append(f"answer {request.model.alias}")
        self.in_use.append(request.model.key)
        try:
            await self.gates.get("answer", _OPEN).wait()
            yield TextDelta("Ha.", self.usage)
            yield Finished(FinishReason.STOP, self.usage)
        finally:
            self.in_use.remove(request.model.key)


_OPEN = asyncio.Event()
_OPEN.set()


async def settled() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


async def read(generation: Generation) -> list[Event]:
    async with generation:
        return [event async for event in generation]


def heard(generation: Generation) -> list[Event]:
    """What was told and not read yet."""
    events = []
    while (event := generation.next_nowait()) is not None:
        events.append(event)
    return events


def ending(events: list[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


async def test_two_who_ask_for_the_same_model_share_one_load_and_both_see_how_far_it_is() -> None:
    engine = Crowded(gates={"load gemma": asyncio.Event()})
    async with InferenceQueue(engine) as queue:
        first, second = queue.submit(request("gemma")), queue.submit(request("gemma"))
        await settled()
        third = queue.submit(request("gemma"))
        progress = Loading("gemma", 0.62, 9.0)
        assert [heard(one)[-1] for one in (first, second, third)] == [progress] * 3
        engine.gates["load gemma"].set()
        for one in (first, second, third):
            assert ending(await read(one)).reason is FinishReason.STOP
    assert engine.journal == ["fetch gemma", "load gemma", *["answer gemma"] * 3]


async def test_a_load_goes_on_for_the_other_when_the_one_who_asked_first_leaves() -> None:
    engine = Crowded(gates={"load gemma": asyncio.Event()})
    async with InferenceQueue(engine) as queue:
        first, second = queue.submit(request("gemma")), queue.submit(request("gemma"))
        await settled()
        first.cancel()
        await settled()
        engine.gates["load gemma"].set()
        assert ending(await read(second)).reason is FinishReason.STOP
    assert engine.journal == ["fetch gemma", "load gemma", "answer gemma"]


@pytest.mark.parametrize("stage", ["fetch gemma", "load gemma"])
async def test_a_load_that_nobody_waits_for_any_more_is_given_up(stage: str) -> None:
    engine = Crowded(gates={stage: asyncio.Event()})
    async with InferenceQueue(engine) as queue:
        generations = [queue.submit(request("gemma")) for _ in range(3)]
        await settled()
        for generation in generations:
            generation.cancel()
            assert ending(await read(generation)).reason is FinishReason.CANCELLED
        await settled()
        assert engine.journal[-1] == f"gave up {stage}"
        engine.gates.clear()
        assert ending(await read(queue.submit(request("gemma")))).reason is FinishReason.STOP


async def test_who_comes_while_a_load_is_being_given_up_is_served_all_the_same() -> None:
    engine = Crowded(gates={"load gemma": asyncio.Event()})
    async with InferenceQueue(engine) as queue:
        first = queue.submit(request("gemma"))
        await settled()
        first.cancel()
        second = queue.submit(request("gemma"))
        engine.gates.clear()
        assert ending(await asyncio.wait_for(read(second), 5)).reason is FinishReason.STOP


@pytest.mark.parametrize("stage", ["fetch gemma", "load gemma", "fit gemma"])
async def test_a_model_that_cannot_be_had_tells_everybody_who_waits_and_the_next_try_works(
    stage: str,
) -> None:
    engine = Crowded(trouble={stage: ModelUnavailable("gemma needs about 26 GB, and there are 24 GB.")})
    async with InferenceQueue(engine) as queue:
        generations = [queue.submit(request(alias)) for alias in ("gemma", "phi", "gemma")]
        endings = [ending(await read(one)) for one in generations]
        assert [str(end.error) for end in (endings[0], endings[2])] == [
            "gemma needs about 26 GB, and there are 24 GB."
        ] * 2
        assert endings[1].reason is FinishReason.STOP
        engine.trouble.clear()
        assert ending(await read(queue.submit(request("gemma")))).reason is FinishReason.STOP


async def test_a_bug_while_loading_is_a_sentence_with_a_number_that_the_log_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Crowded(trouble={"load gemma": ZeroDivisionError("internals")})
    async with InferenceQueue(engine) as queue:
        error = ending(await read(queue.submit(request("gemma")))).error
    assert isinstance(error, Unexpected)
    assert "internals" not in str(error)
    assert error.reference in caplog.text


async def test_while_a_model_is_fetched_others_are_answered() -> None:
    engine = Crowded(gates={"fetch gemma": asyncio.Event()})
    async with InferenceQueue(engine) as queue:
        waiting = queue.submit(request("gemma"))
        for _ in range(20):
            assert ending(await read(queue.submit(request("smol")))).reason is FinishReason.STOP
        assert heard(waiting)[-1] == Loading("gemma", 0.5, 9.0, LoadStep.DOWNLOADING)
        assert waiting.overtaken == 0  # it lost nothing by that


async def test_a_load_that_takes_too_long_ends_with_a_sentence_and_is_given_up() -> None:
    engine = Crowded(gates={"load gemma": asyncio.Event()})
    async with InferenceQueue(engine, load_timeout_s=0.02) as queue:
        end = ending(await read(queue.submit(request("gemma"))))
        await settled()
    assert isinstance(end.error, GenerationTimeout)
    assert "gemma could not be loaded" in str(end.error)
    assert engine.journal[-1] == "gave up load gemma"


async def test_loading_does_not_count_as_waiting_for_ones_turn() -> None:
    engine = Crowded(gates={"load gemma": asyncio.Event()})
    async with InferenceQueue(engine, queue_timeout_s=0.02) as queue:
        generation = queue.submit(request("gemma"))
        await asyncio.sleep(0.05)
        engine.gates["load gemma"].set()
        assert ending(await read(generation)).reason is FinishReason.STOP


async def test_requests_for_what_is_in_memory_go_before_a_change_of_models_up_to_the_limit() -> None:
    engine = Crowded(fits=1, gates={"answer": asyncio.Event()})
    async with InferenceQueue(engine, limit=99, overtaking_limit=3) as queue:
        everybody = [queue.submit(request(alias)) for alias in ("a", "b", *"aaaaaa")]
        await settled()
        engine.gates.pop("answer").set()
        for generation in everybody:
            assert ending(await asyncio.wait_for(read(generation), 5)).reason is FinishReason.STOP
    changes = [entry for entry in engine.journal if not entry.startswith("fetch")]
    assert changes == [
        "load a",
        *["answer a"] * 4,  # the first, and three who came after b
        "unload a",
        "load b",
        "answer b",
        "unload b",
        "load a",
        *["answer a"] * 3,
    ]
    assert everybody[1].overtaken == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"sampling": SamplingParams(temperature=0.1)},
        {"description": "the same in other words"},
        {"alias": "renamed"},
        {"enable_thinking": False},
    ],
    ids=lambda changed: next(iter(changed)),
)
async def test_after_a_reload_of_words_and_sampling_the_models_are_loaded_as_often_as_before(
    changed: dict[str, Any],
) -> None:
    engine = Crowded(fits=1, gates={"answer": asyncio.Event()})
    before = request("a")
    after = replace(before, model=before.model.model_copy(update=changed))
    async with InferenceQueue(engine, limit=99) as queue:
        running = queue.submit(before)
        await settled()
        # The reload happens now. Whoever asks for `a` from here on asks by the new entry.
        later = [queue.submit(one) for one in (request("b"), after, request("b"), after)]
        await settled()
        engine.gates.pop("answer").set()
        for generation in (running, *later):
            assert ending(await asyncio.wait_for(read(generation), 5)).reason is FinishReason.STOP
    assert [entry for entry in engine.journal if entry.startswith("load")] == ["load a", "load b"]


async def test_who_waits_by_two_names_of_one_model_shares_its_load_and_each_hears_their_own_name() -> None:
    engine = Crowded(gates={"load a": asyncio.Event()})
    first = request("a")
    second = replace(first, model=first.model.model_copy(update={"alias": "renamed"}))
    async with InferenceQueue(engine) as queue:
        generations = [queue.submit(first), queue.submit(second)]
        await settled()
        assert [heard(one)[-1] for one in generations] == [
            Loading("a", 0.62, 9.0),
            Loading("renamed", 0.62, 9.0),
        ]
        engine.gates["load a"].set()
        for one in generations:
            assert ending(await read(one)).reason is FinishReason.STOP
    assert [entry for entry in engine.journal if entry.startswith("load")] == ["load a"]


async def test_a_load_that_fails_is_told_to_who_waits_by_another_name_too() -> None:
    engine = Crowded(trouble={"load a": ModelUnavailable("its files are damaged.")})
    first = request("a")
    second = replace(first, model=first.model.model_copy(update={"description": "in other words"}))
    async with InferenceQueue(engine) as queue:
        for generation in [queue.submit(first), queue.submit(second)]:
            assert str(ending(await read(generation)).error) == "its files are damaged."


async def test_a_model_in_use_is_never_unloaded() -> None:
    engine = Crowded(fits=1, gates={"answer": asyncio.Event()})
    async with InferenceQueue(engine, slots=2) as queue:
        first = queue.submit(request("a"))
        await settled()
        second = queue.submit(request("b"))
        await settled()
        assert "unload a" not in engine.journal
        assert heard(second)[-1] == Queued(1, None)
        engine.gates["answer"].set()
        assert ending(await read(first)).reason is FinishReason.STOP
        assert ending(await read(second)).reason is FinishReason.STOP
    assert engine.journal[-3:] == ["unload a", "load b", "answer b"]


async def test_closing_ends_loads_and_tells_those_who_wait_for_them() -> None:
    engine = Crowded(gates={"load gemma": asyncio.Event()})
    async with InferenceQueue(engine) as queue:
        generation = queue.submit(request("gemma"))
        await settled()
    assert "restarting" in str(ending(await read(generation)).error)
    assert engine.journal[-1] == "gave up load gemma"


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def slow(**options: Any) -> Crowded:
    """A model answers in 11 s, and a load does not know its own speed."""
    return Crowded(usage=Usage(8, 21, 1.0, 11.0), load_eta_s=None, **options)


class OneAtATime(Crowded):
    """Its models answer one request at a time."""

    def joins(self, model: ModelSpec, running: Iterable[ModelSpec]) -> bool:
        return not list(running)


async def test_who_waits_for_a_model_that_answers_one_at_a_time_hears_a_place_and_a_time() -> None:
    engine, clock = OneAtATime(usage=Usage(8, 21, 1.0, 11.0)), Clock()
    async with InferenceQueue(engine, slots=16, estimates=Estimates(clock)) as queue:
        await read(queue.submit(request("a")))
        engine.gates["answer"] = asyncio.Event()
        queue.submit(request("a"))
        waiting = [queue.submit(request("a")) for _ in range(3)]
        await settled()
        assert [heard(one)[-1] for one in waiting] == [Queued(1, 11.0), Queued(2, 22.0), Queued(3, 33.0)]


async def test_who_waits_for_a_model_that_answers_one_at_a_time_has_the_time_of_the_line() -> None:
    engine = OneAtATime(gates={"answer": asyncio.Event()})
    async with InferenceQueue(engine, slots=16, queue_timeout_s=0.01) as queue:
        running, waiting = queue.submit(request("a")), queue.submit(request("a"))
        assert isinstance(ending(await read(waiting)).error, QueueTimeout)
        engine.gates["answer"].set()
        assert ending(await read(running)).reason is FinishReason.STOP


class OneModelAtATime(Crowded):
    """Requests for one model are answered together, and no other model beside it."""

    def joins(self, model: ModelSpec, running: Iterable[ModelSpec]) -> bool:
        return all(one.key == model.key for one in running)


async def test_a_free_slot_is_no_promise_while_another_model_answers() -> None:
    engine, clock = OneModelAtATime(usage=Usage(8, 21, 1.0, 11.0)), Clock()
    async with InferenceQueue(engine, slots=16, estimates=Estimates(clock)) as queue:
        for alias in "ab":
            await read(queue.submit(request(alias)))
        engine.gates["answer"] = asyncio.Event()
        queue.submit(request("a"))
        waiting = queue.submit(request("b"))
        await settled()
        assert heard(waiting)[-1] == Queued(1, 11.0)


async def loaded_once(
    queue: InferenceQueue, engine: Crowded, clock: Clock, alias: str, took_s: float
) -> None:
    """Have a model loaded, which takes `took_s`, and answer."""
    gate = engine.gates[f"load {alias}"] = asyncio.Event()
    generation = queue.submit(request(alias))
    await settled()
    clock.now_s += took_s
    gate.set()
    await read(generation)
    await settled()


async def test_a_load_of_which_the_speed_is_not_known_yet_is_announced_with_the_time_it_took_before() -> None:
    engine, clock = slow(fits=1), Clock()
    async with InferenceQueue(engine, estimates=Estimates(clock)) as queue:
        await loaded_once(queue, engine, clock, "gemma", 40.0)
        await loaded_once(queue, engine, clock, "phi", 10.0)  # takes gemma's place
        engine.gates["load gemma"] = asyncio.Event()
        second = queue.submit(request("gemma"))
        await settled()
        assert heard(second)[-1] == Loading("gemma", 0.62, 40.0)
        clock.now_s += 15
        third = queue.submit(request("gemma"))
        assert heard(third) == [Loading("gemma", 0.62, 25.0)]
        engine.reports["load gemma"](Loading("gemma", 0.8, 3.0))  # it knows better now
        assert heard(third) == [Loading("gemma", 0.8, 3.0)]


async def test_a_model_that_somebody_else_has_loaded_meanwhile_says_nothing_about_loads() -> None:
    class Shared(Crowded):
        async def load(self, model: ModelSpec, report: Report) -> None:
            self.resident[model.key] = model

    estimates = Estimates(Clock())
    async with InferenceQueue(Shared(), estimates=estimates) as queue:
        await read(queue.submit(request("gemma")))
    assert estimates.load_s(spec_of("gemma")) is None


async def test_who_waits_for_room_hears_what_the_answer_before_and_the_load_will_take() -> None:
    engine, clock = slow(fits=1), Clock()
    async with InferenceQueue(engine, estimates=Estimates(clock)) as queue:
        await loaded_once(queue, engine, clock, "phi", 30.0)
        await loaded_once(queue, engine, clock, "gemma", 40.0)
        engine.gates["answer"] = asyncio.Event()
        queue.submit(request("gemma"))
        await settled()
        waiting = queue.submit(request("phi"))
        await settled()
        assert heard(waiting)[-1] == Queued(1, 11.0 + 30.0)
        passing = queue.submit(request("gemma"))  # its model is there: it goes first, and phi hears of it
        assert heard(passing) == [Queued(2, 11.0)]
        assert heard(waiting) == [Queued(1, 11.0 + 11.0 + 30.0)]


async def test_behind_a_download_no_time_is_promised_until_it_has_a_speed_and_then_it_follows_that() -> None:
    engine, clock = slow(fits=1), Clock()
    async with InferenceQueue(engine, estimates=Estimates(clock)) as queue:
        await loaded_once(queue, engine, clock, "phi", 30.0)
        await loaded_once(queue, engine, clock, "gemma", 30.0)
        engine.gates |= {"answer": asyncio.Event(), "fetch llama": asyncio.Event()}
        queue.submit(request("gemma"))
        queue.submit(request("llama"))
        await settled()
        download = engine.reports["fetch llama"]
        download(Loading("llama", 0.0, None, LoadStep.DOWNLOADING))
        behind = queue.submit(request("phi"))
        await settled()
        assert heard(behind)[-1] == Queued(2, None)
        download(Loading("llama", 0.1, 100.0, LoadStep.DOWNLOADING))
        # The download and llama's load, which may take as long as the others', its answer, and phi's own load.
        assert heard(behind) == [Queued(2, 100.0 + 30.0 + 11.0 + 30.0)]
        clock.now_s += 10
        download(Loading("llama", 0.2, 90.0, LoadStep.DOWNLOADING))
        assert heard(behind) == []  # as it was said
        download(Loading("llama", 0.3, 300.0, LoadStep.DOWNLOADING))
        assert heard(behind) == [Queued(2, 300.0 + 30.0 + 11.0 + 30.0)]


@settings(max_examples=400, deadline=None)
@given(
    aliases=st.text("abcd", min_size=1, max_size=40),
    fits=st.integers(1, 3),
    slots=st.integers(1, 3),
    limit=st.integers(0, 3),
    leavers=st.sets(st.integers(0, 39)),
    pauses=st.lists(st.integers(0, 7), min_size=1, max_size=8),
)
def test_whoever_asks_for_whatever_everybody_is_answered_and_nobody_is_overtaken_beyond_the_limit(
    aliases: str, fits: int, slots: int, limit: int, leavers: set[int], pauses: list[int]
) -> None:
    async def scenario() -> None:
        engine = Crowded(fits=fits)
        async with InferenceQueue(engine, slots=slots, limit=99, overtaking_limit=limit) as queue:
            everybody = []
            for number, alias in enumerate(aliases):
                everybody.append(queue.submit(request(alias)))
                for _ in range(pauses[number % len(pauses)]):
                    await asyncio.sleep(0)
                if number in leavers:
                    everybody[-1].cancel()
            for number, generation in enumerate(everybody):
                end = ending(await asyncio.wait_for(read(generation), 5))
                assert end.reason is FinishReason.STOP or number in leavers
            await settled()
            assert (queue.running, queue.waiting, engine.in_use) == (0, 0, [])
            assert all(generation.overtaken <= limit for generation in everybody)
            assert len(engine.resident) <= fits

    asyncio.run(scenario())
