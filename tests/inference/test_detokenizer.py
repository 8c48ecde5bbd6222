"""Text appears as tokens come, never half a character, and in the end it is all there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from bot.inference.detokenizer import IncrementalDetokenizer
from tests.inference import tiny

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
SAMPLES = (
    "Why did the neural network cross the road? It had no bias! 🤖😂",
    "e\u0301 n\u0303 — “curly” … ½",  # combining marks
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽",  # several code points each
    "数据科学家走进酒吧。もう一杯？",
    "שלום, مرحبا بالعالم",
    "नमस्ते",
    "\n\n  indented\tcode\r\n",
)
BYTES = tiny.byte_level()
MERGED = tiny.byte_level(*SAMPLES * 5, merges=120)
ACROSS = tiny.byte_level_across("😂")
SENTENCEPIECE = tiny.sentencepiece_like("Hello", "world", "a", "model", "tells", "jokes")

anything = st.text(max_size=40) | st.lists(st.sampled_from(SAMPLES), max_size=4).map("".join)


def decoding(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def pieces_of(tokenizer: PreTrainedTokenizerFast, steps: Iterable[Sequence[int]]) -> list[str]:
    """The text of each step, and of the flush."""
    detokenizer = IncrementalDetokenizer(lambda ids: decoding(tokenizer, ids))
    return [*(detokenizer.feed(step) for step in steps), detokenizer.flush()]


def one_by_one(tokenizer: PreTrainedTokenizerFast, text: str) -> list[list[int]]:
    return [[i] for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def as_bytes(data: bytes) -> list[list[int]]:
    """The token of each byte, in the tokenizer whose tokens are bytes."""
    return [[tiny.id_of(BYTES, tiny.BYTE_NAMES[byte])] for byte in data]


@pytest.mark.parametrize("tokenizer", [BYTES, MERGED, ACROSS], ids=["bytes", "merged", "across"])
@given(text=anything)
def test_the_pieces_joined_are_the_text_and_no_character_is_cut(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    pieces = pieces_of(tokenizer, one_by_one(tokenizer, text))
    assert "".join(pieces) == text
    if INCOMPLETE not in text:
        assert not any(INCOMPLETE in piece for piece in pieces)


@given(text=anything, cuts=st.lists(st.integers(1, 40)))
def test_several_tokens_at_a_time_give_the_same_text(text: str, cuts: list[int]) -> None:
    ids = [i for (i,) in one_by_one(BYTES, text)]
    steps = []
    for size in [*cuts, len(ids)]:
        steps.append(ids[:size])
        ids = ids[size:]
    pieces = pieces_of(BYTES, steps)
    assert "".join(pieces) == text
    if INCOMPLETE not in text:
        assert not any(INCOMPLETE in piece for piece in pieces)


def test_a_run_of_tokens_that_end_in_the_middle_of_characters_is_shown_as_it_comes() -> None:
    text = "ha " + "😂" * 40
    steps = one_by_one(ACROSS, text)
    assert len(steps) < 50  # a token is the end of one emoji and the beginning of the next
    pieces = pieces_of(ACROSS, steps)
    assert "".join(pieces) == text
    assert not any(INCOMPLETE in piece for piece in pieces)
    assert "" not in pieces[6:-1]


def test_an_emoji_appears_with_its_last_byte_and_nothing_before() -> None:
    assert pieces_of(BYTES, as_bytes("a😂b".encode())) == ["a", "", "", "", "😂", "b", ""]


def test_plain_text_appears_at_once_token_by_token() -> None:
    assert pieces_of(BYTES, one_by_one(BYTES, "a b")) == ["a", " ", "b", ""]


def test_a_real_replacement_character_is_text_like_any_other() -> None:
    assert "".join(pieces_of(BYTES, one_by_one(BYTES, f"a{INCOMPLETE}b{INCOMPLETE}"))) == "a\ufffdb\ufffd"


def test_spaces_between_words_are_kept_where_tokens_carry_them_in_front() -> None:
    text = "Hello world a model tells jokes"
    steps = one_by_one(SENTENCEPIECE, text)
    assert pieces_of(SENTENCEPIECE, steps) == ["Hello", " world", " a", " model", " tells", " jokes", ""]


@given(
    text=st.lists(
        st.sampled_from(["Hello", "world", "jokes", "😂", "数", "é", "xyz"]), min_size=1, max_size=12
    ).map(" ".join)
)
def test_bytes_in_place_of_unknown_words_become_characters_too(text: str) -> None:
    pieces = pieces_of(SENTENCEPIECE, one_by_one(SENTENCEPIECE, text))
    assert "".join(pieces) == text
    assert not any(INCOMPLETE in piece for piece in pieces)


@pytest.mark.parametrize("tail", [b"\xf0\x9f\x98", b"\xe6\x95", b"\xff"])
def test_a_character_that_never_gets_complete_is_shown_at_the_end_as_what_it_is(tail: bytes) -> None:
    pieces = pieces_of(BYTES, as_bytes(b"ok " + tail))
    assert "".join(pieces[:-1]) == "ok "
    assert pieces[-1] == INCOMPLETE


def test_bytes_that_are_no_text_are_not_held_back_for_ever() -> None:
    steps = as_bytes(b"ok " + b"\xff" * 16)
    assert "".join(pieces_of(BYTES, steps)[:-1]) == "ok " + INCOMPLETE * 16


def test_after_bytes_that_are_no_text_the_answer_goes_on() -> None:
    steps = as_bytes(b"\xff" * 40 + "fine 😂".encode())
    assert "".join(pieces_of(BYTES, steps)) == INCOMPLETE * 40 + "fine 😂"


def test_special_tokens_are_not_shown_and_break_nothing() -> None:
    end = BYTES.eos_token_id
    assert isinstance(end, int)
    emoji = as_bytes("😂".encode())
    assert "".join(pieces_of(BYTES, [*emoji[:2], [end], *emoji[2:], [end]])) == "😂"


def test_nothing_said_is_nothing_shown() -> None:
    assert pieces_of(BYTES, []) == [""]
    assert pieces_of(BYTES, [[]]) == ["", ""]


@given(text=st.text("abc 😂数", max_size=400))
def test_the_work_for_a_token_does_not_grow_with_the_answer(text: str) -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decoding(BYTES, ids)

    detokenizer = IncrementalDetokenizer(decode)
    for step in one_by_one(BYTES, text):
        detokenizer.feed(step)
    assert longest <= 32
