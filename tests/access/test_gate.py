"""Letting people in, with the real database and a clock that the tests set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bot.access.asker import Asker
from bot.access.gate import Gate, Limits
from bot.access.recent import Admission
from bot.access.rules import OperatorAccess
from bot.chat.messages import ChatMessage, Role
from bot.errors import AccessRefused, LimitReached, StorageError
from bot.inference.catalog import ModelSpec
from bot.inference.engine import Finished, FinishReason, GenerationRequest, Usage
from bot.inference.generation import Generation
from bot.storage.access import AccessRules, Quota, Rule, Subject, SubjectKind
from bot.storage.database import Database, open_database
from bot.storage.usage import SPAN_S, UsageSpans

BEGIN = datetime(2026, 11, 23, 12, tzinfo=UTC)
SERVER = 100
SPEC = ModelSpec(alias="smol", source="embedded", context_tokens=2048, description="small")
QUESTION = (ChatMessage(Role.SYSTEM, "You help."), ChatMessage(Role.USER, "Why?"))


def asker(person_id: int = 1, server_id: int | None = SERVER, **values: Any) -> Asker:
    places = (300,) if server_id is None else (300, server_id)
    return Asker(person_id, places, frozenset(), server_id, **values)


@dataclass
class Door:
    """A gate, its time, and people who go through it."""

    gate: Gate
    rules: AccessRules
    now: datetime = BEGIN

    def after(self, **time: float) -> None:
        self.now += timedelta(**time)

    async def enter(self, who: Asker | None = None, messages: Sequence[ChatMessage] = QUESTION) -> Admission:
        admission = await self.gate.admit(who or asker(), "smol", messages)
        request = GenerationRequest(SPEC, tuple(messages))
        admission.generation = Generation(request, lambda *_: None, lambda *_: None)
        return admission

    async def answer(self, who: Asker | None = None, *, tokens: int = 10, gpu_s: float = 1.0) -> None:
        """Somebody asks, and is answered at once."""
        with await self.enter(who) as admission:
            end(admission, tokens, gpu_s)
            await self.gate.record(admission)

    async def why_not(self, who: Asker | None = None) -> str:
        with pytest.raises(AccessRefused) as caught:
            await self.enter(who)
        return str(caught.value)


def end(admission: Admission, tokens: int = 10, gpu_s: float = 1.0) -> None:
    assert admission.generation is not None
    usage = Usage(tokens // 2, tokens - tokens // 2, 0.1, gpu_s)
    admission.generation.put(Finished(FinishReason.STOP, usage))


def mark(at: datetime) -> str:
    return f"<t:{int(at.timestamp())}:R>"


def door_to(database: Database, limits: Limits, operator: OperatorAccess | None = None) -> Door:
    rules = AccessRules(database)
    door: Door
    gate = Gate(operator or OperatorAccess(), limits, rules, UsageSpans(database), clock=lambda: door.now)
    door = Door(gate, rules)
    return door


@asynccontextmanager
async def opened(folder: Path, **limits: Any) -> AsyncIterator[Door]:
    async with open_database(folder / "punchline.sqlite3") as database:
        yield door_to(database, Limits(**limits))


async def test_who_asked_often_is_told_when_it_opens_again_and_then_it_does(tmp_path: Path) -> None:
    async with opened(tmp_path, person=Quota(2)) as door:
        await door.answer()
        door.after(seconds=20)
        await door.answer()
        door.after(seconds=10)
        opens = BEGIN + timedelta(seconds=60)
        assert (
            await door.why_not()
            == f"You have asked 2 times within a minute. You can ask again {mark(opens)}."
        )
        await door.answer(asker(2))
        door.after(seconds=29)
        await door.why_not()
        door.after(seconds=1)
        await door.answer()


async def test_tokens_of_a_day_open_again_as_they_get_a_day_old_also_after_a_restart(tmp_path: Path) -> None:
    limits = {"person": Quota(tokens_per_day=25)}
    async with opened(tmp_path, **limits) as door:
        await door.answer()
        door.after(hours=1)
        await door.answer()
        door.after(hours=1)
        await door.answer()
        assert "used 25 tokens within a day" in await door.why_not()
    async with opened(tmp_path, **limits) as door:
        door.after(hours=3)
        assert (await door.why_not()).endswith(f"You can ask again {mark(BEGIN + timedelta(days=1))}.")
        await door.answer(asker(2))
        door.now = BEGIN + timedelta(days=1, seconds=-1)
        await door.why_not()
        door.after(seconds=1)
        await door.answer()
        await door.why_not()


async def test_gpu_time_of_a_day_is_counted_beside_the_tokens(tmp_path: Path) -> None:
    async with opened(tmp_path, person=Quota(None, 1_000_000, 300)) as door:
        for _ in range(3):
            await door.answer(gpu_s=100.0)
        assert "You have used 5 min of GPU time within a day. You can ask again <t:" in await door.why_not()


async def test_a_person_is_one_person_everywhere_and_a_server_is_all_its_people(tmp_path: Path) -> None:
    async with opened(tmp_path, person=Quota(tokens_per_day=15), server=Quota(tokens_per_day=35)) as door:
        await door.answer(asker(1))
        await door.answer(asker(1, 200))
        assert "You have used 15 tokens" in await door.why_not(asker(1, None))
        for person in (2, 2, 3):
            await door.answer(asker(person))
        assert "The people of this server have together used 35 tokens" in await door.why_not(asker(4))
        await door.answer(asker(4, 200))
        await door.answer(asker(5, is_guest=True))
        assert await door.gate.used_by_server(SERVER) == (40, 4.0)


async def test_moderators_give_less_than_the_operator_but_not_more(tmp_path: Path) -> None:
    async with opened(tmp_path, person=Quota(3)) as door:
        everyone = Subject(SubjectKind.ROLE, SERVER)
        await door.rules.put_quota(SERVER, everyone, Quota(1), set_by=9)
        await door.answer()
        assert "asked once within a minute here, which is what this server's" in await door.why_not()
        await door.answer(asker(1, 200))
        await door.rules.put_quota(SERVER, everyone, Quota(100), set_by=9)
        await door.answer()
        assert "You have asked 3 times within a minute. " in await door.why_not()


async def test_what_moderators_decide_holds_from_the_next_request_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        await door.answer()
        await door.rules.put_rule(SERVER, Rule(Subject(SubjectKind.PERSON, 1), False), set_by=9)
        assert "moderators do not let you" in await door.why_not()
        with pytest.raises(AccessRefused):
            await door.gate.welcome(asker())
        await door.gate.welcome(asker(2))
        await door.rules.switch_off(SERVER, set_by=9)
        assert "switched off" in await door.why_not(asker(2))
        await door.answer(asker(1, None))


async def test_requests_under_way_are_counted_until_their_generation_has_ended(tmp_path: Path) -> None:
    async with opened(tmp_path, person_requests=2) as door:
        first, second = await door.enter(), await door.enter(asker(1, None))
        with first, second:
            assert "2 answers for you are on the way" in await door.why_not()
            await door.answer(asker(2))
            end(second)
            with await door.enter() as third:
                await door.why_not()
                end(third)
        await door.answer()


async def test_a_request_that_is_refused_or_breaks_off_was_asked_and_holds_no_place(tmp_path: Path) -> None:
    async with opened(tmp_path, person=Quota(6), person_requests=1, prompt_characters=10) as door:
        for _ in range(2):  # the queue was full: nobody was answered
            with await door.gate.admit(asker(), "smol", QUESTION):
                pass
        with pytest.raises(LookupError), await door.enter():
            raise LookupError
        with pytest.raises(LimitReached, match="11 characters"):
            await door.enter(messages=(ChatMessage(Role.USER, "x" * 11),))
        with await door.enter() as held:
            assert "on the way" in await door.why_not()
            end(held)
        for _ in range(3):  # what the limit itself refuses does not put off when it opens
            assert "asked 6 times" in await door.why_not()
            door.after(seconds=19)
        door.after(seconds=3)
        await door.answer()


async def test_of_many_who_come_at_the_same_moment_no_more_are_let_in_than_may(tmp_path: Path) -> None:
    async with opened(tmp_path, person_requests=3, server_requests=5) as door:
        entering = [door.enter(asker(person)) for person in (1, 2) for _ in range(6)]
        ended = await asyncio.gather(*entering, return_exceptions=True)
        let_in = [one for one in ended if isinstance(one, Admission)]
        assert len(let_in) == 5
        assert all(isinstance(one, Admission | LimitReached) for one in ended)
        assert any("5 requests from this server may wait or run" in str(one) for one in ended)
        for one in let_in:
            with one:
                end(one)
        await door.answer()


async def test_a_question_that_is_too_long_is_refused_and_what_was_said_before_does_not_count(
    tmp_path: Path,
) -> None:
    long = ChatMessage(Role.USER, "x" * 101)
    async with opened(tmp_path, prompt_characters=100) as door:
        with pytest.raises(LimitReached, match="has 101 characters, and the most is 100"):
            await door.enter(messages=(long,))
        with pytest.raises(LimitReached):
            await door.enter(messages=(long, ChatMessage(Role.ASSISTANT, "Once")))
        conversation = (long, ChatMessage(Role.ASSISTANT, "Because."), ChatMessage(Role.USER, "Why?"))
        with await door.enter(messages=conversation):
            pass


async def test_a_database_that_does_not_take_it_costs_no_answer_and_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as door:

        async def broken(*_: object) -> None:
            raise StorageError("The disk is full.")

        door.gate._usage.add = broken  # type: ignore[method-assign, assignment]
        await door.answer()
    assert "The disk is full." in caplog.text


async def test_a_database_that_hangs_is_a_sentence_in_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:

        async def hang(_: int) -> Any:
            await asyncio.Event().wait()

        door.gate._patience_s = 0.01
        door.rules.of = hang  # type: ignore[method-assign, assignment]
        with pytest.raises(StorageError, match="does not answer"):
            await door.enter()


async def test_use_that_is_a_day_old_is_forgotten_and_newer_use_is_not(tmp_path: Path) -> None:
    async with open_database(tmp_path / "punchline.sqlite3") as database:
        door = door_to(database, Limits())
        await door.answer()
        door.after(days=1, seconds=SPAN_S)
        await door.answer(asker(2))
        await door.gate.forget_old()

        def people(connection: Any) -> list[int]:
            rows = connection.exec_driver_sql("SELECT subject_id FROM usage_spans WHERE kind = 'person'")
            return [row[0] for row in rows]

        assert await database.read(people) == [2]


async def test_a_clock_that_is_set_back_keeps_nobody_out(tmp_path: Path) -> None:
    async with opened(tmp_path, person=Quota(1, 15)) as door:
        await door.answer()
        door.after(hours=-3)
        await door.answer()
