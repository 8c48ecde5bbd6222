"""`demo --once`: one command, its reply as it grows, and the numbers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bot.demo.terminal import answer_with
from bot.errors import ModelUnavailable, UsageError
from bot.inference.engine import Loading
from bot.inference.scripted import ScriptedEngine
from bot.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, cache_dir=tmp_path, data_dir=tmp_path)


async def test_the_reply_and_one_line_of_numbers(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await answer_with(settings, "/joke topic:tea model:gemma", ScriptedEngine()) == 0
    said, numbers = capsys.readouterr().out.splitlines()
    assert said == "Hello, world."
    assert numbers.startswith("[3 tokens · 20.0 tokens/s")
    assert "ended by stop" in numbers


async def test_the_reply_is_printed_while_it_grows(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = asyncio.Event()
    answering = asyncio.create_task(
        answer_with(settings, "/joke", ScriptedEngine(script=("One", gate.wait, " two.")))
    )
    printed = ""
    while "One" not in printed:
        await asyncio.sleep(0.01)
        printed += capsys.readouterr().out
    assert "two" not in printed
    gate.set()
    assert await answering == 0
    assert capsys.readouterr().out.startswith(" two.\n[2 tokens")


async def test_a_long_reply_is_printed_whole(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"word{n:04d} " for n in range(600)]
    assert await answer_with(settings, "/ask prompt:go", ScriptedEngine(script=words)) == 0
    assert capsys.readouterr().out.split("\n[")[0].split() == "".join(words).split()


async def test_states_go_to_stderr(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(script=(Loading("smol", 0.5), gate.wait, "Hi."))
    answering = asyncio.create_task(answer_with(settings, "/joke", engine))
    errors = ""
    while "Loading smol · 50%" not in errors:
        await asyncio.sleep(0.01)
        errors += capsys.readouterr().err
    gate.set()
    assert await answering == 0
    assert "Loading" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "script", "sentence"),
    [
        ("/joke", (ModelUnavailable("smol is not on this disk."),), "smol is not on this disk."),
        ("/joke", ("So", ZeroDivisionError()), "Something went wrong"),
        ("/joke model:gema", (), "Did you mean 'gemma'?"),
    ],
)
async def test_what_cannot_be_answered_is_a_sentence_and_exit_code_1(
    settings: Settings, capsys: pytest.CaptureFixture[str], typed: str, script: tuple[str, ...], sentence: str
) -> None:
    assert await answer_with(settings, typed, ScriptedEngine(script=script)) == 1
    assert sentence in capsys.readouterr().err


async def test_what_discord_would_not_send_is_a_usage_error(settings: Settings) -> None:
    with pytest.raises(UsageError, match="at most 300 characters"):
        await answer_with(settings, f"/joke topic:{'x' * 301}", ScriptedEngine())


async def test_a_command_that_asks_no_model_prints_its_card(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await answer_with(settings, "/gpu", ScriptedEngine()) == 0
    assert "Models in memory: none: the first question loads one" in capsys.readouterr().out


async def test_a_look_at_a_model_that_is_not_here_prints_why(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await answer_with(settings, "/model inspect model:smol", ScriptedEngine()) == 0
    assert "smol is not on this disk yet" in capsys.readouterr().out


async def test_commands_that_ask_no_model_print_their_answer(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await answer_with(settings, "/model set model:gemma", ScriptedEngine()) == 0
    assert "**gemma** answers in this channel from now on" in capsys.readouterr().out
    assert await answer_with(settings, "/model show", ScriptedEngine()) == 0
    assert "answers here" in capsys.readouterr().out
    assert await answer_with(settings, "/model set model:gema", ScriptedEngine()) == 1
    assert "Did you mean 'gemma'?" in capsys.readouterr().err
