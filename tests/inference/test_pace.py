"""How far a load is and how long it will take, as people read it."""

from __future__ import annotations

from bot.inference.engine import Loading, LoadStep
from bot.inference.pace import Pace


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_time_left_follows_from_the_time_it_took_so_far() -> None:
    clock = Clock()
    pace = Pace("gemma", clock)
    assert pace.event("downloading gemma", 0.0) == Loading("gemma", 0.0, None, LoadStep.DOWNLOADING)
    clock.now_s += 20
    assert pace.event("downloading gemma", 0.25) == Loading("gemma", 0.25, 60.0, LoadStep.DOWNLOADING)


def test_what_was_there_already_does_not_count_as_speed() -> None:
    clock = Clock()
    pace = Pace("gemma", clock)
    pace.event("downloading gemma", 0.5)
    clock.now_s += 10
    event = pace.event("downloading gemma", 0.75)
    assert event is not None
    assert event.eta_s == 10.0


def test_each_step_has_a_time_of_its_own() -> None:
    clock = Clock()
    pace = Pace("gemma", clock)
    pace.event("downloading gemma", 0.0)
    clock.now_s += 500
    assert pace.event("loading gemma", None) == Loading("gemma", None, None, LoadStep.LOADING)
    clock.now_s += 2
    assert pace.event("loading gemma", 0.5) == Loading("gemma", 0.5, 2.0, LoadStep.LOADING)


def test_less_than_a_percent_is_no_news() -> None:
    pace = Pace("gemma", Clock())
    told = [pace.event("loading gemma", n / 1000) for n in range(1001)]
    assert sum(event is not None for event in told) in range(80, 103)


def test_no_time_is_promised_before_there_is_a_speed() -> None:
    clock = Clock()
    pace = Pace("gemma", clock)
    pace.event("loading gemma", 0.0)
    clock.now_s += 0.1
    event = pace.event("loading gemma", 0.02)
    assert event is not None
    assert event.eta_s is None
