"""What a model writes cannot deceive: links say where they lead, and nothing turns the text around."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.replies.harmless import with_plain_links, without_controls
from bot.replies.markdown import Fence, Open
from bot.replies.pages import split_pages


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[your bank](https://evil.example)", "[your bank]\\(https://evil.example)"),
        (
            "[x](<https://evil.example>) and [y](http://b.example)",
            "[x]\\(<https://evil.example>) and [y]\\(http://b.example)",
        ),
        ("see https://example.org/(a)", "see https://example.org/(a)"),
        ("f[i](j) and [1](2)", "f[i](j) and [1](2)"),
        ("join https://discord.gg/abc now", "join <https://discord.gg/abc> now"),
        ("<https://discord.com/invite/abc>", "<https://discord.com/invite/abc>"),
        ("`[x](https://a.example)`", "`[x](https://a.example)`"),
        (
            "```\n[x](https://a.example)\n```\n[x](https://a.example)",
            "```\n[x](https://a.example)\n```\n[x]\\(https://a.example)",
        ),
    ],
)
def test_links_are_shown_as_they_are_and_code_is_left_alone(written: str, shown: str) -> None:
    assert with_plain_links(written, Open()) == shown


def test_inside_a_code_block_that_began_earlier_nothing_is_touched() -> None:
    assert with_plain_links("[x](https://a.example)", Open(Fence("```", ""))) == "[x](https://a.example)"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("gpj.\u202eexe", "gpj.exe"),
        ("a\u2067b\u2069c", "abc"),
        ("bell\x07 and null\x00 and \x1b[31mred", "bell and null and [31mred"),
        ("line\nand\ttab", "line\nand\ttab"),
        ("שלום e\u0301 👩‍👩‍👧‍👦 \u200f", "שלום e\u0301 👩‍👩‍👧‍👦 \u200f"),
    ],
)
def test_characters_that_hide_or_turn_text_are_gone_and_writing_is_not(written: str, shown: str) -> None:
    assert without_controls(written) == shown


@given(st.text(max_size=300))
def test_whatever_is_written_no_masked_link_is_on_a_page(text: str) -> None:
    pages = split_pages(f"{text}\n\n[x](https://evil.example) {text}", 200)
    assert not any("](https:" in page.content for page in pages) or "`" in text or "~~~" in text


def test_a_page_with_many_links_still_fits() -> None:
    text = "[a](https://b.c) " * 500
    assert all(len(page.content) <= 2000 for page in split_pages(text))
