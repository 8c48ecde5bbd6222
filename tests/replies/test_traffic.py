"""Replies that stream into one channel share what Discord takes there; time moves only when the test says so."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis import example, given
from hypothesis import strategies as st

from bot.replies.traffic import EVERYWHERE_REQUESTS, ON_THE_WAY_S, Bucket, Claim, Traffic, Worth

CHANNEL = Bucket.of_edits(1)


@dataclass
class Street:
    """Claims that are made again and again, and when each was granted."""

    traffic: Traffic = field(default_factory=Traffic)
    now_s: float = 0.0
    made: list[tuple[float, Claim]] = field(default_factory=list)

    def claim(self, bucket: Bucket = CHANNEL, worth: Worth = Worth.WORDS) -> Claim:
        claim = Claim(bucket, worth, self.now_s)
        self.traffic.enter(claim)
        return claim

    def run(self, claims: list[Claim], until_s: float, *, again: bool = True) -> None:
        """Each is taken when it may be; who was taken stands in line again a second later."""
        waiting, later = list(claims), list[tuple[float, Claim]]()
        while self.now_s < until_s:
            for claim in list(waiting):
                if self.traffic.wait_s(claim, self.now_s) <= 1e-9:
                    self.traffic.take(claim, self.now_s)
                    self.traffic.answered(self.now_s)
                    self.made.append((self.now_s, claim))
                    waiting.remove(claim)
                    if again:
                        later.append((self.now_s + 1.0, claim))
            for at_s, claim in list(later):
                if at_s <= self.now_s:
                    later.remove((at_s, claim))
                    claim.since_s = self.now_s
                    self.traffic.enter(claim)
                    waiting.append(claim)
            self.now_s = round(self.now_s + 0.05, 6)


def test_sixteen_who_edit_in_one_channel_take_turns_and_nobody_waits_longer_than_a_round() -> None:
    street = Street()
    claims = [street.claim() for _ in range(16)]
    street.run(claims, 80.0)
    times: dict[int, list[float]] = defaultdict(list)
    for at_s, claim in street.made:
        times[id(claim)].append(at_s)
    gaps = [b - a for one in times.values() for a, b in zip([0.0, *one], one, strict=False)]
    assert len(times) == 16
    assert max(gaps) <= 16.5
    made = [at_s for at_s, _ in street.made]
    assert all(sum(at - 5.0 + 1e-9 < other <= at for other in made) <= 5 for at in made)


def test_replies_to_commands_do_not_share_and_each_moves_about_once_a_second() -> None:
    street = Street()
    claims = [street.claim(Bucket.of_interaction(number)) for number in range(16)]
    street.run(claims, 20.0)
    assert len(street.made) >= 16 * 15


def test_an_end_goes_before_whoever_waits() -> None:
    street = Street()
    others = [street.claim() for _ in range(8)]
    street.run(others, 2.5, again=False)
    assert len(street.made) == 3
    end = street.claim(worth=Worth.END)
    left = [one for one in others if all(one is not made for _, made in street.made)]
    street.run([*left, end], 4.0, again=False)
    assert street.made[3] == (2.5, end)


def test_first_words_go_before_more_words_and_a_place_in_the_queue_comes_last() -> None:
    traffic = Traffic()
    claims = {worth: Claim(CHANNEL, worth, 10.0) for worth in (Worth.STATUS, Worth.WORDS, Worth.FIRST_WORDS)}
    for claim in claims.values():
        traffic.enter(claim)
    waits = [traffic.wait_s(claims[worth], 10.0) for worth in (Worth.FIRST_WORDS, Worth.WORDS, Worth.STATUS)]
    assert waits == [0.0, 1.0, 2.0]


def test_news_that_are_worth_little_are_not_put_off_for_ever() -> None:
    street = Street()
    status = street.claim(worth=Worth.STATUS)
    words = [street.claim() for _ in range(4)]
    street.run([status, *words], 30.0)
    assert any(claim is status for at_s, claim in street.made if at_s < 20.0)


def test_who_is_behind_hears_that_somebody_has_left_the_line() -> None:
    traffic, moved = Traffic(), []
    first = Claim(CHANNEL, Worth.WORDS, 0.0)
    second = Claim(CHANNEL, Worth.WORDS, 1.0, moved=lambda: moved.append("second"))
    traffic.enter(first)
    traffic.enter(second)
    assert traffic.wait_s(second, 1.0) > 0
    traffic.leave(first)
    assert moved == ["second"]
    assert traffic.wait_s(second, 1.0) == 0
    traffic.leave(first)
    assert moved == ["second"]


@given(
    st.lists(st.tuples(st.integers(0, 70), st.floats(0, 0.3), st.floats(0, 2), st.floats(0, 1)), max_size=200)
)
def test_the_whole_bot_stays_under_its_limit_however_late_its_requests_arrive(
    steps: list[tuple[int, float, float, float]],
) -> None:
    traffic, now_s, arrived = Traffic(), 0.0, list[float]()
    in_flight: list[float] = []

    def pass_time(until_s: float) -> None:
        for at_s in sorted(at_s for at_s in in_flight if at_s <= until_s):
            in_flight.remove(at_s)
            traffic.answered(at_s)

    for number, pause_s, takes_s, on_the_way in steps:
        now_s += pause_s
        pass_time(now_s)
        claim = Claim(Bucket.of_interaction(number), Worth.WORDS, now_s)
        traffic.enter(claim)
        while (wait_s := traffic.wait_s(claim, now_s)) > 0:
            now_s += wait_s
            pass_time(now_s)
        traffic.take(claim, now_s)
        arrived.append(now_s + takes_s * on_the_way)
        in_flight.append(now_s + takes_s)
    assert all(
        sum(at - 1.0 + 1e-6 < other <= at for other in arrived) <= EVERYWHERE_REQUESTS for at in arrived
    )


@example([(0.0, ON_THE_WAY_S)] * 5 + [(0.0, 0.0)])
@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, ON_THE_WAY_S)), max_size=40))
def test_a_channels_new_messages_stay_under_its_limit_though_some_arrive_late(
    steps: list[tuple[float, float]],
) -> None:
    traffic, now_s, arrived = Traffic(), 0.0, list[float]()
    for pause_s, on_the_way_s in steps:
        now_s += pause_s
        claim = Claim(Bucket.of_new_messages(1), Worth.FIRST_WORDS, now_s)
        traffic.enter(claim)
        while (wait_s := traffic.wait_s(claim, now_s)) > 0:
            now_s += wait_s
        traffic.take(claim, now_s)
        arrived.append(now_s + on_the_way_s)
        traffic.answered(arrived[-1])
    assert all(sum(at - 5.0 + 1e-6 < other <= at for other in arrived) <= 5 for at in arrived)


def test_buckets_that_are_not_used_any_more_are_forgotten() -> None:
    traffic = Traffic()
    for number in range(1000):
        claim = Claim(Bucket.of_interaction(number), Worth.WORDS, number * 10.0)
        traffic.enter(claim)
        traffic.take(claim, number * 10.0)
        traffic.answered(number * 10.0)
    assert len(traffic._budgets) <= 2
