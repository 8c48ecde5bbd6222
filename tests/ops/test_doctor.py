"""`check`: one line for each thing, the fix where one is needed, and an exit code for scripts."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Protocol

import pytest

from bot.inference.catalog import load_catalog
from bot.inference.embedded import checkpoint_path
from bot.ops.doctor import check
from bot.settings import Settings, load_settings
from bot.storage.migrate import known_schemas, migrate
from tests.full_disk import fill, small_disk
from tests.inference.checkpoints import save_checkpoint
from tests.inference.hub_standin import Hub, client_of
from tests.inference.hub_standin import serving as hub_serving
from tests.ops.discord_side import SERVER_ID, DiscordSide, serving
from tests.test_cli import run_python

TOKEN = "part-one.part_2.part3"
REMOTE = [alias for alias, spec in load_catalog().items() if spec.repository is not None]


@pytest.fixture(autouse=True)
def side(monkeypatch: pytest.MonkeyPatch) -> Iterator[DiscordSide]:
    with serving(DiscordSide(), monkeypatch) as side:
        yield side


@pytest.fixture(autouse=True)
def nothing_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No Hub, and nothing of it on this disk."""
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with client_of(address, str(tmp_path / "hub"), monkeypatch):
            yield


def settings_of(tmp_path: Path, **values: object) -> Settings:
    return load_settings(
        None,
        **{
            "discord_token": TOKEN,
            "cache_dir": tmp_path / "cache",
            "data_dir": tmp_path / "data",
            **values,
        },
    )


