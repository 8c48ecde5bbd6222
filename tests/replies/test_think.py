"""What a model thinks is not what it answers, however it arrives."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.replies.think import ThinkFilter

CASES = int(os.environ.get("PROPERTY_CASES", "2000"))  # continuous integration: 20,000

TAGS = ["<think>", "</think>", "<", "think", ">", "</", "<thin", "```", "```\n"]
WORDS = ["\n", "\n\n", " ", "answer", "a < b", "漢字"]
PIECES = st.lists(st.sampled_from(TAGS + WORDS), max_size=25).map("".join)


def filtered(*pieces: str) -> tuple[str, str, bool]:
    """The answer, the thoughts, and whether it was still thinking at the end."""
    think = ThinkFilter()
    answer = "".join(map(think.feed, pieces)) + think.flush()
    return answer, think.thoughts, think.thinking


@pytest.mark.timeout(600)  # many cases, on machines that are shared
@settings(max_examples=CASES, deadline=None)
@given(text=PIECES, cuts=st.lists(st.integers(0, 9), max_size=30))
def test_how_it_is_cut_into_tokens_makes_no_difference(text: str, cuts: list[int]) -> None:
    pieces, rest = [], text
    for size in cuts:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert filtered(*pieces, rest) == filtered(text)


@settings(max_examples=2_000, deadline=None)
@given(thought=st.text("abc <>/\n", max_size=60), answer=st.text("xyz <>/", max_size=60))
def test_nothing_of_a_thought_is_in_the_answer_and_nothing_of_the_answer_is_lost(
    thought: str, answer: str
) -> None:
    said, thoughts, thinking = filtered(*f"<think>\n{thought}</think>\n\nZ{answer}")
    assert said == f"Z{answer}"
    assert thoughts == thought.strip()
    assert not thinking


@given(st.text(max_size=200).filter(lambda text: "<think>" not in text))
def test_an_answer_without_thoughts_is_left_as_it_is(text: str) -> None:
    assert filtered(text) == (text, "", False)


def test_thoughts_that_never_end_are_all_thoughts() -> None:
    assert filtered("<thi", "nk>let me", " see</thi") == ("", "let me see</thi", True)


def test_while_it_thinks_that_is_known() -> None:
    think = ThinkFilter()
    assert think.feed("<think>hm") == ""
    assert think.thinking
    assert think.feed("</think>\nIt") == "It"
    assert not think.thinking
    assert think.thoughts == "hm"


@pytest.mark.parametrize(
    "text",
    [
        "The tag <think> begins a thought.",
        "```html\n<think>\n</think>\n```\n",
        "It ends with </think>, you see.",
        "a < b and <thi",
    ],
)
def test_an_answer_about_the_tags_is_an_answer(text: str) -> None:
    assert filtered(text) == (text, "", False)


def test_it_may_think_again_later() -> None:
    assert filtered("<think>a</think>\nFirst.\n<think>b</think>\nSecond.") == ("First.\nSecond.", "ab", False)
