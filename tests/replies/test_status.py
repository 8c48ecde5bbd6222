"""The small print: what somebody who waits reads."""

from __future__ import annotations

import pytest

from bot.inference.engine import Loading, LoadStep
from bot.replies.status import loading_line, queued_line


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
