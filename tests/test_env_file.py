"""What is in `.env` beside settings: variables of libraries have their effect, and mistakes are told without values."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.env_file import export, misspelt, read_env_file
from bot.errors import SettingsError
from bot.settings import NAMES, load_settings
from tests.test_cli import run_python

EXAMPLE = Path(__file__).parents[1] / ".env.example"


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def told(env_file: Path, text: str) -> list[str]:
    env_file.write_text(text, encoding="utf-8")
    return [one.replace(str(env_file), ".env") for one in read_env_file(env_file, NAMES).warnings]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("DISCORD_TOKN", "DISCORD_TOKEN"),
        ("DISCORD_BOT_TOKEN", "DISCORD_TOKEN"),
        ("discord_tokn", "DISCORD_TOKEN"),
        ("HF_TOKN", "HF_TOKEN"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("MAX_NEW_TOKEN", "MAX_NEW_TOKENS"),
        ("OPERATOR_ID", "OPERATOR_IDS"),
        ("PINNED_MODEL", "PINNED_MODELS"),
        ("DATABASE", "DATABASE_FILE"),
        ("hf_home", "HF_HOME"),
    ],
)
def test_a_name_that_is_no_setting_is_told_with_the_nearest_one_and_without_its_value(
    env_file: Path, written: str, meant: str
) -> None:
    assert told(env_file, f"{written}=s3cret-value\n") == [
        f"{written} in .env is not a setting: did you mean {meant}?"
    ]


def test_a_misspelt_variable_of_a_library_is_told_too(env_file: Path) -> None:
    assert told(env_file, "CUDA_VISIBLE_DEVICE=0\n") == [
        "CUDA_VISIBLE_DEVICE in .env is no variable that we know: did you mean CUDA_VISIBLE_DEVICES?"
    ]


def test_a_name_that_is_like_no_setting_is_told_with_where_they_are_written(env_file: Path) -> None:
    assert told(env_file, "WEATHER=fine\n") == [
        "WEATHER in .env is not a setting: remove it, or see .env.example for those there are."
    ]


def test_what_another_line_is_made_from_and_comments_are_no_mistakes(env_file: Path) -> None:
    text = "# LOGLEVEL=DEBUG\n\nWHERE=/srv\nexport DATA_DIR=${WHERE}/data\nlog_level=DEBUG  # for now\n"
    assert told(env_file, text) == []
    settings = load_settings(env_file)
    assert (settings.data_dir, settings.log_level) == (Path("/srv/data"), "DEBUG")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("DISCORD_TOKEN: abc.def.SECRET", "It is not NAME=value"),  # as in YAML
        ("abc.def.SECRET", "It is not NAME=value"),  # pasted without its name
        ("hf_SECRET", "It is not NAME=value"),
        ('"abc.def.SECRET"', "It is not NAME=value"),
        ('DISCORD_TOKEN="abc.def.SECRET', "It is not NAME=value"),  # no second quotation mark
        ("DISCORD_TOKEN", "DISCORD_TOKEN has no value"),
        ("set DISCORD_TOKEN=abc.def.SECRET", "It is not NAME=value"),  # as in a batch file
    ],
)
def test_a_line_that_counts_for_nothing_is_told_by_its_number(env_file: Path, line: str, says: str) -> None:
    assert told(env_file, f"# first\n\nLOG_LEVEL=INFO\n\n{line}\n") == [
        f"Line 5 of .env counts for nothing. {says}: mend it, or put # before it."
    ]


@given(st.text(alphabet="ABC_=#'\"$ \n\\x\r\u2028é{}", max_size=60))
def test_whatever_is_in_the_file_it_is_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("any") / ".env"
    file.write_bytes(text.encode())
    read_env_file(file, NAMES)


def test_the_example_has_no_mistakes_even_with_all_its_suggestions(env_file: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    suggested = [line for line in text.splitlines() if line.startswith("# ") and "=" in line.split(" ")[1]]
    assert any(line.startswith("# HF_HOME=") for line in suggested)
    assert told(env_file, "\n".join([text, *(line.removeprefix("# ") for line in suggested)])) == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            "HF_HOME",
            "HF_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "HF_ENDPOINT",
            "HF_HUB_DOWNLOAD_TIMEOUT",
            "TZ",
            "TMPDIR",
        ),
        *(
            "CUDA_VISIBLE_DEVICES",
            "PYTORCH_CUDA_ALLOC_CONF",
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
            "https_proxy",
        ),
        *("HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_INDEX_URL", "PIP_CACHE_DIR"),
        *(
            "XDG_CACHE_HOME",
            "XDG_DATA_HOME",
            "TRANSFORMERS_OFFLINE",
            "TOKENIZERS_PARALLELISM",
            "MPLCONFIGDIR",
        ),
    ],
)
def test_a_variable_of_a_library_gets_into_the_environment_under_what_is_there(
    env_file: Path, name: str
) -> None:
    env_file.write_text(f"{name}=from-the-file\n")
    found = read_env_file(env_file, NAMES)
    assert (dict(found.variables), found.warnings) == ({name: "from-the-file"}, ())
    environment: dict[str, str] = {}
    export(found.variables, environment)
    assert environment == {name: "from-the-file"}
    environment = {name: "from-outside"}
    export(found.variables, environment)
    assert environment == {name: "from-outside"}


def test_an_empty_variable_of_a_library_counts_as_not_set(env_file: Path) -> None:
    env_file.write_text("HF_HOME=\nHTTPS_PROXY=''\n")
    assert read_env_file(env_file, NAMES).variables == {}


@pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "PYTHONUNBUFFERED", "MALLOC_ARENA_MAX"])
def test_what_is_read_before_the_file_is_refused_in_it(env_file: Path, name: str) -> None:
    assert told(env_file, f"{name}=1\n") == [
        f"{name} in .env is read before this file is: set it in the environment that starts the bot."
    ]


def test_only_names_that_are_nearly_ours_are_told_of_the_environment() -> None:
    others = ["PATH", "HOME", "LANG", "HF_HOME", "XDG_DATA_DIRS", "PIP_CACHE_DIR", "PYTHONPATH", "DATA_DIR"]
    assert list(misspelt([*others, "DISCORD_TOKN", "QUEUE_LIMITS"], NAMES)) == [
        "DISCORD_TOKN in the environment is not a setting: did you mean DISCORD_TOKEN?",
        "QUEUE_LIMITS in the environment is not a setting: did you mean QUEUE_LIMIT?",
    ]


def test_the_time_zone_of_the_file_is_that_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.delenv("TZ")
    try:
        export({"TZ": "Asia/Tokyo"})
        assert time.localtime(0).tm_hour == 9
    finally:
        os.environ.pop("TZ")
        monkeypatch.undo()
        time.tzset()


def test_passwords_of_proxies_are_struck_out_of_the_log(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text("HTTPS_PROXY=http://bot:pr0xy-pass@proxy:3128\n")
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:index-pass@index.example/simple")
    assert {"pr0xy-pass", "index-pass"} <= set(load_settings(env_file).secrets)


def test_a_file_with_a_byte_order_mark_is_read_from_its_first_line(env_file: Path) -> None:
    env_file.write_bytes("QUEUE_LIMIT=7\nLOG_LEVEL=DEBUG\n".encode("utf-8-sig"))
    settings = load_settings(env_file)
    assert (settings.queue_limit, settings.warnings) == (7, ())


AS_A_COMMAND = """
import sys
from bot.cli import main

