"""Characters that hide or reverse text never reach people, and real writing arrives whole."""

from __future__ import annotations

import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from bot.replies.characters import CharacterFilter, without_hidden_characters

FLAG = "\U0001f3f4"
END = "\U000e007f"


def tags(text: str) -> str:
    """Text as tag characters, which nobody sees."""
    return "".join(chr(0xE0000 + ord(character)) for character in text)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("gpj.\u202eexe", "gpj.exe"),
        ("a\u202ab\u202cc", "abc"),
        ("a\u2067b\u2069c", "abc"),
        ("zero\u200bwidth \u2060word\ufeffjoiner so\u00adft \u061cmark", "zerowidth wordjoiner soft mark"),
        ("bell\x07 and null\x00 and \r\nline", "bell and null and \nline"),
        ("\x1b[31mred\x1b[0m and \x9b1;4mbold", "red and bold"),
        ("\x1b]8;;https://evil.example\x1b\\here\x1b]8;;\x1b\\", "here"),
        ("\x1b]0;title\x07text, \x1b(Bplain, \x1bcreset", "text, plain, reset"),
        ("an ESC that begins nothing: \x1b", "an ESC that begins nothing: "),
        (f"ignore{tags('say this instead')} that", "ignore that"),
        (f"a flag {FLAG}{tags('hello')} of nothing", f"a flag {FLAG} of nothing"),
        (f"{FLAG}{tags('gbsctgbsct')}{END}", FLAG),
        ("e\u200dvil and e\u200cvil", "evil and evil"),
        ("data\ufe01\ufe02\ufe03 behind", "data\ufe01 behind"),
        ("a\U000e0100\U000e0101b", "ab"),
        ("a lone \u200f mark and \u200e another", "a lone  mark and  another"),
        ("half of one: \u2067\ud83dabc", "half of one: abc"),
        ("in an escape: \u2067\x1b]א\x07 abc", "in an escape:  abc"),
        ("unassigned: \u200f\u0378", "unassigned: \u0378"),
        ("Hangul \u3164 and \u115f fillers", "Hangul  and  fillers"),
        ("half \ud800 a character, and none: \uffff", "half  a character, and none: "),
        ("\u2028\u2029invisible ends of lines", "invisible ends of lines"),
    ],
)
def test_what_hides_or_reverses_text_is_gone(written: str, shown: str) -> None:
    assert without_hidden_characters(written) == shown


@pytest.mark.parametrize(
    "written",
    [
        "line\nand\ttab",
        "שלום e\u0301 👩‍👩‍👧‍👦 \u200f!",
        f"flags 🇯🇵 {FLAG}{tags('gbeng')}{END} {FLAG}{tags('gbsct')}{END} {FLAG} of piracy",
        "👩🏽‍🚀 🏳️‍🌈 ❤️‍🔥 1️⃣",
        "می\u200cخواهم",
        "क्\u200dष and ශ්\u200dරී",
        "שלום \u2066GitHub\u2069 עולם",
        "\u2068שם\u2069 הצטרף",
        "葛\U000e0100城",
        "ᠴᠠᠭᠠ\u180eᠠ",
        "𞤢\u200c𞤣 and 𑄇𑄴\u200c𑄇",
        "≨\ufe00",
        "٪ \u0600\u0661",
    ],
)
def test_real_writing_arrives_whole(written: str) -> None:
    assert without_hidden_characters(written) == written


def test_an_isolate_that_is_not_closed_ends_with_its_line() -> None:
    assert without_hidden_characters("אב \u2067ג\nabc\u2069") == "אב \u2067ג\nabc"


HIDING = st.sampled_from(
    [
        *"\u200b\u2060\ufeff\u00ad\u061c\u202e\u2066\u2067\u2069\u200d\u200c\u200f\x1b\x9b\x9d[]m;\ufe0f\u0378\ud83d",
        FLAG,
        END,
    ]
)
TEXT = st.lists(HIDING | st.characters() | st.sampled_from(["א", "ب", "\n", tags("gbeng"), "👩", "葛"])).map(
    "".join
)


@given(TEXT, st.lists(st.integers(1, 5)))
def test_however_it_arrives_the_same_is_shown(text: str, sizes: list[int]) -> None:
    characters, arrived, place = CharacterFilter(), "", 0
    for size in sizes:
        arrived += characters.feed(text[place : place + size])
        place += size
    assert arrived + characters.feed(text[place:]) + characters.flush() == without_hidden_characters(text)


@given(TEXT)
def test_whatever_is_written_no_hidden_character_is_shown(text: str) -> None:
    shown = without_hidden_characters(text)
    assert regex.search(r"[^\P{Cc}\n\t]|[\u200b\u2060\ufeff\u00ad\u061c\u202a-\u202e\p{Cs}]", shown) is None
    assert (
        regex.search(
            r"[\U000e0000-\U000e007f]", regex.sub(FLAG + r"[\U000e0030-\U000e007a]{3,6}" + END, "", shown)
        )
        is None
    )


@given(TEXT)
def test_isolates_and_marks_are_only_on_lines_with_right_to_left_letters(text: str) -> None:
    for line in without_hidden_characters(text).split("\n"):
        if not any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in line if letter.isalpha()):
            assert regex.search(r"[\u2066-\u2069\u200e\u200f]", line) is None


def test_little_is_held_back() -> None:
    characters = CharacterFilter()
    assert characters.feed("\x1b]" + "x" * 1_000) == "]" + "x" * 1_000
    assert characters.feed("\u2066" + "a" * 100) == "a" * 100
