"""Striking out of an error what it quotes of a person's words, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.ops.quotes import HIDDEN, RUN, without_quotes


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
