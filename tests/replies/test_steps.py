"""However a text is made and however it arrives, reading it takes a number of steps that grows with its length only.

Steps are counted, not seconds: the lines of the bot's code that run, which also sees what is done for each character.
What a line does in C is bounded by the `steps` that the parsers count themselves: the characters that they look at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bot
from bot.inference.engine import Finished, FinishReason, TextDelta, Usage
from bot.ops.quotes import without_quotes
from bot.replies.harmless import with_plain_links
from bot.replies.limits import safe
from bot.replies.markdown import Reader, code_in
from bot.replies.pages import PageSplitter
from bot.replies.shown import Shown
from bot.replies.think import ThinkFilter, thoughts_in

OURS = str(Path(bot.__file__).parent)
N = 3_000  # characters, more than a page; and four times as many

# What each text repeats behind its first line. Some of them stopped the bot for seconds.
WORST = {
    "short lines of code": ("```c\n", "a\n"),
    "a code block of blank lines": ("```\n", "\n"),
    "lines of C": ("```c\n", "  int x = y[1];\n"),
    "a spoiler of short lines": ("||", "a\n"),
    "bold words without an end": ("", "**a "),
    "all marks at once": ("", "**a __b ~~c ||d `e "),
    "backticks": ("", "`"),
    "backticks and words": ("", "`a ``b "),
    "blocks": ("", "```a```"),
    "fences on lines": ("", "```\n"),
    "beginnings of blocks that are none": ("", "\\```"),
    "backslashes": ("", "\\"),
    "masked links": ("", "[a](https://b.c) "),
    "masked links in code": ("", "`[a](https://b.c)` "),
    "beginnings of links": ("", "]("),
    "beginnings of targets": ("](", "-"),
    "brackets": ("", "[]"),
    "brackets that stay open": ("`a` ](https://b) ", "["),
    "addresses": ("`](https://b)` ", "://"),
    "angle brackets": ("`](https://b)` ", "<"),
    "colons": ("`](https://b)` ", ":a"),
    "quotes": ("", "> a\n"),
    "a quoted block": ("> ```\n", "> a\n"),
    "beginnings of lines": ("", ">#- "),
    "invitations": ("", "https://discord.gg/a "),
    "invitations without a scheme": ("", "discord.gg/a"),
    "invitations in a word": ("", "a.discord.gg/a."),
    "schemes": ("", "https://"),
    "user names": ("https://", "discord.gg*@"),
    "mentions": ("", "<@1>"),
    "a table": ("|a|b|\n|-|-|\n", "|a|b|\n"),
    "a table of long names": (f"|{'n' * 90}|\n|-|\n", "|a|\n"),
    "beginnings of tables": ("", "|a|\n|-|\n"),
    "bars": ("", "|a\n"),
    "bars on one line": ("", "|a"),
    "deep headings": ("", "#### "),
    "whole quotes": ("", ">>> a\n"),
    "whole quotes in a block": ("```\n", ">>> a\n"),
    "one word": ("", "x"),
    "spaces": ("a", " "),
    "line ends": ("a", "\n"),
    "line ends and words": ("", "\n\n\na"),
    "ends of sentences": ("", '."'),
    "marks over marks": ("e", "\u0301"),
    "families": ("", "👩‍👩‍👧‍👦"),
    "flags": ("", "\N{REGIONAL INDICATOR SYMBOL LETTER J}"),
    "beginnings of escape sequences": ("", "\x9d"),
    "isolates": ("", "\u2067"),
    "thoughts": ("<think>", "a </thin"),
    "beginnings of thoughts": ("", "<thin\n"),
    "many thoughts": ("", "<think>a</think>\n"),
    "spaces before a thought": ("", "  "),
}


def text_of(name: str, length: int) -> str:
    first, repeated = WORST[name]
    text = first + repeated * (length // len(repeated) + 1)
    return text[: length - 1] + "x"


class Steps:
    """How many lines of the bot's code ran."""

    count = 0


@contextmanager
def counted() -> Iterator[Steps]:
    steps = Steps()

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        steps.count += event == "line"
        return local

    def entered(frame: FrameType, event: str, arg: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(OURS) else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        yield steps
    finally:
        sys.settrace(before)


def at_once(text: str) -> int:
    splitter = PageSplitter()
    splitter.feed(text)
    assert splitter.pages
    return splitter.steps


def one_by_one(text: str) -> int:
    splitter = PageSplitter()
    for character in text:
        splitter.feed(character)
    assert splitter.pages
    return splitter.steps


def with_a_note(text: str) -> int:
    shown = Shown()
    shown.apply(TextDelta(text, Usage()))
    shown.apply(Finished(FinishReason.STOP, Usage()))
    shown.end(Finished(FinishReason.STOP, Usage()), "smol")
    return 0


def going_on(text: str) -> int:
    Shown.going_on(text)
    return 0


def thinking(text: str) -> int:
    think = ThinkFilter()
    for character in text:
        think.feed(character)
    think.flush()
    return think.steps


def thinking_at_once(text: str) -> int:
    thoughts_in(text)
    return 0


def as_a_reply(text: str) -> int:
    """As a live reply does: a token at a time, with a look now and then."""
    shown = Shown()
    for at in range(0, len(text), 4):
        shown.apply(TextDelta(text[at : at + 4], Usage()))
        if at % 200 == 0:
            shown.now()
    shown.now()
    return 0


def as_one_message(text: str) -> int:
    reader = Reader()
    reader.feed(text)
    code_in(text)
    with_plain_links(text)
    return reader.steps


def as_a_quotation(text: str) -> int:
    without_quotes(text, [text, "something else that was written"])
    return 0


READ = [
    at_once,
    one_by_one,
    going_on,
    thinking,
    thinking_at_once,
    as_a_reply,
    as_one_message,
    as_a_quotation,
    with_a_note,
]


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("name", WORST)
def test_four_times_the_text_is_four_times_the_steps(name: str, read: Callable[[str], int]) -> None:
    counts = []
    for length in (N, 4 * N):
        text = text_of(name, length)
        with counted() as steps:
            looked_at = read(text)
        assert steps.count <= 150 * length + 5_000
        assert looked_at <= 20 * length + 2_000
        counts.append(steps.count)
    assert counts[1] <= 6 * counts[0]  # the square would be 16 times as many


def test_of_an_error_of_any_length_only_what_may_be_shown_is_read() -> None:
    with counted() as steps:
        assert safe("\u2067" * 100_000, 100) == "…"
    assert steps.count < 10_000


MARKS = st.lists(
    st.sampled_from([repeated for _, repeated in WORST.values()] + ["</think>", "[a](", "e", " ", "\n"]),
    min_size=1,
    max_size=6,
).map("".join)


@settings(max_examples=60, deadline=None)
@given(MARKS)
def test_whatever_is_repeated_the_steps_grow_with_the_length(repeated: str) -> None:
    for length in (N // 2, 2 * N):
        text = repeated * (length // len(repeated) + 1)
        for read in (at_once, one_by_one, thinking, as_one_message):
            with counted() as steps:
                looked_at = read(text)
            assert steps.count <= 150 * len(text) + 5_000
            assert looked_at <= 20 * len(text) + 2_000
