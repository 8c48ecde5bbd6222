"""The command line, as somebody types it: what is printed where, and the exit code."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bot.errors import BotError
from bot.settings import Settings, load_settings
from bot.storage.in_use import used
from bot.storage.migrate import migrate

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "transformers",
    "bitsandbytes",
    "huggingface_hub",
    "discord",
    "aiohttp",
    "pydantic",
    "simcord",
)


def run_python(*args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    ours = {*(name.upper() for name in Settings.model_fields), "HF_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        [sys.executable, *args],
        cwd=ROOT,
        env=environment | settings,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def punchline(tmp_path: Path, *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env_file = tmp_path / ".env"  # not the one of whoever runs the tests
    env_file.touch()
    return run_python("-m", "bot", "--env-file", str(env_file), *args, **settings)


def test_help_is_complete_and_loads_nothing_heavy() -> None:
    script = f"""
import sys
from bot.cli import main
try:
    main(["--help"])
except SystemExit as ended:
    print("exit", ended.code)
print("loaded", sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = run_python("-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("exit 0\nloaded []\n")
    for command in ("run", "demo", "pull", "check", "backup", "restore"):
        assert f"\n    {command} " in done.stdout


def test_without_a_command_it_says_how_it_is_used() -> None:
    done = run_python("-m", "bot")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: punchline")


def test_a_malformed_setting_is_one_line_and_no_secret(tmp_path: Path) -> None:
    done = punchline(tmp_path, "check", DISCORD_TOKEN="not-a-token-SECRET")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("DISCORD_TOKEN is malformed: ")
    assert "SECRET" not in line


def test_running_without_a_token_says_where_to_get_one(tmp_path: Path) -> None:
    done = punchline(tmp_path, "run")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("DISCORD_TOKEN is not set: ")


def test_a_settings_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run_python("-m", "bot", "--env-file", str(tmp_path / "typo.env"), "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"There is no file {tmp_path}/typo.env: check --env-file.\n"


def test_pulling_an_alias_that_is_nearly_right_offers_the_right_one(tmp_path: Path) -> None:
    done = punchline(tmp_path, "pull", "gema")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "There is no model called 'gema'. Did you mean 'gemma'?\n"


def test_the_help_of_what_scripts_run_says_the_exit_codes() -> None:
    from bot.cli import build_parser

    texts = [build_parser().format_help()]
    for command in ("check", "backup", "restore"):
        done = run_python("-m", "bot", command, "--help")
        texts.append(done.stdout)
    for text in texts:
        assert "exit codes:\n  0    it was done" in text
        assert "\n  1    it failed" in text
        assert "\n  2    it was asked or configured wrongly" in text


def test_a_backup_is_taken_and_restored_from_the_command_line(tmp_path: Path) -> None:
    where = {"DATA_DIR": str(tmp_path / "data")}
    database = tmp_path / "data" / "punchline.sqlite3"
    copy = tmp_path / "copy"
    done = punchline(tmp_path, "backup", str(copy), **where)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"There is no database at {database} yet: check DATA_DIR and DATABASE_FILE.\n"

    database.parent.mkdir()
    migrate(database)
    done = punchline(tmp_path, "backup", str(copy), **where)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{database} is backed up in {copy} (")

    done = punchline(tmp_path, "restore", str(copy), **where)
    assert (done.returncode, done.stderr) == (0, "")
    restored, kept = done.stdout.splitlines()
    assert restored.startswith(f"{database} is restored from {copy} (schema ")
    assert Path(kept.removeprefix("what was there is kept in ")).exists()

    with used(database):
        done = punchline(tmp_path, "restore", str(copy), **where)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("The bot is running, with ")


def test_a_damaged_database_is_one_sentence_when_the_bot_starts(tmp_path: Path) -> None:
    database = tmp_path / "data" / "punchline.sqlite3"
    database.parent.mkdir()
    database.write_bytes(b"no database at all " * 100)
    done = punchline(tmp_path, "run", DATA_DIR=str(database.parent), DISCORD_TOKEN="a.b.c")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"{database} is not a database: the operator can restore a backup with `python -m bot restore FILE`, or move "
        "the file away to begin with an empty one.\n"
    )


def test_a_database_whose_lock_cannot_be_opened_is_one_sentence_when_the_bot_starts(tmp_path: Path) -> None:
    lock = tmp_path / "punchline.sqlite3.in-use"
    lock.symlink_to(lock)
    done = punchline(tmp_path, "run", DATA_DIR=str(tmp_path), DISCORD_TOKEN="a.b.c")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{lock} cannot be used (")
    assert line.endswith(": set DATABASE_FILE to a file in a folder the bot may write to.")


def test_a_demo_with_no_room_for_its_database_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from bot import demo

    monkeypatch.setattr(demo, "configure_logging", lambda *_, **__: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(BotError, match="set TMPDIR to a folder you may write to"):
        demo.demo(load_settings(None), once="/ask prompt:Why?", port=0)


@pytest.mark.parametrize("args", [["pull"], ["pull", "smol", "phi"], ["sing"], ["demo", "--port", "eighty"]])
def test_a_command_that_is_not_understood_is_exit_code_2(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from bot.cli import main

    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: punchline")


def test_ctrl_c_ends_a_command_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bot import cli

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    monkeypatch.setenv("TQDM_DISABLE", "1")  # main sets it; this puts it back
    assert cli.main(["check"]) == 130
    assert capsys.readouterr() == ("", "")
