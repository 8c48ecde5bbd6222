"""A long answer becomes messages that Discord takes, and what was shown full never changes."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bot.replies import pages as splitter_module
from bot.replies.markdown import read
from bot.replies.pages import MESSAGE_LIMIT, PAGE_LIMIT, Page, PageSplitter, split_pages, units
from tests.replies.discord_markdown import backticks, live

CASES = int(os.environ.get("PROPERTY_CASES", "2000"))  # continuous integration: 20,000

FAMILY = "👩‍👩‍👧‍👦"
WORDS = (
    st.sampled_from(
        [
            "cat",
            "regression",
            "漢字",
            "x" * 70,
            FAMILY,
            "e\u0301\u0301",
            "שלום",
            "🇯🇵",
            "**bold**",
            "`code`",
            "||secret||",
        ]
    )
    | st.sampled_from(
        [
            "*",
            "**",
            "__",
            "`",
            "``",
            "```",
            "````",
            "~",
            "~~~",
            "||",
            "~~",
            "_",
            "\\",
            "2*3",
            "snake_case",
            "[",
            "]",
            "<",
            ">",
        ]
    )
    | st.sampled_from(
        [
            "[bank](https://evil.example)",
            "](https://evil.example)",
            "](<steam://x>)",
            "https://example.org/a_b",
            "[a](b",
            "discord.gg/a",
            "https://discord.com/invite/a_b",
            "<@1>",
            "<@&2>",
        ]
    )
)
SPACES = st.sampled_from(
    [" ", ". ", "! ", "? ", "\n", "\n\n", "\n> ", "\n- ", "\n1. ", "\n## ", "\n-# ", "\n>>> ", "  ", "\t", ""]
)
PROSE = st.lists(st.tuples(WORDS, SPACES).map("".join), max_size=12).map("".join)
MARKERS = st.sampled_from(
    ["```", "````", "~~~", "~~~~~", "```python", "```c++", "~~~ js", "  ```", "```\n\n"]
)
CODE = st.lists(
    st.sampled_from(["x = 1", "", "    indented", "```", "~~~", "# no heading", "**no bold**"]), max_size=8
)
BLOCK = st.tuples(MARKERS, CODE.map("\n".join), st.sampled_from(["```", "````", "~~~~~", ""])).map("\n".join)
# Models that lose their way repeat line ends and spaces without end.
BLANKS = st.tuples(st.sampled_from([" ", "\n", "\t ", "\u00a0"]), st.integers(1, 200)).map(
    lambda run: run[0] * run[1]
)
TEXT = st.lists(PROSE | BLOCK | BLANKS | st.text(max_size=20), max_size=3).map("\n".join)


def contents(text: str, limit: int = PAGE_LIMIT) -> list[str]:
    return [page.content for page in split_pages(text, limit)]


def fed(pieces: list[str], limit: int) -> list[list[Page]]:
    """The pages after each piece."""
    splitter = PageSplitter(limit)
    seen = []
    for piece in pieces:
        splitter.feed(piece)
        seen.append(splitter.pages)
    return seen


@pytest.mark.timeout(600)  # many cases, on machines that are shared
@settings(max_examples=CASES, deadline=None)
@given(text=TEXT, limit=st.integers(64, 240), cuts=st.lists(st.integers(1, 120), max_size=6))
@example(text="cat cat cat cat cat\n>>> cat\n>>> ~~~~ https://example.org/a_b ", limit=64, cuts=[])
@example(text=f"{FAMILY} \n{' ' * 50}\n0", limit=64, cuts=[])
@example(text="cat\n## ```` ", limit=64, cuts=[])
@example(text=f"00000```\n{' ' * 52}\ncat ", limit=64, cuts=[])
@example(text="~~~\n[your bank](https://evil.example)\n~~~", limit=64, cuts=[])
@example(text="`a``[your bank](https://evil.example)```b", limit=64, cuts=[])
def test_whatever_a_model_writes_however_it_arrives(text: str, limit: int, cuts: list[int]) -> None:
    pieces, rest = [], text
    for size in cuts:
        pieces.append(rest[:size])
        rest = rest[size:]
    seen = fed([*pieces, rest], limit)
    # Joined, the pages are the text, at every moment.
    arrived = ""
    for piece, pages in zip([*pieces, rest], seen, strict=True):
        arrived += piece
        assert "".join(page.source for page in pages) == arrived
    # What was a finished page is one for ever.
    for before, after in pairwise(seen):
        finished = [page.content for page in before[:-1]]
        assert [page.content for page in after[: len(finished)]] == finished
    last = seen[-1]
    # Discord takes each, and shows something for it. (The last grapheme may have reached over the edge.)
    assert all(units(page.content) <= limit + 64 + 2 * 64 for page in last[-1:])
    assert all(units(page.content) <= limit for page in last[:-1])
    assert all(page.content.strip() for page in last) or not text.strip()
    # No code block is left open, so that none could reach into what is put under a page.
    assert not any(backticks(page.content).left_open for page in last)
    # No link is hidden behind other words.
    assert not any(live(page.content) for page in last)
    # No character that people see as one is cut.
    places, boundaries = 0, {0, *(found.end() for found in regex.finditer(r"\X", text))}
    for page in last[:-1]:
        places += len(page.source)
        assert places in boundaries or any(units(g) > min(64, limit) for g in regex.findall(r"\X", text))


@settings(max_examples=1_000, deadline=None)
@given(
    blocks=st.lists(
        st.tuples(st.sampled_from(["```python\n", "```\n", "words ```c++\n", "```"]), st.integers(1, 30)),
        max_size=3,
    ),
    limit=st.integers(60, 160),
)
def test_every_line_of_code_is_inside_a_block_of_its_language(
    blocks: list[tuple[str, int]], limit: int
) -> None:
    text = ""
    expected: dict[str, str] = {}
    for number, (opening, lines) in enumerate(blocks):
        code = [f"    line{number}{n:04d}" for n in range(lines)]
        text += "\n".join(["words", opening + code[0], *code[1:], "``` more words", ""])
        expected |= {line: opening.partition("```")[2].strip() for line in code}
    found = {
        line: language
        for content in contents(text, limit)
        for language, words in backticks(content).blocks
        for line in words.split("\n")
    }
    assert found == expected


@pytest.mark.timeout(600)
@settings(max_examples=CASES // 4, deadline=None)
@given(text=TEXT, limit=st.integers(64, 240), cuts=st.lists(st.integers(0, 40), max_size=8))
def test_how_it_is_cut_into_tokens_makes_no_difference(text: str, limit: int, cuts: list[int]) -> None:
    pieces, rest = [], text
    for size in cuts:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert fed([*pieces, rest], limit)[-1] == split_pages(text, limit)


def test_a_short_answer_is_one_page_and_nothing_is_one_empty_page() -> None:
    assert split_pages("Ha.") == [Page("Ha.", "Ha.")]
    assert split_pages("") == [Page("", "")]
    assert split_pages(" \n") == [Page(" \n", "")]


def test_there_is_room_for_a_footer_on_every_page() -> None:
    assert len(split_pages("x" * PAGE_LIMIT)) == 1
    assert len(split_pages("x" * (PAGE_LIMIT + 2))) == 2
    assert MESSAGE_LIMIT == 2000
    assert PAGE_LIMIT < MESSAGE_LIMIT


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("first paragraph.\n\nnew. one\nmore words follow", "first paragraph."),
        ("a line of its own\nthen. more words follow", "a line of its own"),
        ("this is. a sentence. and then some more", "this is. a sentence."),
        ("what? a question? more words follow on", "what? a question?"),
        ("nothing but words in this long text here", "nothing but words in this"),
        ("nospacesatallinthisverylongwordwhichgoeson", "nospacesatallinthisverylongwor"),
        (
            "漢字だけの長い文はここで終わる。次の文はもっと長くてこの頁には入らない",
            "漢字だけの長い文はここで終わる。",
        ),
    ],
)
def test_a_page_ends_at_a_paragraph_before_a_line_before_a_sentence_before_a_word(
    text: str, first: str
) -> None:
    assert contents(text, 30)[0] == first


def test_a_break_in_the_first_half_is_not_worth_an_almost_empty_page() -> None:
    assert contents("ab\n\n" + "word " * 20, 30)[0] == "ab\n\nword word word word word"


def test_a_page_ends_where_nothing_is_open_rather_than_in_the_middle_of_bold_words() -> None:
    assert (
        contents("Some more words first. **Then bold words that go on.**", 40)[0] == "Some more words first."
    )


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("**bold words that go on and on and on**", ["**bold words that go on**", "**and on and on**"]),
        ("||a secret that nobody may see here||", ["||a secret that nobody may||", "||see here||"]),
        ("> a quote that is far too long for it", ["> a quote that is far too", "> long for it"]),
        ("## a heading that is far too long here", ["## a heading that is far", "## too long here"]),
        ("*__both of these at once, for a while__*", ["*__both of these at once,__*", "*__for a while__*"]),
        (">>> all of this is a quote\nand this too", [">>> all of this is a quote", ">>> and this too"]),
        ("`inline code that is much too long`", ["`inline code that is much`", "`too long`"]),
    ],
)
def test_what_is_open_at_the_end_of_a_page_is_closed_there_and_opened_again(
    text: str, pages: list[str]
) -> None:
    assert contents(text, 28) == pages


def test_a_code_block_goes_on_in_the_same_language_and_nothing_bleeds_out_of_it() -> None:
    text = "Look:\n```python\nfirst = 1\nsecond = 2\nthird = 3\n```\nThat was it."
    assert contents(text, 40) == [
        "Look:\n```python\nfirst = 1\nsecond = 2\n```",
        "```python\nthird = 3\n```\nThat was it.",
    ]


def test_tildes_and_longer_fences_are_no_fences_in_discord() -> None:
    assert contents("~~~\nwords that are no code at all\n~~~", 28) == [
        "~~~\nwords that are no code",
        "at all\n~~~",
    ]
    assert read("````md\ncode").block == read("```\ncode").block
    assert read("````md\n```").block is None


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        (  # words before a fence are no reason for it not to be one
            "Sure! ```python\nfirst = 1\nsecond = 2\nthird = 3\n```\nThat was it.",
            [
                "Sure! ```python\nfirst = 1\n```",
                "```python\nsecond = 2\nthird = 3\n```",
                "That was it.",
            ],
        ),
        (  # nor are words behind it
            "Before it: ``` ok ``` and then there are only words, and more.",
            ["Before it: ``` ok ``` and then", "there are only words, and more."],
        ),
        (  # a block in a quote goes on in a quote
            "> ```py\n> first = 1\n> second = 2\n> ```\nwords",
            ["> ```py\n> first = 1\n> ```", "> ```py\n> second = 2\n> ```\nwords"],
        ),
    ],
)
def test_a_block_begins_and_ends_at_three_backticks_wherever_they_are(text: str, pages: list[str]) -> None:
    assert contents(text, 36) == pages


def test_the_end_of_a_block_that_fell_on_the_next_page_is_not_an_empty_block_there() -> None:
    text = "```py\n" + "a = 1\n" * 6 + "```\nwords behind it"
    first, second = contents(text, 48)
    assert first.endswith("a = 1\n```")
    assert second == "words behind it"


def test_a_block_that_never_ends_is_closed_before_the_footer() -> None:
    assert contents("```py\na = 1") == ["```py\na = 1\n```"]


def test_a_lone_star_is_left_alone() -> None:
    assert contents("5 * 3 and 2*x is not emphasis") == ["5 * 3 and 2*x is not emphasis"]
    assert contents("* one\n* two") == ["* one\n* two"]


def test_a_chunk_far_longer_than_a_message_is_all_there() -> None:
    text = "".join(f"word{n:05d} " for n in range(3000))
    pages = split_pages(text)
    assert "".join(page.source for page in pages) == text
    assert len(pages) == 17


def test_one_or_two_backticks_are_inline_code() -> None:
    assert read("Like so: ``a ` b").spans == ("``",)
    assert read("Like so: ``a ` b``").spans == ()
    assert read("It`s a line.\nAnd another").spans == ()


def test_a_backtick_behind_a_backslash_is_no_mark() -> None:
    assert read("a \\`b").spans == ()
    assert read("a \\\\`b").spans == ("`",)


def test_marks_over_marks_are_no_writing_and_are_cut() -> None:
    zalgo = "e" + "\u0301" * 5000
    pages = split_pages(zalgo)
    assert "".join(page.source for page in pages) == zalgo
    assert all(units(page.content) <= MESSAGE_LIMIT for page in pages)


def test_a_page_that_just_fits_is_not_cut_before_it_must_be() -> None:
    splitter = PageSplitter(30)
    for _ in range(5):
        splitter.feed("word ")
    splitter.feed("word")
    assert [page.content for page in splitter.pages] == ["word word word word word word"]
    splitter.feed(" word")
    assert [page.content for page in splitter.pages] == ["word word word word word word", "word"]


def test_a_run_of_flags_is_looked_at_a_page_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a flag begins depends on how many came before: a look from inside a run goes back to its begin."""
    looked_at: list[int] = []

    class Recorded:
        def finditer(self, text: str, *where: int) -> Any:
            looked_at.append(len(text))
            return grapheme.finditer(text, *where)

    grapheme = splitter_module._GRAPHEME
    monkeypatch.setattr(splitter_module, "_GRAPHEME", Recorded())
    text = "\N{REGIONAL INDICATOR SYMBOL LETTER J}" * 20_000
    assert "".join(page.source for page in split_pages(text)) == text
    assert looked_at
    assert max(looked_at) <= 2 * PAGE_LIMIT
