"""The small print: what somebody who waits reads."""

from __future__ import annotations

import pytest

from bot.errors import BotError, GenerationTimeout, ModelUnavailable, Unexpected
from bot.inference.engine import Finished, FinishReason, Loading, LoadStep, Usage
from bot.replies.status import ending_lines, loading_line, queued_line


@pytest.mark.parametrize(
    ("loading", "line"),
    [
        (Loading("gemma", 0.62, 9.2), "-# ⏳ Loading gemma · 62% · about 9 s"),
        (Loading("gemma", 0.05, 780.0, LoadStep.DOWNLOADING), "-# ⏳ Downloading gemma · 5% · about 13 min"),
        (Loading("gemma", None), "-# ⏳ Loading gemma"),
        (Loading("gemma", 1.0), "-# ⏳ Loading gemma"),
    ],
)
def test_a_load_says_what_is_done_how_far_it_is_and_how_long_it_takes(loading: Loading, line: str) -> None:
    assert loading_line(loading) == line


@pytest.mark.parametrize(
    ("position", "eta_s", "line"),
    [
        (1, None, "-# ⏳ You are next"),
        (3, 12.4, "-# ⏳ 2 ahead of you · about 12 s"),
        (2, 0.2, "-# ⏳ 1 ahead of you · about 1 s"),
        (9, 300.0, "-# ⏳ 8 ahead of you · about 5 min"),
    ],
)
def test_a_place_in_the_line_says_who_is_ahead_and_for_how_long(
    position: int, eta_s: float | None, line: str
) -> None:
    assert queued_line(position, eta_s) == line


def test_every_way_to_end_has_its_words() -> None:
    lines = [ending_lines(Finished(reason, Usage()), "smol") for reason in FinishReason]
    assert lines == [
        "-# smol",
        "-# ✂ cut at the token limit · smol",
        "-# ⏹ stopped · smol",
        "-# failed · smol",
    ]


def test_a_failure_names_its_reference_once_and_running_out_of_time_is_told_apart() -> None:
    def ending(error: BotError) -> str:
        return ending_lines(Finished(FinishReason.ERROR, Usage(), error), "smol", reference="ab12")

    assert ending(ModelUnavailable("Gone.")) == "⚠️ Gone.\n-# failed · smol · reference ab12"
    assert ending(Unexpected("here", "ab12")).count("ab12") == 1
    assert ending(GenerationTimeout("Too long.")) == "⚠️ Too long.\n-# ⏱ timed out · smol"
