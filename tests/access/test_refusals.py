"""What is said in public to people who mention the bot and get no answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bot.access.refusals import CHANNEL_MOST, Refusals
from bot.errors import AccessRefused, LimitReached, PlaceClosed, QueueFull, StorageError


class Clock:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def test_a_person_hears_of_a_rule_once_in_ten_minutes_and_of_anything_else_once_a_minute() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    for what in (QueueFull("full"), StorageError("slow"), "greeting", AccessRefused("no")):
        assert refusals.worth_saying(what, 1, 9)
        assert not refusals.worth_saying(what, 1, 9)
        assert not refusals.worth_saying(what, 1, 8)
    assert not refusals.worth_saying(LimitReached("enough"), 1, 9)  # a refusal, too
    clock.now += timedelta(minutes=1)
    assert refusals.worth_saying(QueueFull("full"), 1, 9)
    assert not refusals.worth_saying(AccessRefused("no"), 1, 9)
    clock.now += timedelta(minutes=9)
    assert refusals.worth_saying(AccessRefused("no"), 1, 9)


def test_a_channel_hears_little_however_many_people_ask() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    said = [refusals.worth_saying(QueueFull("full"), person, 9) for person in range(40)]
    assert said == [True] * CHANNEL_MOST + [False] * (40 - CHANNEL_MOST)
    assert refusals.worth_saying(QueueFull("full"), 100, 8)
    clock.now += timedelta(minutes=1)
    assert refusals.worth_saying(QueueFull("full"), 39, 9)  # nobody has told them yet


def test_where_nobody_is_answered_nothing_is_said() -> None:
    assert not Refusals(Clock()).worth_saying(PlaceClosed("off"), 1, 9)


def test_a_clock_that_is_set_back_silences_nobody() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    assert refusals.worth_saying(QueueFull("full"), 1, 9)
    clock.now -= timedelta(hours=1)
    assert refusals.worth_saying(QueueFull("full"), 1, 9)
