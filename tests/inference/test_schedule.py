"""Who is next, and that nobody is passed over for ever."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from bot.inference.schedule import next_to_start


@dataclass
class Person:
    model: str
    overtaken: int = 0


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
