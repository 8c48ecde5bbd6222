"""The waiting time that people are told: from what was measured, and None where nothing was."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.chat.messages import ChatMessage, Role
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import Finished, FinishReason, GenerationRequest, TextDelta, Usage
from bot.inference.estimate import LEAST_S, Arrival, Estimates, Joins, Told, in_turn, spoken, together
from bot.inference.generation import Generation


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def model(alias: str) -> ModelSpec:
    return ModelSpec(alias=alias, source=f"/models/{alias}", context_tokens=256, description="a model")


def asks(alias: str = "a", max_new_tokens: int = 512, *, overtaken: int = 0) -> Generation:
    params = SamplingParams.model_validate({"max_new_tokens": max_new_tokens})
    request = GenerationRequest(model(alias), (ChatMessage(Role.USER, "Hi"),), params)
    generation = Generation(request, lambda *_: None, lambda _: None)
    generation.overtaken = overtaken
    return generation


def has_its_turn(generation: Generation, *, begun_s: float = 100.0, tokens: int = 0) -> Generation:
    generation.begun_s = begun_s
    if tokens:
        generation.put(TextDelta("…", Usage(8, tokens, 1.0, 1.0 + tokens)))
    return generation


def answer(tokens: int, *, first_s: float = 1.0, token_s: float = 0.5) -> Finished:
    return Finished(FinishReason.STOP, Usage(8, tokens, first_s, first_s + (tokens - 1) * token_s))


def after_answers(clock: Clock | None = None, **tokens: int) -> Estimates:
    """What was learned from one answer of each model; see `answer` for its speed."""
    estimates = Estimates(clock or Clock())
    for alias, count in tokens.items():
        estimates.answered(model(alias), answer(count))
    return estimates


def waits(
    estimates: Estimates,
    running: list[Generation],
    waiting: list[Generation],
    slots: int = 1,
    *,
    limit: int = 8,
    **arrivals: Arrival,
) -> list[float | None]:
    """The waits of a line where the models that are not named in `arrivals` are in memory."""
    return estimates.waits_s(running, waiting, slots, lambda spec: arrivals.get(spec.alias), limit)


def test_an_answer_takes_the_time_to_its_first_token_and_then_its_usual_tokens() -> None:
    assert after_answers(a=21).run_s(asks("a").request) == 11.0


def test_an_answer_never_takes_longer_than_its_token_limit_allows() -> None:
    assert after_answers(a=201).run_s(asks("a", max_new_tokens=11).request) == 6.0


def test_a_model_that_never_answered_borrows_the_numbers_of_all() -> None:
    estimates = after_answers(a=21)
    assert estimates.run_s(asks("b").request) == 11.0
    estimates.answered(model("b"), answer(21, token_s=5.0))
    assert estimates.run_s(asks("b").request) == 101.0


def test_nothing_is_said_before_something_was_measured() -> None:
    estimates = Estimates(Clock())
    assert estimates.run_s(asks().request) is None
    assert estimates.load_s(model("a")) is None
    assert estimates.likely_load_s(model("a")) is None
    running = has_its_turn(asks())
    assert estimates.left_s(running) is None
    assert waits(estimates, [running], [asks(), asks()]) == [None, None]


@pytest.mark.parametrize(
    "finished",
    [
        Finished(FinishReason.CANCELLED, Usage(8, 2, 1.0, 2.0)),  # says nothing about how long answers are
        Finished(FinishReason.STOP, Usage(8, 0)),
        Finished(FinishReason.STOP, Usage(8, 5)),  # an engine that takes no times
    ],
)
def test_nothing_is_learned_from_an_answer_that_says_nothing(finished: Finished) -> None:
    estimates = Estimates(Clock())
    estimates.answered(model("a"), finished)
    assert estimates.run_s(asks().request) is None


def test_what_was_measured_of_a_model_holds_under_another_alias_and_other_words() -> None:
    estimates = after_answers(a=21)
    estimates.loaded(model("a"), 10.0)
    estimates.answered(model("b"), answer(21, token_s=5.0))
    renamed = model("a").model_copy(update={"alias": "renamed", "description": "in other words"})
    assert estimates.load_s(renamed) == 10.0
    assert estimates.run_s(GenerationRequest(renamed, ())) == 11.0


def test_a_mean_follows_what_is_new_and_forgets_what_was_odd() -> None:
    estimates = Estimates(Clock())
    estimates.loaded(model("a"), 100.0)
    for _ in range(20):
        estimates.loaded(model("a"), 10.0)
    load_s = estimates.load_s(model("a"))
    assert load_s is not None
    assert 10.0 < load_s < 12.0
    assert estimates.likely_load_s(model("b")) == load_s
    assert estimates.load_s(model("b")) is None


def test_what_runs_has_left_what_its_usual_time_is_longer_than_the_time_it_had() -> None:
    clock = Clock()
    estimates = after_answers(clock, a=21)
    running = has_its_turn(asks())
    clock.now_s += 8
    assert estimates.left_s(running) == 3.0
    clock.now_s += 500
    assert estimates.left_s(running) == LEAST_S


def test_the_tokens_that_are_there_say_more_than_the_time_it_had() -> None:
    clock = Clock()
    estimates = after_answers(clock, a=21)
    clock.now_s += 100
    assert estimates.left_s(has_its_turn(asks(), tokens=11)) == 5.0
    assert estimates.left_s(has_its_turn(asks(), tokens=300)) == LEAST_S


def test_an_answer_that_was_stopped_has_its_slot_for_a_moment_only() -> None:
    running = has_its_turn(asks())
    running.put(running.ending(FinishReason.CANCELLED))
    assert after_answers(a=21).left_s(running) == LEAST_S


def test_the_wait_is_what_runs_has_left_and_the_answers_ahead() -> None:
    estimates = after_answers(a=21)
    assert waits(estimates, [has_its_turn(asks(), tokens=11)], [asks(), asks(), asks()]) == [5.0, 16.0, 27.0]


def test_two_slots_halve_the_wait() -> None:
    estimates = after_answers(a=21)
    running = [has_its_turn(asks(), tokens=11), has_its_turn(asks())]
    assert waits(estimates, running, [asks(), asks(), asks()], slots=2) == [5.0, 11.0, 16.0]


def test_an_answer_that_nobody_can_predict_takes_one_of_two_slots_and_not_both() -> None:
    estimates = Estimates(Clock())
    running = has_its_turn(asks())
    assert waits(estimates, [running], [asks(), asks()], slots=2) == [0.0, None]
    assert waits(estimates, [running, has_its_turn(asks())], [asks()], slots=2) == [None]


def test_a_load_that_waits_for_room_begins_when_what_runs_has_ended_and_counts_once() -> None:
    estimates = after_answers(a=21)
    cold = Arrival(30.0, under_way=False)
    running = has_its_turn(asks("a"), tokens=11)
    assert waits(estimates, [running], [asks("b"), asks("b")], b=cold) == [35.0, 46.0]
    assert waits(estimates, [running], [asks("b"), asks("c")], b=cold, c=cold) == [35.0, 76.0]


def test_a_load_that_waits_for_room_has_it_no_sooner_because_a_slot_is_free() -> None:
    estimates = after_answers(a=21)
    running = has_its_turn(asks("a"), tokens=11)
    assert waits(estimates, [running], [asks("b")], slots=2, b=Arrival(30.0, under_way=False)) == [35.0]


def test_a_load_that_is_under_way_goes_on_beside_the_answers() -> None:
    estimates = after_answers(a=21)
    running = has_its_turn(asks("a"), tokens=11)
    assert waits(estimates, [running], [asks("b")], b=Arrival(30.0, under_way=True)) == [30.0]
    assert waits(estimates, [running], [asks("b")], b=Arrival(2.0, under_way=True)) == [5.0]


def test_who_needs_no_load_does_not_wait_for_that_of_others() -> None:
    estimates = after_answers(a=21)
    running = has_its_turn(asks("a"), tokens=11)
    unknown = Arrival(None, under_way=True)
    assert waits(estimates, [running], [asks("b"), asks("a")], b=unknown) == [None, 5.0]


def test_who_may_pass_nobody_any_more_waits_for_their_load_too() -> None:
    estimates = after_answers(a=21)
    running = has_its_turn(asks("a"), tokens=11)
    cold = Arrival(30.0, under_way=False)
    patient = asks("b", overtaken=3)
    assert waits(estimates, [running], [patient, asks("a")], limit=3, b=cold) == [35.0, 46.0]
    assert waits(estimates, [running], [patient, asks("a")], limit=4, b=cold) == [46.0, 5.0]


def test_behind_a_load_of_which_nobody_knows_how_long_it_takes_nothing_is_promised() -> None:
    estimates = after_answers(a=21)
    line = [asks("b"), asks("c")]
    unknown, cold = Arrival(None, under_way=False), Arrival(30.0, under_way=False)
    assert waits(estimates, [], line, b=unknown, c=cold) == [None, None]


@pytest.mark.parametrize(
    ("told_s", "later_s", "now_s", "news"),
    [
        (30.0, 10.0, 20.0, False),  # as was said
        (30.0, 10.0, 22.0, False),
        (30.0, 10.0, 30.0, True),
        (30.0, 10.0, 5.0, True),
        (300.0, 0.0, 330.0, False),  # hardly another wait
        (5.0, 60.0, LEAST_S, False),
        (5.0, 60.0, 20.0, True),
        (None, 10.0, 20.0, True),
        (30.0, 10.0, None, True),
        (None, 10.0, None, False),
    ],
)
def test_only_a_wait_that_is_noticeably_other_than_was_said_is_news(
    told_s: float | None, later_s: float, now_s: float | None, news: bool
) -> None:
    assert Told(2, told_s, 100.0).outdated_by(Told(2, now_s, 100.0 + later_s)) is news


def test_another_position_is_always_news() -> None:
    assert Told(2, None, 100.0).outdated_by(Told(1, None, 100.0))


@pytest.mark.parametrize(("seconds", "words"), [(30, "30 seconds"), (119, "119 seconds"), (300, "5 minutes")])
def test_a_limit_is_said_in_words(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


TIMES = st.floats(0, 500)
ALIASES = st.sampled_from("abcd")
ARRIVALS = st.none() | st.builds(Arrival, st.none() | TIMES, under_way=st.booleans())
PEOPLE = st.builds(asks, ALIASES, st.integers(1, 300), overtaken=st.integers(0, 3))
RUNNING = st.builds(has_its_turn, PEOPLE, begun_s=st.floats(0, 100), tokens=st.integers(0, 300))
ANSWERS = st.builds(answer, st.integers(1, 300), first_s=TIMES, token_s=st.floats(0, 2))


def one_model(spec: ModelSpec, running: Sequence[ModelSpec]) -> bool:
    return all(other.key == spec.key for other in running)


def one_request(spec: ModelSpec, running: Sequence[ModelSpec]) -> bool:
    return not running


def test_a_model_that_answers_one_at_a_time_uses_one_slot_of_many() -> None:
    running, line = [has_its_turn(asks(), tokens=11)], [asks(), asks()]
    found = after_answers(a=21).waits_s(running, line, 16, lambda _: None, 8, one_request)
    assert found == [5.0, 16.0]


def test_who_joins_what_answers_now_waits_for_no_change_and_the_others_wait_for_its_end() -> None:
    running, line = [has_its_turn(asks("a"), tokens=11)], [asks("b"), asks("a"), asks("b")]
    found = after_answers(a=21).waits_s(running, line, 16, lambda _: None, 8, one_model)
    assert found == [11.0, 0.0, 11.0]


def test_who_may_be_passed_no_more_is_next_whoever_could_join_what_answers_now() -> None:
    running, line = [has_its_turn(asks("a"), tokens=11)], [asks("b", overtaken=8), asks("a")]
    found = after_answers(a=21).waits_s(running, line, 16, lambda _: None, 8, one_model)
    assert found == [5.0, 16.0]


@settings(max_examples=500, deadline=None)
@given(
    answers=st.lists(st.tuples(st.sampled_from("abc"), ANSWERS), max_size=5),
    running=st.lists(RUNNING, max_size=3),
    waiting=st.lists(PEOPLE, max_size=8),
    newcomer=PEOPLE,
    more_slots=st.integers(0, 2),
    arrivals=st.fixed_dictionaries(dict.fromkeys("abcd", ARRIVALS)),
    limit=st.integers(0, 4),
    joins=st.sampled_from([together, one_model, one_request]),
)
def test_no_wait_is_negative_it_grows_along_the_line_and_a_longer_line_is_never_a_shorter_wait(
    answers: list[tuple[str, Finished]],
    running: list[Generation],
    waiting: list[Generation],
    newcomer: Generation,
    more_slots: int,
    arrivals: dict[str, Arrival | None],
    limit: int,
    joins: Joins,
) -> None:
    estimates = Estimates(Clock())
    for alias, finished in answers:
        estimates.answered(model(alias), finished)
    slots = max(1, len(running)) + more_slots

    def arrival(spec: ModelSpec) -> Arrival | None:
        return arrivals[spec.alias]

    def waits_of(line: list[Generation]) -> dict[Generation, float]:
        found = estimates.waits_s(running, line, slots, arrival, limit, joins)
        return {one: math.inf if eta_s is None else eta_s for one, eta_s in zip(line, found, strict=True)}

    before, after = waits_of(waiting), waits_of([*waiting, newcomer])
    assert all(eta_s >= 0 for eta_s in after.values())
    now = [one.request.model for one in running]
    order = in_turn([*waiting, newcomer], arrival, limit, joins=lambda spec: joins(spec, now))
    assert sorted(map(id, order)) == sorted(map(id, (*waiting, newcomer)))
    along = [after[one] for one in order]
    assert along == sorted(along)
    assert all(after[one] >= before[one] for one in waiting)
