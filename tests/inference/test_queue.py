"""Waiting for the one GPU, as those who wait see it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.chat.messages import ChatMessage, Role
from bot.errors import (
    BotError,
    GenerationTimeout,
    ModelUnavailable,
    QueueFull,
    QueueTimeout,
    ShuttingDown,
    Unexpected,
)
from bot.inference.catalog import ModelSpec
from bot.inference.engine import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Loading,
    Queued,
    TextDelta,
    Usage,
)
from bot.inference.estimate import LEAST_S, Estimates
from bot.inference.generation import Generation
from bot.inference.queue import InferenceQueue
from bot.inference.scripted import ScriptedEngine
from tests.inference.reading import ending, read, text_of

SPEC = ModelSpec(alias="tiny", source="embedded", context_tokens=256, description="a model")
REQUEST = GenerationRequest(SPEC, (ChatMessage(Role.USER, "Hi"),))


async def settled() -> None:
    """Let everything that can run without new input do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_answer_arrives_in_pieces_and_then_how_it_ended() -> None:
    async with InferenceQueue(ScriptedEngine()) as queue:
        events = await read(queue.submit(REQUEST))
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["Hello", ", ", "world."]
    assert ending(events) == Finished(FinishReason.STOP, Usage(8, 3, 0.05, 0.15))


async def test_one_runs_and_the_others_know_their_position_as_it_changes() -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=("one", gate.wait))
    async with InferenceQueue(engine) as queue:
        first, second, third = (queue.submit(REQUEST) for _ in range(3))
        await settled()
        assert len(engine.started) == 1
        assert (queue.running, queue.waiting) == (1, 2)
        assert third.next_nowait() == Queued(2, None)
        gate.set()
        assert [event for event in await read(first) if isinstance(event, Queued)] == []
        assert [event.position for event in await read(second) if isinstance(event, Queued)] == [1]
        assert [event.position for event in await read(third) if isinstance(event, Queued)] == [1]
    assert len(engine.started) == 3


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


TWENTY_SECONDS = ("word ",) * 400  # a scripted token takes 0.05 s


def told(generation: Generation) -> list[tuple[int, float | None]]:
    """The positions and waits that somebody was told and has not read yet."""
    events = []
    while (event := generation.next_nowait()) is not None:
        assert isinstance(event, Queued)
        events.append((event.position, None if event.eta_s is None else round(event.eta_s, 3)))
    return events


async def test_the_wait_is_estimated_once_something_was_measured() -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=TWENTY_SECONDS)
    async with InferenceQueue(engine, estimates=Estimates(Clock())) as queue:
        before = queue.submit(REQUEST), queue.submit(REQUEST)
        assert told(before[1]) == [(1, None)]
        for one in before:
            await read(one)
        engine.script = (forever.wait,)
        _, second, third = (queue.submit(REQUEST) for _ in range(3))
        assert told(second) == [(1, 20.0)]
        assert told(third) == [(2, 40.0)]


async def test_a_wait_that_shrinks_as_it_was_said_to_is_not_told_again() -> None:
    clock, forever = Clock(), asyncio.Event()
    engine = ScriptedEngine(script=TWENTY_SECONDS)
    async with InferenceQueue(engine, estimates=Estimates(clock)) as queue:
        await read(queue.submit(REQUEST))
        engine.script = (forever.wait,)
        _, waiting = queue.submit(REQUEST), queue.submit(REQUEST)
        await settled()
        assert told(waiting) == [(1, 20.0)]
        clock.now_s += 12
        behind = queue.submit(REQUEST)
        assert told(waiting) == []
        assert told(behind) == [(2, 28.0)]


async def test_who_waits_hears_of_it_when_the_answer_before_is_done_much_sooner_than_was_said() -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    engine = ScriptedEngine(script=TWENTY_SECONDS)
    async with InferenceQueue(engine, estimates=Estimates(Clock())) as queue:
        await read(queue.submit(REQUEST))
        engine.script = (gate.wait, *TWENTY_SECONDS[:300], forever.wait)
        _, waiting = queue.submit(REQUEST), queue.submit(REQUEST)
        gate.set()
        await settled()
        assert told(waiting) == [(1, 20.0)]
        queue.submit(REQUEST).cancel()  # an event; nothing polls
        assert told(waiting) == [(1, 5.0)]


