"""The database's files: only their owner reads them, their path may be called anything, and what is none is told."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bot.errors import StorageError
from bot.inference.threads import SharedLooks
from bot.ops.findings import Finding, Verdict
from bot.ops.machine_checks import folder_checks
from bot.settings import load_settings
from bot.storage.backup import back_up, restore
from bot.storage.choices import ModelChoices, PlaceKind
from bot.storage.database import open_database
from bot.storage.migrate import MIGRATIONS, migrate


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "punchline.sqlite3"


async def choose(path: Path, alias: str) -> None:
    async with open_database(path) as database:
        await ModelChoices(database).put(PlaceKind.CHANNEL, 1, alias, set_by=7)


async def chosen(path: Path) -> str | None:
    async with open_database(path) as database:
        return (await ModelChoices(database).at([(PlaceKind.CHANNEL, 1)], None)).alias(PlaceKind.CHANNEL)


async def checked(path: Path) -> Finding:
    settings = load_settings(None, data_dir=path.parent, cache_dir=path.parent, database_file=path)
    (check,) = (one for one in folder_checks(settings, SharedLooks()) if one.id == "database")
    return await check.finding()


def rights(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


# --- Rights -----------------------------------------------------------------------------------------------------


async def test_all_files_of_a_new_database_and_their_folder_are_their_owners_only(path: Path) -> None:
    async with open_database(path) as database:
        await ModelChoices(database).put(PlaceKind.CHANNEL, 1, "gemma", set_by=7)
        found = rights(path.parent)
    assert {f"{path.name}{end}" for end in ("", "-wal", "-shm", ".lock", ".in-use")} == set(found)
    assert set(found.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_folder_that_was_there_keeps_its_rights(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    await choose(path, "gemma")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


async def test_files_that_others_could_read_are_taken_from_them_at_the_start_and_that_is_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await choose(path, "gemma")
    for file in path.parent.iterdir():
        file.chmod(0o644)
    finding = await checked(path)
    assert finding.verdict is Verdict.WARNING
    assert f"chmod 600 {path} " in f"{finding.text} "
    caplog.set_level(logging.WARNING)
    async with open_database(path) as database:
        await ModelChoices(database).put(PlaceKind.CHANNEL, 1, "phi", set_by=7)
        assert set(rights(path.parent).values()) == {0o600}
    assert f"{path} could be read by others (0644); now only its owner can" in caplog.text
    assert (await checked(path)).verdict is Verdict.OK


async def test_the_rights_of_another_programs_database_are_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (words TEXT)")
    with pytest.raises(StorageError, match="another program"):
        await choose(path, "gemma")
    assert rights(path.parent)[path.name] == 0o644


async def test_a_group_that_somebody_let_read_it_may_still_do_so(path: Path) -> None:
    await choose(path, "gemma")
    path.chmod(0o640)
    async with open_database(path):
        assert rights(path.parent)[path.name] == 0o640
    assert (await checked(path)).verdict is Verdict.OK


@pytest.mark.parametrize("has_links", [True, False])
async def test_neither_a_restored_database_nor_what_was_there_can_be_read_by_others(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    await choose(path, "gemma")
    back_up(path, tmp_path / "copy")
    path.chmod(0o644)
    (tmp_path / "copy").chmod(0o644)
    if not has_links:
        copied = shutil.copyfile

        def no_links(*_: object) -> None:
            raise OSError("no links here")

        def seen(source: Path, target: Path, **options: bool) -> Path:
            assert stat.S_IMODE(target.stat().st_mode) == 0o600  # before anything is in it
            return Path(copied(source, target, **options))

        monkeypatch.setattr(os, "link", no_links)
        monkeypatch.setattr(shutil, "copyfile", seen)
    kept = restore(tmp_path / "copy", path).kept
    assert kept is not None
    assert set(rights(path.parent).values()) == {0o600}


# --- Names ------------------------------------------------------------------------------------------------------

NAMES = [
    "what?.db",
    "a?mode=memory&cache=shared",
    "50%.db",
    "%20(x)s",
    "a#b",
    "two words.db",
    "naïve-猫🐈.db",
    ":memory:",
]


@pytest.mark.parametrize("name", NAMES)
async def test_a_database_lies_where_it_was_asked_for_whatever_its_path_is_called(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"folder {name}" / name
    await choose(path, "gemma")
    copy = tmp_path / f"copy of {name}"
    back_up(path, copy)
    await choose(path, "phi")
    for file in (path, copy):
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
            (alias,) = connection.execute("SELECT alias FROM model_choices").fetchone()
        assert alias == ("phi" if file == path else "gemma")
    assert (await checked(path)).verdict is Verdict.OK
    monkeypatch.chdir(path.parent)
    relative = Path(name)
    assert await chosen(relative) == "phi"
    restored = restore(copy, relative)
    assert restored.kept is not None
    assert await chosen(path) == "gemma"
    assert {file.name for file in tmp_path.iterdir()} == {path.parent.name, copy.name}
    assert {file.name for file in path.parent.iterdir()} == {
        *(name, f"{name}.lock", f"{name}.in-use", restored.kept.name)
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_bot_may_be_installed_in_a_folder_of_any_name(path: Path, tmp_path: Path, name: str) -> None:
    installed = tmp_path / name / "migrations"
    shutil.copytree(MIGRATIONS, installed, ignore=shutil.ignore_patterns("__pycache__"))
    path.parent.mkdir()
    migrate(path, installed)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM replies").fetchone() == (0,)


# --- What cannot be opened --------------------------------------------------------------------------------------


def folder_in_its_place(path: Path) -> None:
    path.mkdir(parents=True)


def pipe_in_its_place(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)


def a_lock_that_cannot_be_opened(path: Path) -> None:
    path.parent.mkdir()
    path.with_name(f"{path.name}.in-use").symlink_to(f"{path.name}.in-use")


def file_in_place_of_its_folder(path: Path) -> None:
    path.parent.write_text("mine")


def two_versions(path: Path) -> None:
    path.parent.mkdir()
    migrate(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO alembic_version VALUES ('0001')")


@pytest.mark.parametrize(
    "make",
    [
        folder_in_its_place,
        pipe_in_its_place,
        a_lock_that_cannot_be_opened,
        file_in_place_of_its_folder,
        two_versions,
    ],
)
async def test_what_cannot_be_opened_is_a_sentence(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises(StorageError) as refused:
        async with open_database(path):
            pass
    assert str(path.parent) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("make", [folder_in_its_place, pipe_in_its_place, file_in_place_of_its_folder])
async def test_neither_a_backup_nor_a_restore_nor_a_check_of_what_is_no_file_is_a_traceback(
    path: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    good = tmp_path / "good"
    migrate(good)
    make(path)
    for work in (lambda: back_up(path, tmp_path / "copy"), lambda: restore(good, path)):
        with pytest.raises(StorageError) as refused:
            work()
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "copy").exists()
    finding = await checked(path)
    assert "could not be checked" not in finding.text


async def test_a_name_that_no_file_system_takes_is_a_sentence_everywhere(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 100)
    with pytest.raises(StorageError, match="File name too long"):
        back_up(path, tmp_path / "copy")
    good = tmp_path / "good"
    migrate(good)
    with pytest.raises(StorageError, match="File name too long"):
        restore(good, path)
    with pytest.raises(StorageError, match="File name too long"):
        restore(path, good)
    with pytest.raises(StorageError, match="File name too long"):
        async with open_database(path):
            pass
    finding = await checked(path)
    assert (finding.verdict, "File name too long" in finding.text) == (Verdict.FAILED, True)


async def test_a_file_system_without_locks_is_a_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    await choose(path, "gemma")
    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(StorageError, match="DATABASE_FILE"):
        async with open_database(path):
            pass