code = main(["--env-file", sys.argv[1], "backup", "copy"])
from huggingface_hub import constants
print(code, constants.HF_HOME, constants.HF_HUB_OFFLINE)
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_command_has_libraries_use_the_file_and_tells_what_is_misspelt(
    env_file: Path, tmp_path: Path, form: str
) -> None:
    env_file.write_text(
        f"HF_HOME={tmp_path}/hub\nHF_HUB_OFFLINE=1\nDISCORD_TOKN=a.b.SECRET\nDATA_DIR={tmp_path}/data\n"
        f"LOG_FORMAT={form}\nDISCORD_TOKEN: a.b.SECRET\n"
    )
    done = run_python("-c", AS_A_COMMAND, str(env_file), HF_HUB_OFFLINE="0")  # the environment wins
    assert done.stdout == f"1 {tmp_path}/hub False\n"
    assert "SECRET" not in done.stderr
    *warnings, sentence = done.stderr.splitlines()
    assert sentence.startswith("There is no database at ")
    if form == "json":
        warnings = [json.loads(line)["message"] for line in warnings]
    assert len(warnings) == 2
    assert f"DISCORD_TOKN in {env_file} is not a setting: did you mean DISCORD_TOKEN?" in warnings[0]
    assert f"Line 6 of {env_file} counts for nothing." in warnings[1]


def test_a_file_that_is_no_text_is_a_sentence_before_anything_of_it_counts(env_file: Path) -> None:
    env_file.write_bytes(b"HF_HOME=\xff\n")
    with pytest.raises(SettingsError, match="readable UTF-8 text file"):
        load_settings(env_file)


@pytest.mark.parametrize(
    ("text", "line"), [("  FOO BAR\n", 1), ("A_X=1\n\n  FOO BAR\n", 3), ("\r\n \r\n\tFOO BAR\r\n", 3)]
)
def test_the_line_that_counts_for_nothing_is_named_wherever_it_begins(
    env_file: Path, text: str, line: int
) -> None:
    assert any(one.startswith(f"Line {line} of .env counts for nothing.") for one in told(env_file, text))


@pytest.mark.parametrize("secret", ["hf_abcdefghijkl", "c2VjcmV0dG9rZW4", "MTE4NjY0"])
def test_a_token_that_stands_where_a_name_should_is_not_repeated(env_file: Path, secret: str) -> None:
    assert told(env_file, f"LOG_LEVEL=INFO\n{secret}=\n") == [
        "Line 2 in .env names no setting: remove it, or see .env.example for those there are."
    ]
