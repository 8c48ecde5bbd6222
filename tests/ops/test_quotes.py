"""Striking out of an error what it quotes of a person's words, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.ops.quotes import HIDDEN, RUN, without_quotes, without_secrets


@pytest.mark.parametrize(
    ("error", "written", "left"),
    [
        ("cannot read 'my diary, page 1'", "my diary, page 1", "cannot read '***'"),
        ("cannot read 'my diary, p…'", "my diary, page 1", "cannot read '***…'"),  # a part of it
        ("no token for 'diary, page'", "my diary, page 1", "no token for '***'"),
        ("ask 'tea!!' again", "tea!!", "ask '***' again"),  # short, but all of it
        ("CUDA out of memory", "what is memory?", "CUDA out of memory"),  # a word in common is no quotation
        ("in the end", "in", "in the end"),
        ("    File x\n        code", "a         b", "    File x\n        code"),  # nor are spaces
        ("both: first text, second text", "", "both: first text, second text"),
    ],
)
def test_what_is_quoted_goes_and_the_rest_stays(error: str, written: str, left: str) -> None:
    assert without_quotes(error, [written]) == left


@pytest.mark.parametrize("shown", [str, repr, ascii, json.dumps])
def test_a_quotation_is_found_however_python_shows_it(shown: object) -> None:
    assert callable(shown)
    written = "猫の日記を\nここに “aunt's” écrire"
    assert without_quotes(f"<{shown(written)}>", [written]).strip("<>\"'") == HIDDEN


_text = st.text(alphabet="ab c\n'é", max_size=40)


@given(before=_text, written=_text, after=_text)
def test_no_long_run_of_what_was_written_is_left(before: str, written: str, after: str) -> None:
    left = without_quotes(before + written + after, [written])
    for part in left.split(HIDDEN):
        for start in range(len(part) - RUN + 1):
            run = part[start : start + RUN]
            assert run not in written.strip() or len(run.strip()) < 4


@given(text=_text)
def test_where_nothing_was_written_nothing_changes(text: str) -> None:
    assert without_quotes(text, []) == without_quotes(text, [""]) == text


class Counted(str):
    """A text that counts how often somebody takes a piece of it."""

    __slots__ = ("taken",)

    def __getitem__(self, key: Any) -> str:
        self.taken = getattr(self, "taken", 0) + 1
        return str.__getitem__(self, key)


@pytest.mark.parametrize("texts", [1, 10, 300])
def test_the_work_does_not_grow_with_how_many_texts_were_written(texts: int) -> None:
    error = Counted("cannot read what was said " * 40)
    without_quotes(error, [f"message {number} of a long conversation: “{number}”" for number in range(texts)])
    assert error.taken < 6 * len(error)


def test_a_long_text_with_many_secrets_in_it_is_done_in_one_go() -> None:
    secret = "ab" * 30
    assert without_secrets("ab" * 29 + secret * 20_000, [secret]) == HIDDEN * 20_000 + "ab" * 29