async def test_an_answer_that_should_have_ended_by_now_makes_no_new_promises() -> None:
    clock, forever = Clock(), asyncio.Event()
    engine = ScriptedEngine(script=TWENTY_SECONDS)
    async with InferenceQueue(engine, estimates=Estimates(clock)) as queue:
        await read(queue.submit(REQUEST))
        engine.script = (forever.wait,)
        _, waiting = queue.submit(REQUEST), queue.submit(REQUEST)
        await settled()
        clock.now_s += 100
        behind = queue.submit(REQUEST)
        assert told(waiting) == [(1, 20.0)]
        assert told(behind) == [(2, 20.0 + LEAST_S)]


async def test_a_full_queue_refuses_at_once_and_takes_the_next_when_a_place_is_free() -> None:
    gate = asyncio.Event()
    async with InferenceQueue(ScriptedEngine(script=(gate.wait,)), limit=1) as queue:
        queue.submit(REQUEST)
        waiting = queue.submit(REQUEST)
        with pytest.raises(QueueFull, match="try again"):
            queue.submit(REQUEST)
        waiting.cancel()
        queue.submit(REQUEST)


async def test_no_waiting_allowed_still_lets_one_run() -> None:
    async with InferenceQueue(ScriptedEngine(), limit=0) as queue:
        events = await read(queue.submit(REQUEST))
    assert ending(events).reason is FinishReason.STOP


async def test_cancelled_while_waiting_it_never_reaches_the_model() -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=(gate.wait,))
    async with InferenceQueue(engine) as queue:
        running, waiting, behind = (queue.submit(REQUEST) for _ in range(3))
        waiting.cancel()
        assert ending(await read(waiting)).reason is FinishReason.CANCELLED
        assert queue.waiting == 1
        assert [behind.next_nowait(), behind.next_nowait()] == [Queued(2, None), Queued(1, None)]
        gate.set()
        await read(running)
        await read(behind)
    assert len(engine.started) == 2


async def test_cancelled_while_running_the_model_stops_and_the_next_has_its_turn() -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=("Once upon", forever.wait))
    async with InferenceQueue(engine) as queue:
        running, waiting = queue.submit(REQUEST), queue.submit(REQUEST)
        await settled()
        running.cancel()
        events = await read(running)
        assert text_of(events) == "Once upon"
        assert ending(events) == Finished(FinishReason.CANCELLED, Usage(8, 1, 0.05, 0.05))
        await settled()
        assert engine.stopped == 1
        assert len(engine.started) == 2
        waiting.cancel()


async def test_cancelled_before_its_first_step_it_frees_its_place() -> None:
    engine = ScriptedEngine()
    async with InferenceQueue(engine) as queue:
        generation = queue.submit(REQUEST)
        generation.cancel()
        assert ending(await read(generation)).reason is FinishReason.CANCELLED
        await settled()
        assert queue.running == 0
        assert ending(await read(queue.submit(REQUEST))).reason is FinishReason.STOP


async def test_leaving_the_block_gives_the_place_back_whatever_happened() -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=("a", forever.wait))
    async with InferenceQueue(engine) as queue:
        with pytest.raises(ZeroDivisionError):
            async with queue.submit(REQUEST):
                await settled()
                raise ZeroDivisionError
        await settled()
        assert (engine.stopped, queue.running) == (1, 0)


async def test_a_model_that_hangs_when_stopped_holds_its_slot_but_not_the_person() -> None:
    release = asyncio.Event()

    class Stubborn(ScriptedEngine):
        async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
            self.started.append(request)
            try:
                yield TextDelta("so", Usage(8, 1))
                await asyncio.Event().wait()
            finally:
                await release.wait()

    engine = Stubborn()
    async with InferenceQueue(engine) as queue:
        generation = queue.submit(REQUEST)
        await settled()
        generation.cancel()
        assert ending(await read(generation)).reason is FinishReason.CANCELLED
        queue.submit(REQUEST)
        await settled()
        assert len(engine.started) == 1
        release.set()
        await settled()
        assert len(engine.started) == 2


