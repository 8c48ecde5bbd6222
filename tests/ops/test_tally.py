"""What an operator's glance counts, with a clock that the tests set."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from bot.chat.messages import ChatMessage, Role
from bot.errors import LimitReached, OutOfMemory
from bot.inference.catalog import ModelSpec
from bot.inference.engine import Finished, FinishReason, GenerationRequest, TextDelta, Usage
from bot.inference.generation import Generation
from bot.ops.tally import Tally

SPEC = ModelSpec(alias="smol", source="embedded", context_tokens=2048, description="small")


@dataclass
class Time:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def generation(tally: Tally) -> Generation:
    request = GenerationRequest(SPEC, (ChatMessage(Role.USER, "Why?"),))
    return Generation(request, lambda *_: None, lambda *_: None, tally)


def test_tokens_count_once_and_for_a_minute() -> None:
    tally = Tally(time := Time(1_000.0))
    answer = generation(tally)
    answer.put(TextDelta("a", Usage(5, 20)))
    answer.put(TextDelta("b", Usage(5, 50)))
    answer.put(Finished(FinishReason.STOP, Usage(5, 60)))
    assert tally.tokens_per_second == 1.0
    assert tally.answers == 1
    time.now_s += 59.0
    assert tally.tokens_per_second == 1.0
    time.now_s += 2.0
    assert tally.tokens_per_second == 0.0
    assert tally.answers == 1


def test_errors_are_counted_by_name_for_an_hour_and_refusals_are_no_errors() -> None:
    tally = Tally(time := Time())
    generation(tally).put(Finished(FinishReason.ERROR, Usage(), OutOfMemory("no")))
    tally.failed(OutOfMemory("no"))
    tally.failed(LimitReached("later"))
    tally.failed(ZeroDivisionError())
    assert tally.errors == {"OutOfMemory": 2, "unexpected (builtins)": 1}
    assert tally.refusals == 1
    time.now_s += 3_661.0
    assert tally.errors == {}
    assert tally.refusals == 0


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 5)), max_size=40))
def test_what_is_counted_is_what_came_within_the_minute(arrivals: list[tuple[float, int]]) -> None:
    tally = Tally(time := Time())
    times: list[tuple[float, int]] = []
    for pause_s, tokens in arrivals:
        time.now_s += pause_s
        generation(tally).put(TextDelta("a", Usage(1, tokens)))
        times.append((time.now_s, tokens))
    surely = sum(tokens for at_s, tokens in times if at_s > time.now_s - 59)
    perhaps = sum(tokens for at_s, tokens in times if at_s > time.now_s - 60)
    assert surely <= round(tally.tokens_per_second * 60) <= perhaps
