"""The log: what an operator reads, and that no secret ever gets into it."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bot import trace
from bot.ops.logs import LogFormat, configure_logging

TOKEN = "part-one.part_2.part3"


@pytest.fixture
def log() -> logging.Logger:
    return logging.getLogger("tests.ops.logs")


def written(
    level: str = "INFO",
    secrets: tuple[str, ...] = (TOKEN, "hf_secret"),
    form: LogFormat = "text",
    content: bool = False,
) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, secrets, stream, form=form, content=content)
    return stream


@pytest.fixture(autouse=True)
def nobody_asked() -> Iterator[None]:
    trace.resume(trace.NOTHING)
    yield
    trace.resume(trace.NOTHING)  # what comes next has begun nothing either


def fail(log: logging.Logger, text: str) -> None:
    try:
        try:
            raise ValueError(f"401 for {TOKEN}")
        except ValueError as error:
            raise RuntimeError(text) from error
    except RuntimeError:
        log.exception("cannot start")


def test_a_line_has_its_time_level_and_origin(log: logging.Logger) -> None:
    stream = written()
    log.info("loaded %s in %.1f s", "smol", 2.5)
    line = stream.getvalue()
    assert line.endswith(" INFO    tests.ops.logs: loaded smol in 2.5 s\n")
    assert line[:4].isdigit()


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_a_stranger_wrote_acts_on_a_terminal_or_reverses_a_line(
    log: logging.Logger, form: LogFormat
) -> None:
    stream = written(form=form)
    log.warning("no file %s", "\x1b]0;title\x07a\u202etxt.exe\u200b\x9b2J\r")
    try:
        raise ValueError("it says \x1b[2J\u2066")
    except ValueError:
        log.exception("cannot read it")
    text = stream.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", text)
    assert r"\u001b]0;title\u0007a\u202etxt.exe\u200b\u009b2J\r" in text
    assert r"it says \u001b[2J\u2066" in text
    if form == "json":
        first, second = map(json.loads, text.splitlines())
        assert first["message"] == "no file \x1b]0;title\x07a\u202etxt.exe\u200b\x9b2J\r"
        assert "it says \x1b[2J\u2066" in second["exception"]


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


@pytest.mark.parametrize("name", ["discord.http", "discord.gateway", "discord.webhook.async_"])
def test_what_people_wrote_is_not_logged_by_libraries_even_when_debugging(name: str) -> None:
    stream = written("DEBUG")
    logging.getLogger(name).debug("PATCH with %s has returned 200", {"content": "a private joke"})
    assert stream.getvalue() == ""


def test_rows_of_the_database_are_not_logged_by_the_library_that_calls_them_information() -> None:
    stream = written("DEBUG")
    logging.getLogger("sqlalchemy.engine.Engine").info("[cached] %r", ("a private joke",))
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


def test_a_line_says_which_request_it_belongs_to_and_which_command_that_was(log: logging.Logger) -> None:
    stream = written()
    begun = trace.begin("joke")
    log.info("hello")
    assert stream.getvalue().endswith(f" INFO    [{begun.id} joke] tests.ops.logs: hello\n")
    assert re.fullmatch("[0-9a-f]{8}", begun.id)
    assert trace.begin("joke").id != begun.id


def test_as_json_each_record_is_an_object_on_one_line_with_the_traceback_inside(log: logging.Logger) -> None:
    stream = written(form="json")
    log.info("loaded %s\nin %.1f s “at last”", "smol", 2.5)
    begun = trace.begin("ask")
    fail(log, "broken")
    log.error("where", stack_info=True)
    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert set(first) == {"time", "level", "logger", "message"}
    assert (first["level"], first["logger"]) == ("INFO", "tests.ops.logs")
    assert first["message"] == "loaded smol\nin 2.5 s “at last”"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["time"])
    assert (second["request"], second["command"], second["message"]) == (begun.id, "ask", "cannot start")
    assert "Traceback" in second["exception"]
    assert "RuntimeError: broken" in second["exception"]
    assert third["stack"].startswith("Stack (most recent call last)")


@pytest.mark.parametrize("secret", [TOKEN, 'with "quotes" and \\ and ü'])
def test_as_json_a_secret_is_struck_out_everywhere_even_if_json_would_escape_it(
    log: logging.Logger, secret: str
) -> None:
    stream = written(form="json", secrets=(secret, TOKEN))
    log.info("logging in with %s", secret)
    fail(log, f"login with {secret} failed")
    logging.getLogger("aiohttp.client").warning("headers %s", {"Authorization": secret})
    objects = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert objects[0]["message"] == "logging in with ***"
    assert "RuntimeError: login with *** failed" in objects[1]["exception"]
    for one in objects:
        assert secret not in " ".join(one.values())
        assert TOKEN not in " ".join(one.values())


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "quoting", ["cannot read {}", "cannot read {!r}", "cannot read {!a}"], ids=["as it is", "repr", "ascii"]
)
def test_an_error_that_quotes_what_a_person_wrote_is_logged_without_it(
    log: logging.Logger, form: LogFormat, quoting: str
) -> None:
    stream = written(form=form)
    wrote = "my aunt's diary\nand a second page"
    trace.begin("ask", [wrote])
    fail(log, quoting.format(wrote))
    logging.getLogger("transformers.tokenization").error(quoting.format(wrote))
    assert "cannot read" in stream.getvalue()
    assert "diary" not in stream.getvalue()
    assert "second page" not in stream.getvalue()


def test_short_words_that_every_traceback_has_are_left_in_it(log: logging.Logger) -> None:
    stream = written()
    trace.begin("ask", ["in", "", "  "])
    fail(log, "broken")
    assert "***" not in stream.getvalue().replace("401 for ***", "")


def test_our_own_lines_stay_whole_when_somebody_asks_with_a_word_that_is_in_them() -> None:
    stream = written()
    trace.begin("ask", ["smol"])
    logging.getLogger("bot.answers").info("reply 1 by smol ended")
    assert "by smol ended" in stream.getvalue()


def test_what_people_wrote_is_logged_only_when_that_is_switched_on_and_then_loudly_said() -> None:
    stream = written("DEBUG", content=True)
    assert "LOG_CONTENT IS ON" in stream.getvalue()
    assert " WARNING " in stream.getvalue()
    trace.begin("ask", ["my aunt's diary"])
    logging.getLogger("discord.http").debug("PATCH with my aunt's diary")
    assert "PATCH with my aunt's diary" in stream.getvalue()
    assert "LOG_CONTENT" not in written("DEBUG").getvalue()


def test_a_request_does_not_show_what_was_written_when_it_is_printed() -> None:
    assert "diary" not in repr(trace.begin("ask", ["my aunt's diary"]))


def test_the_texts_of_a_command_are_found_in_subcommands_too() -> None:
    options = [
        {"name": "set", "options": [{"name": "model", "value": "smol"}, {"name": "count", "value": 3}]},
        {"name": "prompt", "value": "Why?"},
    ]
    assert trace.words_in(options) == ["smol", "Why?"]
    assert trace.words_in(None) == []


# --- The whole process: what really comes out of stderr ---------------------------------------------------------

LIBRARIES = """
import asyncio, gc, logging, sys, threading, warnings
from bot.ops.logs import configure_logging, log_what_nobody_catches, set_level

