"""A long answer becomes messages that Discord takes, and what was shown full never changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.replies.pages import MESSAGE_LIMIT, PAGE_LIMIT, split_pages

LIMITS = st.integers(1, 60)
WORDS = st.text("ab.!?\n  \t漢😂", max_size=300)
PROSE = st.lists(
    st.tuples(
        st.sampled_from(["cat", "panda", "a", "regression", "漢字", "x" * 70]),
        st.sampled_from([" ", ". ", "! ", "? ", "\n", "\n\n"]),
    ).map("".join),
    max_size=60,
).map("".join)
# Models that lose their way repeat line ends and spaces without end.
BLANK_RUNS = st.lists(
    st.tuples(
        st.sampled_from(["cat", "", "."]), st.sampled_from([" ", "\n", "\n\n", "\t "]), st.integers(1, 200)
    ).map(lambda part: part[0] + part[1] * part[2]),
    max_size=6,
).map("".join)
ANY = WORDS | PROSE | BLANK_RUNS


def test_a_short_answer_is_one_page_and_nothing_is_one_empty_page() -> None:
    assert split_pages("Ha.") == ["Ha."]
    assert split_pages("") == [""]


def test_there_is_room_for_a_footer_on_every_page() -> None:
    assert len(split_pages("x" * PAGE_LIMIT)) == 1
    assert len(split_pages("x" * (PAGE_LIMIT + 1))) == 2
    assert MESSAGE_LIMIT == 2000
    assert PAGE_LIMIT < MESSAGE_LIMIT


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("first paragraph.\n\nnew. one\nmore words follow", "first paragraph.\n\n"),
        ("a line of its own\nthen. more words follow", "a line of its own\n"),
        ("this is. a sentence. and then some more", "this is. a sentence. "),
        ("what? a question? more words follow on", "what? a question? "),
        ("nothing but words in this long text here", "nothing but words in this "),
        ("nospacesatallinthisverylongwordwhichgoeson", "nospacesatallinthisverylongwor"),
    ],
)
def test_a_page_ends_at_a_paragraph_before_a_line_before_a_sentence_before_a_word(
    text: str, first: str
) -> None:
    assert split_pages(text, limit=30)[0] == first


def test_a_break_in_the_first_half_is_not_worth_an_almost_empty_page() -> None:
    assert split_pages("ab\n\n" + "word " * 20, limit=30)[0] == "ab\n\n" + "word " * 5


@given(text=WORDS | PROSE, limit=LIMITS)
def test_joined_the_pages_are_the_text(text: str, limit: int) -> None:
    # Where white space alone would fill a page, there is nothing to show for it.
    joined = "".join(split_pages(text, limit))
    if not any(not text[i : i + limit].strip() for i in range(len(text) - limit + 1)):
        assert text.startswith(joined)
        assert not text[len(joined) :].strip()


@given(text=ANY, limit=LIMITS)
def test_nothing_anybody_can_see_is_lost(text: str, limit: int) -> None:
    assert "".join("".join(split_pages(text, limit)).split()) == "".join(text.split())


@given(text=ANY, limit=LIMITS)
def test_no_page_is_longer_than_discord_takes(text: str, limit: int) -> None:
    assert all(len(page) <= limit for page in split_pages(text, limit))


@given(text=ANY.filter(str.strip), limit=LIMITS)
def test_no_page_is_blank_because_discord_refuses_it(text: str, limit: int) -> None:
    assert all(page.strip() for page in split_pages(text, limit))


@given(text=ANY, limit=LIMITS, at=st.integers(0, 400))
def test_a_page_that_was_full_never_changes_while_more_text_arrives(text: str, limit: int, at: int) -> None:
    before, after = split_pages(text[:at], limit), split_pages(text, limit)
    full = before[:-1]
    assert after[: len(full)] == full
    if before[-1].strip():  # the last one only grows, or is cut back to a better place
        last = after[len(full)]
        assert last.startswith(before[-1]) or before[-1].startswith(last)
