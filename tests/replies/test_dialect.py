"""Tables, deep headings, and notes under quotes: what Discord does not render becomes what it does."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.errors import ModelUnavailable
from bot.inference.engine import Finished, FinishReason, TextDelta, Usage
from bot.replies.dialect import DialectFilter, under, with_ending_quote
from bot.replies.pages import MESSAGE_LIMIT, units
from bot.replies.shown import Shown
from bot.replies.status import interrupted_text
from tests.replies.discord_markdown import Node, live, parse

CASES = int(os.environ.get("PROPERTY_CASES", "2000"))  # continuous integration: 20,000
USAGE = Usage(completion_tokens=3)

TABLE = """\
Here it is:

| Name | Age | City |
|:-----|----:|------|
| **Ann** | 30 | Paris |
| Bob |  | a \\| b<br>c |

And so on."""
LIST = """\
Here it is:

- Name: **Ann** · Age: 30 · City: Paris
- Name: Bob · City: a | b; c

And so on."""


def rendered(text: str) -> str:
    dialect = DialectFilter()
    return dialect.feed(text) + dialect.flush()


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (TABLE, LIST),
        ("#### Title", "### Title"),
        ("a\n###### **Deep**\nb", "a\n### **Deep**\nb"),
        ("### Title", "### Title"),
        ("####### no heading", "####### no heading"),
        ("####no heading", "####no heading"),
        ("a #### b", "a #### b"),
        ("####", "####"),
        (
            "```md\n#### a\n| b | c |\n|---|---|\n| d | e |\n```",
            "```md\n#### a\n| b | c |\n|---|---|\n| d | e |\n```",
        ),
        ("Sure! ```\n#### a\n``` \n#### b", "Sure! ```\n#### a\n``` \n### b"),
        ("| a | b |\n|---|---|\n| c |", "- a: c"),
        ("|a|b|\n|-|-|\n|c|d|e|", "- a: c · b: d · e"),
        ("| a | b |\n|---|---|", "a · b\n"),
        ("| a | b |\n| c | d |", "| a | b |\n| c | d |"),
        ("| a | b |\n|---|", "| a | b |\n|---|"),
        ("||spoiler|| and more", "||spoiler|| and more"),
        ("|x| = 3\n|y| = 4\n", "|x| = 3\n|y| = 4\n"),
        ("| | b |\n|---|---|\n| c | d |\n", "- c · b: d\n"),
        ("| a |\n|---|\n| ```x``` |\n", "a\n| ```x``` |\n"),
        ("> #### a\n> b", "> ### a\n> b"),
        ("> | a | b |\n> |---|---|\n> | c | d |\n>| e | f |\nand", "> - a: c · b: d\n> - a: e · b: f\nand"),
        ("> | a |\n> |---|\n| b |\n", "> a\n| b |\n"),
        ("> | a |\n|---|\n> | b |\n", "> | a |\n|---|\n> | b |\n"),
        ("> ```\n> | a |\n> |---|\n> | b |\n> ```", "> ```\n> | a |\n> |---|\n> | b |\n> ```"),
        (f"| {'n' * 40} | b |\n|---|---|\n| c | d |", f"- {'n' * 23}…: c · b: d"),
    ],
)
def test_what_discord_does_not_render_becomes_what_it_does(written: str, shown: str) -> None:
    assert rendered(written) == shown


def test_a_row_is_seen_as_soon_as_it_is_there() -> None:
    dialect = DialectFilter()
    assert dialect.feed("| a | b |\n|---|---|\n| c | d |\n| e") == "- a: c · b: d\n"
    assert dialect.feed(" | f |\n") == "- a: e · b: f\n"


PIECES = st.lists(
    st.sampled_from(
        [
            "|",
            "| a ",
            "|---|---|\n",
            "-",
            "\n",
            "#### ",
            "#",
            " ",
            "```",
            "`",
            "a",
            "\\",
            ">>> ",
            "> ",
            "> |",
            "||",
            "| b |\n",
        ]
    ),
    max_size=30,
).map("".join)


@settings(max_examples=CASES // 2, deadline=None)
@given(PIECES, st.lists(st.integers(1, 4)))
def test_however_it_arrives_the_same_is_shown(text: str, sizes: list[int]) -> None:
    dialect, arrived, place = DialectFilter(), "", 0
    for size in sizes:
        arrived += dialect.feed(text[place : place + size])
        place += size
    assert arrived + dialect.feed(text[place:]) + dialect.flush() == rendered(text)


def ended(text: str, reason: FinishReason = FinishReason.STOP) -> list[str]:
    shown = Shown()
    shown.apply(TextDelta(text, USAGE))
    shown.apply(Finished(reason, USAGE))
    assert shown.text == text  # what is kept
    return shown.end(Finished(reason, USAGE), "smol").pages


def quoted(content: str) -> str:
    def of(nodes: tuple[Node, ...]) -> str:
        return "".join(node.seen if node.kind == "quote" else of(node.parts) for node in nodes)

    return of(tuple(parse(content)))


@pytest.mark.parametrize(
    "text",
    [
        ">>> He said\nthis.",
        "He said:\n>>> one\n\ntwo",
        "a\n>>> ```py\nx = 1\n```",
        ">>> **bold\nwords",
        "```\n>>> no quote\n```\n>>> a quote",
        ">>> [x](https://evil.example) `[y](https://evil.example)`\nand more",
        " >>> # a\n>>> b",
    ],
)
def test_what_stands_under_a_quote_is_not_quoted(text: str) -> None:
    (page,) = ended(text)
    assert page.endswith("\n-# smol · 3 tokens · 0.0 s")
    assert "smol" not in quoted(page)
    assert quoted(page).strip()
    assert not live(page)
    assert "restart" not in quoted(interrupted_text(text, "smol"))


def test_a_quote_of_which_nothing_stands_under_it_stays() -> None:
    assert with_ending_quote("a >>> b") == "a >>> b"
    shown = Shown()
    shown.apply(TextDelta(">>> a\nb", USAGE))
    assert shown.now().pages == [">>> a\nb"]


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("a ` b", "-# It says: `[x](https://evil.example)`"),
        ("a `` b", "-# It says: ``<@1> discord.gg/abc``"),
        ("[a `discord.gg/abc` b", "-# ](j)"),
    ],
)
def test_a_note_under_an_answer_makes_no_link_of_what_each_has_as_code(content: str, note: str) -> None:
    assert not live(content)
    assert not live(note)
    assert live(f"{content}\n{note}")
    assert not live(under(content, note))


def test_a_note_that_gets_longer_under_a_full_last_message_still_fits() -> None:
    shown = Shown()
    shown.apply(TextDelta("`" + "a " * 900, USAGE))
    error = ModelUnavailable("`" + "discord.gg/a " * 70 + "`")
    finished = Finished(FinishReason.ERROR, USAGE, error)
    shown.apply(finished)
    shown.refuse_pages(1, "it is full")
    (page,) = shown.end(finished, "smol").pages
    assert "discord.gg" in page
    assert not live(page)
    assert units(page) <= MESSAGE_LIMIT


def test_a_long_quote_of_short_lines_still_has_its_end_outside() -> None:
    pages = ended(">>> " + "a\n" * 880)
    assert all(len(page) <= 2000 for page in pages)
    assert not any("smol" in quoted(page) for page in pages)


@settings(max_examples=CASES // 4, deadline=None)
@given(PIECES)
def test_whatever_is_written_its_end_is_not_quoted(text: str) -> None:
    # Where it cannot be told what is code, a mistake is one of looks.
    pages = ended(text.replace("`", "") + "b")
    assert not any("smol" in quoted(page) for page in pages)


def test_pages_that_split_a_table_have_whole_rows() -> None:
    rows = "".join(f"| name {n} | {n} | a word |\n" for n in range(150))
    pages = ended(f"| Name | Number | Word |\n|---|---|---|\n{rows}")
    assert len(pages) > 2
    lines = [line for page in pages for line in page.split("\n") if not line.startswith("-#")]
    assert lines == [f"- Name: name {n} · Number: {n} · Word: a word" for n in range(150)]


def test_an_answer_that_goes_on_goes_on_in_its_table() -> None:
    shown = Shown.going_on("| a | b |\n|---|---|\n| c | d |\n| e ")
    shown.apply(TextDelta("| f |\n| g | h |\n", USAGE))
    shown.apply(Finished(FinishReason.STOP, USAGE))
    assert shown.now().pages == ["| f |\n- a: g · b: h"]
