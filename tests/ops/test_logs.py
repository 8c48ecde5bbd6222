"""The log: what an operator reads, and that no secret ever gets into it."""

from __future__ import annotations

import io
import logging

import pytest

from bot.ops.logs import configure_logging

TOKEN = "part-one.part_2.part3"


@pytest.fixture
def log() -> logging.Logger:
    return logging.getLogger("tests.ops.logs")


def written(level: str = "INFO", secrets: tuple[str, ...] = (TOKEN, "hf_secret")) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, secrets, stream)
    return stream


def test_a_line_has_its_time_level_and_origin(log: logging.Logger) -> None:
    stream = written()
    log.info("loaded %s in %.1f s", "smol", 2.5)
    line = stream.getvalue()
    assert line.endswith(" INFO    tests.ops.logs: loaded smol in 2.5 s\n")
    assert line[:4].isdigit()


def test_a_secret_is_struck_out_of_the_message_and_of_what_is_put_into_it(log: logging.Logger) -> None:
    stream = written()
    log.info(f"logging in with {TOKEN}, and again {TOKEN}")
    log.info("asking as %s: %r", "hf_secret", {"Authorization": "Bearer hf_secret"})
    assert "part_2" not in stream.getvalue()
    assert "hf_secret" not in stream.getvalue()
    assert stream.getvalue().count("***") == 4


def test_a_secret_is_struck_out_of_tracebacks_their_causes_and_stacks(log: logging.Logger) -> None:
    stream = written()
    try:
        try:
            raise ValueError(f"401 for {TOKEN}")
        except ValueError as error:
            raise RuntimeError("login with hf_secret failed") from error
    except RuntimeError:
        log.exception("cannot start")
    log.error("where", stack_info=True)
    text = stream.getvalue()
    assert "Traceback" in text
    assert "RuntimeError: login with *** failed" in text
    assert "ValueError: 401 for ***" in text
    assert "Stack (most recent call last)" in text
    assert "hf_secret" not in text
    assert TOKEN not in text


def test_a_secret_is_struck_out_of_other_libraries_lines_too() -> None:
    stream = written("DEBUG")
    logging.getLogger("aiohttp.client").debug("headers %s", {"Authorization": f"Bot {TOKEN}"})
    assert "'Bot ***'" in stream.getvalue()


@pytest.mark.parametrize("name", ["discord.http", "discord.gateway", "discord.webhook.async_", "aiosqlite"])
def test_what_people_wrote_is_not_logged_by_libraries_even_when_debugging(name: str) -> None:
    stream = written("DEBUG")
    logging.getLogger(name).debug("PATCH with %s has returned 200", {"content": "a private joke"})
    assert stream.getvalue() == ""


def test_a_secret_that_is_part_of_another_one_does_not_give_the_rest_away(log: logging.Logger) -> None:
    stream = written(secrets=("hf_abc", "hf_abcdef"))
    log.info("hf_abcdef")
    assert "def" not in stream.getvalue().partition(": ")[2]


def test_with_no_secrets_nothing_is_struck_out(log: logging.Logger) -> None:
    stream = written(secrets=("",))
    log.info("hello")
    assert stream.getvalue().endswith(": hello\n")


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("DEBUG", ["debug", "info", "warning", "error"]),
        ("INFO", ["info", "warning", "error"]),
        ("WARNING", ["warning", "error"]),
        ("ERROR", ["error"]),
    ],
)
def test_the_level_decides_what_is_written(log: logging.Logger, level: str, shown: list[str]) -> None:
    stream = written(level)
    for name in ("debug", "info", "warning", "error"):
        log.log(logging.getLevelNamesMapping()[name.upper()], name)
    assert [line.rpartition(" ")[2] for line in stream.getvalue().splitlines()] == shown


@pytest.mark.parametrize("level", ["INFO", "WARNING", "ERROR"])
def test_libraries_that_talk_much_are_heard_only_when_it_matters(level: str) -> None:
    stream = written(level)
    logging.getLogger("discord.gateway").info("Shard ID None has connected")
    logging.getLogger("discord.gateway").error("cannot connect")
    lines = stream.getvalue().splitlines()
    assert [line.partition(": ")[2] for line in lines] == ["cannot connect"]


def test_a_library_does_not_get_louder_than_the_level_that_was_asked_for() -> None:
    stream = written("ERROR")
    logging.getLogger("discord.client").warning("PyNaCl is not installed")
    assert stream.getvalue() == ""


def test_configured_twice_a_line_is_still_written_once(log: logging.Logger) -> None:
    first, second = written(), written()
    log.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_by_default_the_log_goes_to_stderr_as_it_is_at_that_time(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO")
    log.info("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith(": hello\n")