async def test_waiting_for_too_long_ends_with_a_sentence() -> None:
    forever = asyncio.Event()
    async with InferenceQueue(ScriptedEngine(script=(forever.wait,)), queue_timeout_s=0.01) as queue:
        queue.submit(REQUEST)
        end = ending(await read(queue.submit(REQUEST)))
        assert isinstance(end.error, QueueTimeout)
        assert queue.waiting == 0


async def test_an_answer_that_takes_too_long_is_stopped_and_keeps_its_numbers() -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=("Well", forever.wait))
    async with InferenceQueue(engine, generation_timeout_s=0.01) as queue:
        events = await read(queue.submit(REQUEST))
        await settled()
    assert text_of(events) == "Well"
    assert isinstance(ending(events).error, GenerationTimeout)
    assert ending(events).usage.completion_tokens == 1
    assert engine.stopped == 1


async def test_loading_has_a_time_of_its_own() -> None:
    loading = ScriptedEngine(
        script=(Loading("tiny", 0.5), lambda: asyncio.sleep(0.05), Loading("tiny", 1.0), "done")
    )
    async with InferenceQueue(loading, generation_timeout_s=0.02) as queue:
        assert ending(await read(queue.submit(REQUEST))).reason is FinishReason.STOP
    async with InferenceQueue(loading, load_timeout_s=0.01) as queue:
        end = ending(await read(queue.submit(REQUEST)))
    assert isinstance(end.error, GenerationTimeout)
    assert "loaded" in str(end.error)


async def test_a_failing_model_is_a_sentence_with_a_reference_that_the_log_has_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = ScriptedEngine(script=("Half an ans", ValueError("shapes (3,4) and (5,6)")))
    with caplog.at_level(logging.ERROR):
        async with InferenceQueue(engine) as queue:
            events = await read(queue.submit(REQUEST))
    error = ending(events).error
    assert text_of(events) == "Half an ans"
    assert isinstance(error, Unexpected)
    assert "shapes" not in str(error)
    assert error.reference in str(error)
    assert error.reference in caplog.text
    assert "Traceback" in caplog.text


async def test_a_failure_with_an_explanation_is_passed_on_and_frees_the_place() -> None:
    engine = ScriptedEngine(script=(ModelUnavailable("tiny is not on this disk."),))
    async with InferenceQueue(engine) as queue:
        for _ in range(3):
            assert str(ending(await read(queue.submit(REQUEST))).error) == "tiny is not on this disk."
        await settled()
        assert queue.running == 0


async def test_an_engine_that_dies_tells_everybody_who_waits() -> None:
    class Dead(ScriptedEngine):
        def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
            raise RuntimeError("cannot schedule new futures after shutdown")

    async with InferenceQueue(Dead()) as queue:
        endings = [ending(await read(queue.submit(REQUEST))) for _ in range(3)]
    assert all(isinstance(end.error, Unexpected) for end in endings)


async def test_an_engine_that_just_ends_is_an_error_and_loses_no_text() -> None:
    class Abrupt(ScriptedEngine):
        async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
            yield TextDelta("the last chunk", Usage(8, 1))

    async with InferenceQueue(Abrupt()) as queue:
        events = await read(queue.submit(REQUEST))
    assert text_of(events) == "the last chunk"
    assert ending(events).reason is FinishReason.ERROR


async def test_closing_tells_those_who_run_and_those_who_wait_and_takes_nobody_new() -> None:
    forever = asyncio.Event()
    engine = ScriptedEngine(script=("a", forever.wait))
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(InferenceQueue(engine))
        running, waiting = queue.submit(REQUEST), queue.submit(REQUEST)
        await settled()
    for generation in (running, waiting):
        assert isinstance(ending(await read(generation)).error, ShuttingDown)
    assert (engine.stopped, len(engine.started)) == (1, 1)
    with pytest.raises(ShuttingDown):
        queue.submit(REQUEST)


async def test_nothing_comes_after_the_end() -> None:
    async with InferenceQueue(ScriptedEngine()) as queue:
        generation = queue.submit(REQUEST)
        await read(generation)
        generation.cancel()
        assert generation.next_nowait() is None
        with pytest.raises(StopAsyncIteration):
            await anext(generation)


