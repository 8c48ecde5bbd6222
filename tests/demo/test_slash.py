"""Typing a command into the terminal demo."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.demo.slash import parse_slash
from bot.errors import UsageError

COMMANDS = {
    "joke": ["topic", "audience", "model"],
    "ask": ["prompt", "model"],
    "gpu": [],
    "model set": ["model", "scope"],
    "model show": [],
}


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("/joke", ("joke", {})),
        ("  /joke  ", ("joke", {})),
        ("/gpu", ("gpu", {})),
        ("/joke topic:databases model:smol", ("joke", {"topic": "databases", "model": "smol"})),
        ("/joke model:smol topic:cats and dogs", ("joke", {"model": "smol", "topic": "cats and dogs"})),
        ("/ask prompt:what is 1:1 about? see: this", ("ask", {"prompt": "what is 1:1 about? see: this"})),
        ("/model set model:smol scope:server", ("model set", {"model": "smol", "scope": "server"})),
        ("/model  show ", ("model show", {})),
        ("/joke topic: spaced ", ("joke", {"topic": "spaced"})),
    ],
)
def test_a_command_is_understood(typed: str, understood: tuple[str, dict[str, str]]) -> None:
    assert parse_slash(typed, COMMANDS) == understood


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("joke", "none of the commands: /joke, /ask, /gpu, /model set, /model show"),
        ("/jok topic:x", "none of the commands"),
        ("", "none of the commands"),
        ("/joke cats", "'cats' is no option of /joke: write /joke topic:… audience:… model:…"),
        ("/joke subject:cats", "'subject:cats' is no option"),
        ("/gpu now", "'now' is no option of /gpu"),
        ("/joke topic: model:smol", "'topic:' has no value"),
    ],
)
def test_what_is_not_understood_is_said_with_what_would_be(typed: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_slash(typed, COMMANDS)
    assert sentence in str(refused.value)


@given(st.text())
def test_no_text_at_all_makes_it_fail_in_another_way(typed: str) -> None:
    try:
        name, options = parse_slash(f"/joke {typed}", COMMANDS)
    except UsageError:
        return
    assert name == "joke"
    assert all(value.strip() for value in options.values())