class Report:
    """What a run said."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.document = json.loads(text)
        self._checks = {one["id"]: one for one in self.document["checks"]}
        assert len(self._checks) == len(self.document["checks"]), "an id is not of one check alone"

    @property
    def ids(self) -> list[str]:
        return list(self._checks)

    def verdict(self, check_id: str) -> str:
        return str(self._checks[check_id]["verdict"])

    def text(self, check_id: str) -> str:
        return str(self._checks[check_id]["text"])


class Run(Protocol):
    """Runs `check --json`."""

    def __call__(
        self, settings: Settings, *, server_id: int | None = None, offline: bool = False
    ) -> Report: ...


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(settings: Settings, *, server_id: int | None = None, offline: bool = False) -> Report:
        code = check(settings, server_id=server_id, offline=offline, as_json=True)
        return Report(code, capsys.readouterr().out)

    return run


def test_a_machine_that_is_ready_is_all_ok_but_for_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint("llama", checkpoint_path(tmp_path / "cache"))
    assert check(settings_of(tmp_path), server_id=SERVER_ID) == 0
    lines = capsys.readouterr().out.splitlines()
    subjects = [line[9:21].strip() for line in lines]
    hub = ["hub", *(f"Hub: {alias}"[:12] for alias in REMOTE)]
    assert subjects == [
        *("token", "intents", "invite", "server", "clock", "settings", "settings", "CACHE_DIR", "DATA_DIR"),
        *("HF_HOME", "database", "catalogue", "ACCESS_FILE", *hub, "device", "bitsandbytes", *load_catalog()),
    ]
    verdicts = {line.split()[0] for line, subject in zip(lines, subjects, strict=True) if subject not in hub}
    assert verdicts == {"ok"}
    assert not any(TOKEN in line for line in lines)


def test_what_is_misspelt_in_the_settings_file_is_a_warning(tmp_path: Path, run: Run) -> None:
    file = tmp_path / ".env"
    file.write_text("DISCORD_TOKN=a.b.SECRET\n")
    settings = load_settings(file, cache_dir=tmp_path / "cache", data_dir=tmp_path / "data")
    report = run(settings, offline=True)
    assert report.verdict("settings.names") == "warning"
    assert f"DISCORD_TOKN in {file} is not a setting: did you mean DISCORD_TOKEN?" in str(report.document)
    assert "SECRET" not in str(report.document)


def test_the_ids_are_those_that_scripts_know(tmp_path: Path, run: Run) -> None:
    report = run(settings_of(tmp_path), server_id=SERVER_ID)
    assert report.ids == [
        *("token", "intents", "invite", "server", "clock", "settings.file", "settings.names"),
        *("disk.cache", "disk.data", "disk.hub", "database", "catalogue", "access_file", "hub"),
        *(f"access.{alias}" for alias in REMOTE),
        *("gpu", "quantization", *(f"model.{alias}" for alias in load_catalog())),
    ]
    assert "server" not in run(settings_of(tmp_path)).ids
    assert not any("\n" in one["text"] for one in report.document["checks"])


def test_what_fails_is_the_exit_code(tmp_path: Path, run: Run, side: DiscordSide) -> None:
    assert run(settings_of(tmp_path)).code == 0  # the Hub cannot be reached: a warning
    side.status = 401
    report = run(settings_of(tmp_path))
    assert (report.code, report.document["verdict"]) == (1, "failed")
    assert report.verdict("token") == "failed"


def test_a_missing_token_is_a_warning_because_the_demo_needs_none(tmp_path: Path, run: Run) -> None:
    report = run(settings_of(tmp_path, discord_token=None))
    assert (report.code, report.verdict("token")) == (0, "warning")
    assert "DISCORD_TOKEN is not set" in report.text("token")


def test_with_a_hub_everything_can_be_ok(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "models.toml"
    own.write_text("")
    with hub_serving(Hub()) as hub, client_of(hub.url, str(tmp_path / "hub"), monkeypatch):
        report = run(settings_of(tmp_path, hf_token="hf_valid", models_file=own))
    assert report.verdict("hub") == "ok"
    assert report.verdict("access.llama") == "warning"  # this Hub has no such model
    assert "There is no meta-llama/Llama-3.1-8B-Instruct on the Hub" in report.text("access.llama")
    assert "hf_valid" not in json.dumps(report.document)


def test_a_clock_that_is_wrong_is_told_by_discord(tmp_path: Path, run: Run, side: DiscordSide) -> None:
    assert run(settings_of(tmp_path)).verdict("clock") == "ok"
    side.ahead_s = 600
    report = run(settings_of(tmp_path))
    assert report.verdict("clock") == "failed"
    assert "s behind Discord: switch time synchronisation on" in report.text("clock")


def test_offline_nobody_is_asked_and_each_line_says_so(tmp_path: Path, run: Run, side: DiscordSide) -> None:
    report = run(settings_of(tmp_path), server_id=SERVER_ID, offline=True)
    assert side.asked == []
    for check_id in ("token", "intents", "invite", "server", "clock", "hub", "access.llama"):
        assert report.verdict(check_id) == "warning"
        assert report.text(check_id).startswith("NOT CHECKED, because of --offline")
    assert "NOT CHECKED" in report.text("model.llama")
    assert report.verdict("database") == "ok"
    assert report.code == 0


# --- Settings and folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "verdict"), [(0o600, "ok"), (0o640, "ok"), (0o400, "ok"), (0o644, "warning"), (0o660, "warning")]
)
def test_a_settings_file_that_others_can_read_or_change_is_a_warning_with_the_command(
    tmp_path: Path, run: Run, mode: int, verdict: str
) -> None:
    file = tmp_path / ".env"
    file.write_text(f"DISCORD_TOKEN={TOKEN}\n")
    file.chmod(mode)
    report = run(load_settings(file, cache_dir=tmp_path / "cache", data_dir=tmp_path / "data"), offline=True)
    assert report.verdict("settings.file") == verdict
    assert (f"chmod 600 {file}" in report.text("settings.file")) == (verdict == "warning")
    assert TOKEN not in json.dumps(report.document)


@pytest.mark.parametrize(("name", "check_id"), [("CACHE_DIR", "disk.cache"), ("DATA_DIR", "disk.data")])
def test_a_folder_that_cannot_be_written_fails_under_its_setting_with_the_fix(
    tmp_path: Path, run: Run, name: str, check_id: str
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    report = run(settings_of(tmp_path, **{name.lower(): in_the_way}), offline=True)
    assert report.verdict(check_id) == "failed"
    assert str(in_the_way) in report.text(check_id)
    assert f"set {name} to another" in report.text(check_id)
    assert "Errno" not in report.text(check_id)


def test_a_folder_whose_rights_are_missing_fails_with_the_fix(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # these tests may run as root, who may write anywhere
    report = run(settings_of(tmp_path), offline=True)
    assert report.verdict("disk.data") == "failed"
    assert f"{tmp_path}/data cannot be written (no rights): change its owner" in report.text("disk.data")


def test_a_disk_with_little_room_is_a_warning(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5 * 10**8))
    report = run(settings_of(tmp_path), offline=True)
    assert (report.verdict("disk.cache"), report.verdict("disk.data")) == ("warning", "ok")
    assert "0.5 GB free, which is little" in report.text("disk.cache")


# --- The database -----------------------------------------------------------------------------------------------


def with_database(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "punchline.sqlite3"
    path.parent.mkdir(exist_ok=True)
    migrate(path)
    return path


def test_a_database_that_is_whole_is_told_with_its_schema(tmp_path: Path, run: Run) -> None:
    report = run(settings_of(tmp_path), offline=True)
    assert report.text("database").endswith("is made when the bot starts")
    with_database(tmp_path)
    report = run(settings_of(tmp_path), offline=True)
    assert report.verdict("database") == "ok"
    assert "is whole and writable" in report.text("database")
    assert report.text("database").endswith(f"schema {known_schemas()[-1]}")


def test_a_database_of_a_newer_version_fails(tmp_path: Path, run: Run) -> None:
    with sqlite3.connect(with_database(tmp_path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    report = run(settings_of(tmp_path), offline=True)
    assert report.verdict("database") == "failed"
    assert "written by a newer Punchline (schema 9999" in report.text("database")


def test_a_damaged_database_fails_with_the_way_out(tmp_path: Path, run: Run) -> None:
    os.truncate(with_database(tmp_path), 5_000)
    report = run(settings_of(tmp_path), offline=True)
    assert (report.code, report.verdict("database")) == (1, "failed")
    assert "`python -m bot restore FILE`" in report.text("database")


def test_a_database_on_a_full_disk_fails_because_it_is_really_written(tmp_path: Path, run: Run) -> None:
    with small_disk(tmp_path / "data") as disk:
        migrate(disk / "punchline.sqlite3")
        with closing(sqlite3.connect(disk / "punchline.sqlite3")) as of_the_bot:
            of_the_bot.execute("SELECT count(*) FROM replies").fetchone()
            of_the_bot.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            fill(disk)
            report = run(settings_of(tmp_path), offline=True)
    assert report.verdict("database") == "failed"
    assert "punchline.sqlite3 is full: nothing new can be kept" in report.text("database")
    assert report.verdict("disk.data") == "warning"


# --- Models -----------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_fetched_yet_is_a_warning_with_the_command(tmp_path: Path, run: Run) -> None:
    report = run(settings_of(tmp_path))
    assert report.verdict("model.smol") == "warning"
    assert "`python -m bot pull smol`" in report.text("model.smol")
    # Nobody asked for this one yet; it is no fault that it is not here.
    assert report.verdict("model.gemma") == "ok"
    assert "`python -m bot pull gemma`" in report.text("model.gemma")
    assert report.code == 0


def test_the_model_that_answers_by_default_is_the_one_that_is_warned_of(tmp_path: Path, run: Run) -> None:
    report = run(settings_of(tmp_path, default_model="gemma"))
    assert (report.verdict("model.gemma"), report.verdict("model.smol")) == ("warning", "ok")
    assert "gemma answers by default" in report.text("catalogue")


def test_a_fault_in_the_catalogue_fails_with_its_line_and_the_rest_is_still_told(
    tmp_path: Path, run: Run
) -> None:
    own = tmp_path / "models.toml"
    own.write_text("[gemma]\ncontext_tokens = 3\n")
    report = run(settings_of(tmp_path, models_file=own))
    assert (report.code, report.verdict("catalogue")) == (1, "failed")
    assert f"{own}, line 2: " in report.text("catalogue")
    assert report.ids[-2:] == ["gpu", "quantization"]
    assert report.verdict("token") == "ok"


def test_a_fault_in_the_file_of_who_may_ask_fails_with_what_is_wrong(tmp_path: Path, run: Run) -> None:
    own = tmp_path / "access.toml"
    own.write_text("[deny]\npeople = [7]\n")
    report = run(settings_of(tmp_path, access_file=own))
    assert (report.code, report.verdict("access_file")) == (0, "ok")
    assert "can be used" in report.text("access_file")
    own.write_text("[deny]\nfriends = [7]\n")
    report = run(settings_of(tmp_path, access_file=own))
    assert (report.code, report.verdict("access_file")) == (1, "failed")
    assert "'deny.friends' is wrong" in report.text("access_file")


def test_a_default_that_does_not_exist_fails(tmp_path: Path, run: Run) -> None:
    report = run(settings_of(tmp_path, default_model="gema"))
    assert report.code == 1
    assert "Did you mean 'gemma'?" in report.text("catalogue")


def test_a_model_whose_folder_is_gone_fails(tmp_path: Path, run: Run) -> None:
    own = tmp_path / "models.toml"
    own.write_text(f'[tiny]\nsource = "{tmp_path}/gone"\ncontext_tokens = 256\ndescription = "a model"\n')
    report = run(settings_of(tmp_path, models_file=own))
    assert report.verdict("model.tiny") == "failed"
    assert f"{tmp_path}/gone" in report.text("model.tiny")


# --- As a command -----------------------------------------------------------------------------------------------

NOISY = """
import os, sys
from bot import cli
from bot.ops import machine_checks

def noisy():
    print("a library says hello")
    os.write(1, b"and so does its native part")
    raise RuntimeError("no")

machine_checks.read_accelerator = noisy
sys.exit(cli.main(sys.argv[1:]))
"""


def test_on_stdout_there_is_one_document_and_nothing_else_whatever_libraries_print(tmp_path: Path) -> None:
    places = {"DATA_DIR": str(tmp_path / "data"), "CACHE_DIR": str(tmp_path / "cache")}
    done = run_python("-c", NOISY, "check", "--json", "--offline", **places)
    report = Report(done.returncode, done.stdout)
    assert (report.code, report.verdict("gpu")) == (1, "failed")
    assert "a library says hello" in done.stderr
    assert "and so does its native part" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_that_cannot_be_read_are_a_document_too(tmp_path: Path) -> None:
    done = run_python("-m", "bot", "check", "--json", QUEUE_LIMIT="many", DISCORD_TOKEN="not-a-token-SECRET")
    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"]) == (2, "failed")
    assert [one["verdict"] for one in report["checks"]] == ["failed", "failed"]
    assert "SECRET" not in done.stdout
    assert done.stderr.startswith("DISCORD_TOKEN is malformed")
