"""In which order prompts are read: short ones first, and nobody is passed over for ever."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.inference.loader import LoadedModel
from bot.inference.reading_order import shortest_first
from bot.inference.schedule import OVERTAKING_LIMIT
from tests.inference.checkpoints import save_checkpoint
from tests.inference.stepping import Stepped, loaded_exactly


@dataclass(eq=False)
class Prompt:
    left: int
    begun: bool = False
    overtaken: int = 0


def order(prompts: list[Prompt], limit: int = 2) -> list[Prompt]:
    return shortest_first(
        prompts,
        left=lambda one: one.left,
        begun=lambda one: one.begun,
        overtaken=lambda one: one.overtaken,
        limit=limit,
    )


def test_the_shortest_is_read_first_and_equals_in_the_order_of_arrival() -> None:
    long, first, second = Prompt(900, begun=True), Prompt(30), Prompt(30)
    assert order([long, first, second]) == [first, second, long]


def test_who_was_overtaken_often_enough_is_read_before_anybody_who_comes_later_begins() -> None:
    patient, begun, newcomer = Prompt(900, overtaken=2), Prompt(50, begun=True), Prompt(3)
    assert order([patient, begun, newcomer]) == [patient, begun]


def test_no_more_begin_in_one_step_than_may_pass_the_first() -> None:
    patient = Prompt(900, overtaken=1)
    assert [one.left for one in order([patient, Prompt(5), Prompt(4)])] == [4, 900]


@given(
    st.lists(st.builds(Prompt, st.integers(1, 50), st.booleans(), st.integers(0, 4)), max_size=12),
    st.integers(1, 4),
)
def test_the_first_is_always_among_them_and_nobody_is_left_out_who_has_begun(
    prompts: list[Prompt], limit: int
) -> None:
    chosen = order(prompts, limit)
    assert len(set(map(id, chosen))) == len(chosen)
    assert all(one in chosen for one in prompts[:1])
    assert all(one in chosen for one in prompts if one.begun)
    for place, one in enumerate(prompts):
        passing = [other for other in prompts[place + 1 :] if other in chosen and not other.begun]
        assert len(passing) <= max(0, limit - one.overtaken)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return loaded_exactly(save_checkpoint("llama", tmp_path_factory.mktemp("order") / "llama"))


def ids(count: int, first: int = 5) -> list[int]:
    return [first + n * 7 % 200 for n in range(count)]


def test_a_question_is_not_kept_waiting_by_a_document(loaded: LoadedModel) -> None:
    with Stepped(loaded) as batch:
        talking = batch.add(ids(10), 60)
        batch.step()
        document = batch.add(ids(400, 60), 2)
        assert batch.step().keys() == {talking, document}
        question = batch.add(ids(12, 90), 2)
        read = batch.step()
        assert read[question] == 12
        assert read[document] == 64 - 12 - read[talking]
        assert question in batch.said
        assert document not in batch.said


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 120), st.integers(0, 3)), min_size=5, max_size=40))
def test_nobody_is_passed_by_more_than_the_limit_and_everybody_is_answered(
    loaded: LoadedModel, arrivals: list[tuple[int, int]]
) -> None:
    with Stepped(loaded, step_tokens=8) as batch:
        asked, begun, passed = list[str](), set[str](), Counter[str]()

        def step() -> bool:
            unread = [name for name in asked if name not in batch.said]
            read = batch.step()
            for name in read.keys() - begun:
                passed.update(other for other in unread[: unread.index(name)] if other not in batch.said)
            begun.update(read)
            return bool(read)

        for number, (length, steps) in enumerate(arrivals):
            asked.append(batch.add(ids(length, number), 2))
            for _ in range(steps):
                step()
        while step():
            pass
        assert batch.ended == dict.fromkeys(asked)
        assert max(passed.values(), default=0) <= OVERTAKING_LIMIT


def test_no_more_than_the_limit_pass_a_document(loaded: LoadedModel) -> None:
    with Stepped(loaded, step_tokens=16) as batch:
        document = batch.add(ids(300, 60), 2)
        batch.step()
        questions, begun_before = list[str](), set[str]()
        while document not in batch.said:
            questions.append(batch.add(ids(30, len(questions)), 1))
            read = batch.step()
            begun_before |= read.keys() - {document}
            assert len(questions) < 100
        assert len(begun_before) == OVERTAKING_LIMIT
        batch.steps()
        assert batch.ended.keys() == {document, *questions}