log_what_nobody_catches()
level, form, when = sys.argv[1:4]
token = "part-one.part_2.part3"
if when == "before":
    import transformers, huggingface_hub
    import transformers.generation.continuous_batching
configure_logging(level, (token,), form=form)
if when == "after":
    import transformers, huggingface_hub
    import transformers.generation.continuous_batching
for other in ("DEBUG", level):  # two reloads
    set_level(other)
for name in ("transformers.modeling_utils", "ContinuousBatchingLogger", "huggingface_hub.utils", "asyncio", "new"):
    own = logging.getLogger(name)
    if name == "new":
        own.addHandler(logging.StreamHandler())
        own.propagate = False
    own.error("%s says %s", name, token)
    try:
        raise ValueError(f"refused: {token}")
    except ValueError:
        own.exception("%s fails", name)

logging.getLogger("transformers").warning("mistaken %d", token)  # not shown at all
logging.getLogger("new").warning("mistaken %d", token)
warnings.warn(f"warned of {token}")

def fails():
    raise RuntimeError(f"thread with {token}")

thread = threading.Thread(target=fails, name="worker")
thread.start()
thread.join()

class Dropped:
    def __del__(self):
        raise RuntimeError(f"dropped with {token}")

Dropped()

async def forgotten():
    async def fails():
        raise RuntimeError(f"task with {token}")
    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()
    asyncio.get_running_loop().call_exception_handler({"message": f"loop with {token}"})

asyncio.run(forgotten())
raise SystemError(f"end with {token}")
"""


@pytest.mark.parametrize(
    ("form", "when"), [("text", "before"), ("json", "after")], ids=["imported before", "imported after"]
)
def test_nothing_that_libraries_threads_tasks_and_warnings_say_gets_a_secret_to_stderr(
    form: LogFormat, when: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", LIBRARIES, "INFO", form, when],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "part_2" not in done.stderr
    said = [
        *("transformers.modeling_utils says ***", "ContinuousBatchingLogger says ***"),
        *("huggingface_hub.utils says ***", "asyncio says ***", "new says ***"),
        *("huggingface_hub.utils fails", "ValueError: refused: ***", "warned of ***"),
        *("thread with ***", "dropped with ***", "task with ***", "loop with ***", "end with ***"),
        "mistaken %d (what was to be put into it is left out: TypeError)",
    ]
    for one in said:
        assert one in done.stderr, one
    for once in said[:5]:
        assert done.stderr.count(once) == 1
    if form == "json":
        lines = [json.loads(line) for line in done.stderr.splitlines()]  # each line is an object
        assert {"transformers.modeling_utils", "ContinuousBatchingLogger", "py.warnings"} <= {
            line["logger"] for line in lines
        }
    else:
        assert re.search(r" ERROR   ContinuousBatchingLogger: ContinuousBatchingLogger says", done.stderr)


def test_a_line_that_cannot_be_written_shows_neither_its_words_nor_its_secrets(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("gone")

    configure_logging("INFO", (TOKEN,), Gone())
    log.info("logging in with %s", TOKEN)
    assert capsys.readouterr().err == "a line of tests.ops.logs could not be written to the log (OSError)\n"


def test_libraries_that_set_their_own_level_do_not_get_louder_than_the_level_that_was_asked_for() -> None:
    stream = written("ERROR")
    logging.getLogger("transformers").setLevel(logging.WARNING)  # as it does when it is imported
    logging.getLogger("transformers").warning("a hint")
    assert stream.getvalue() == ""


def test_an_endless_traceback_is_cut_in_the_middle_and_keeps_its_end(log: logging.Logger) -> None:
    stream = written()
    trace.begin("ask", ["my aunt's diary"])
    fail(log, "x" * 1_000_000 + TOKEN + " my aunt's diary and the end")
    text = stream.getvalue()
    assert len(text) < 40_000
    assert "characters are left out" in text
    assert text.endswith("*** *** and the end\n")
