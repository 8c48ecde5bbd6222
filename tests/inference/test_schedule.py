"""Who is next, and that nobody is passed over for ever."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from bot.inference.schedule import fair_order, next_to_start


@dataclass(eq=False)
class Person:
    model: str
    overtaken: int = 0
    name: str = ""

    @property
    def person(self) -> str:
        return self.name or str(id(self))


def start(waiting: list[Person], *ready: str, excused: str = "", limit: int = 2) -> Person | None:
    return next_to_start(
        waiting,
        ready=lambda one: one.model in ready,
        excused=lambda one: bool(one.model) and one.model in excused,
        limit=limit,
    )


def test_first_come_first_served_where_the_models_are_there() -> None:
    first, second = Person("a"), Person("b")
    assert start([first, second], "a", "b") is first
    assert second.overtaken == 0


def test_who_waits_for_a_model_lets_others_go_first_but_not_for_ever() -> None:
    patient = Person("cold")
    others = [Person("a") for _ in range(3)]
    assert start([patient, *others], "a") is others[0]
    assert start([patient, *others[1:]], "a") is others[1]
    assert patient.overtaken == 2
    assert start([patient, others[2]], "a") is None


def test_while_ones_own_model_is_loaded_nothing_is_lost_by_letting_others_go() -> None:
    patient = Person("cold", overtaken=2)
    other = Person("a")
    assert start([patient, other], "a", excused="cold") is other
    assert patient.overtaken == 2


def test_nobody_waits_nobody_starts() -> None:
    assert start([], "a") is None


@given(
    arrivals=st.lists(st.sampled_from("abc"), max_size=60),
    changes=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "a", "b", "c"])), min_size=1),
    limit=st.integers(0, 5),
)
def test_nobody_is_overtaken_more_often_than_the_limit_whatever_is_in_memory(
    arrivals: list[str], changes: list[tuple[str, str]], limit: int
) -> None:
    waiting: list[Person] = []
    everybody: list[Person] = []
    for number, model in enumerate(arrivals):
        waiting.append(Person(model))
        everybody.append(waiting[-1])
        ready, excused = changes[number % len(changes)]
        before = list(waiting)
        chosen = start(waiting, ready, excused=excused, limit=limit)
        if chosen is not None:
            assert chosen.model == ready
            assert chosen is next(one for one in before if one.model == ready)
            waiting.remove(chosen)
    assert all(one.overtaken <= limit for one in everybody)


def test_one_persons_ten_do_not_keep_out_anothers_one() -> None:
    greedy = [Person("a", name="greedy") for _ in range(10)]
    modest = Person("a", name="modest")
    waiting = [*greedy[1:], modest]
    chosen = next_to_start(waiting, running=[greedy[0]], ready=lambda _: True, excused=lambda _: False)
    assert chosen is modest
    assert fair_order(waiting, [greedy[0]])[0] is modest


def test_who_has_nothing_running_takes_turns_with_the_others() -> None:
    line = [Person("a", name=name) for name in ("x", "x", "x", "y", "y", "z")]
    assert [one.name for one in fair_order(line, [])] == ["x", "y", "z", "x", "y", "x"]


def test_a_persons_first_request_is_passed_by_no_more_than_the_limit() -> None:
    running = [Person("a", name="busy")]
    patient = Person("a", name="busy")
    for number in range(8):
        newcomer = Person("a", name=f"new {number}")
        line = [patient, newcomer]
        assert next_to_start(line, running=running, ready=lambda _: True, excused=lambda _: False) is newcomer
    line = [patient, Person("a", name="one too many")]
    assert next_to_start(line, running=running, ready=lambda _: True, excused=lambda _: False) is patient


@given(
    arrivals=st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("ab")), max_size=40),
    running=st.lists(st.sampled_from("xyz"), max_size=6),
    ready=st.sampled_from(["a", "b", "ab", ""]),
)
def test_turns_change_the_order_of_people_and_not_of_ones_own_requests(
    arrivals: list[tuple[str, str]], running: list[str], ready: str
) -> None:
    line = [Person(model, name=name) for name, model in arrivals]
    order = fair_order(line, [Person("a", name=name) for name in running])
    assert sorted(map(id, order)) == sorted(map(id, line))
    for name in "xyz":
        assert [one for one in order if one.name == name] == [one for one in line if one.name == name]
    chosen = next_to_start(line, ready=lambda one: one.model in ready, excused=lambda _: False)
    assert chosen is None or chosen.model in ready
    assert (chosen is None) == (not any(one.model in ready for one in line))