@given(
    slots=st.integers(1, 3),
    limit=st.integers(0, 4),
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "cancel", "answer", "fail"]), st.integers(0, 9)), max_size=40
    ),
)
def test_whatever_people_do_nobody_is_lost_and_the_slots_are_never_exceeded(
    slots: int, limit: int, steps: list[tuple[str, int]]
) -> None:
    async def scenario() -> None:
        active = 0
        most = 0
        answers: asyncio.Queue[str] = asyncio.Queue()

        class Busy(ScriptedEngine):
            async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
                nonlocal active, most
                active += 1
                most = max(most, active)
                try:
                    if await answers.get() == "fail":
                        raise ModelUnavailable("no")
                    yield Finished(FinishReason.STOP, Usage())
                finally:
                    active -= 1

        accepted: list[Generation] = []
        async with InferenceQueue(Busy(), slots=slots, limit=limit) as queue:
            for what, which in steps:
                match what:
                    case "ask":
                        try:
                            accepted.append(queue.submit(REQUEST))
                        except QueueFull:
                            assert queue.running == slots
                            assert queue.waiting == limit
                    case "cancel" if accepted:
                        accepted[which % len(accepted)].cancel()
                    case "answer" | "fail" if queue.running:
                        answers.put_nowait(what)
                await settled()
                assert queue.running <= slots
                assert queue.waiting <= limit
                assert queue.running == slots or queue.waiting == 0
            for _ in accepted:
                answers.put_nowait("answer")
            endings = [ending(await asyncio.wait_for(read(generation), 5)) for generation in accepted]
            assert all(
                end.reason in FinishReason and isinstance(end.error, BotError | None) for end in endings
            )
            await settled()
            assert (queue.running, queue.waiting, active) == (0, 0, 0)
        assert most <= slots

    asyncio.run(scenario())


async def test_draining_tells_who_waits_lets_who_runs_finish_and_waits_for_their_readers() -> None:
    gate, shown = asyncio.Event(), asyncio.Event()
    async with InferenceQueue(ScriptedEngine(script=("one", gate.wait, " two"))) as queue:
        running, waiting = queue.submit(REQUEST), queue.submit(REQUEST)

        async def reader() -> list[Event]:
            async with running:
                events = [event async for event in running]
                await shown.wait()  # the last edit
            return events

        reading = asyncio.create_task(reader())
        told = asyncio.create_task(read(waiting))
        await settled()
        draining = asyncio.create_task(queue.drain(60, show_s=60))
        assert isinstance(ending(await told).error, ShuttingDown)
        with pytest.raises(ShuttingDown):
            queue.submit(REQUEST)
        gate.set()
        await settled()
        assert not draining.done()
        shown.set()
        await draining
        assert text_of(await reading) == "one two"
        assert ending(reading.result()).reason is FinishReason.STOP


async def test_draining_does_not_wait_for_ever() -> None:
    forever = asyncio.Event()
    async with InferenceQueue(ScriptedEngine(script=("one", forever.wait))) as queue:
        running = queue.submit(REQUEST)
        await settled()
        await queue.drain(0.01, show_s=0.01)
        assert isinstance(ending(await read(running)).error, ShuttingDown)


async def test_a_model_that_cannot_be_had_has_the_line_looked_at_once_for_all_who_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each look is as long as the line: one for everybody who leaves it would hold the event loop up."""
    gone = asyncio.Event()

    class Missing(ScriptedEngine):
        def ready(self, model: ModelSpec) -> bool:
            return False

        async def fetch(self, model: ModelSpec, _: object) -> None:
            await gone.wait()
            raise ModelUnavailable("It is gone.")

    async with InferenceQueue(Missing(), limit=200) as queue:
        generations = [queue.submit(replace(REQUEST, person=number)) for number in range(100)]
        await asyncio.sleep(0)
        looks = 0
        advance = InferenceQueue._advance

        def counted(self: InferenceQueue) -> None:
            nonlocal looks
            looks += 1
            advance(self)

        monkeypatch.setattr(InferenceQueue, "_advance", counted)
        gone.set()
        for generation in generations:
            async with generation:
                *_, end = [event async for event in generation]
            assert isinstance(end, Finished)
            assert isinstance(end.error, ModelUnavailable)
    assert looks <= 3
