"""A backup is whole and of one moment, and comes back; nothing that is there is lost on the way."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from bot.errors import StorageError
from bot.storage import backup
from bot.storage.backup import back_up, restore
from bot.storage.choices import ModelChoices, PlaceKind
from bot.storage.database import open_database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "punchline.sqlite3"


async def choose(path: Path, alias: str, *, place: int = 1) -> None:
    async with open_database(path) as database:
        await ModelChoices(database).put(PlaceKind.CHANNEL, place, alias, set_by=7)


async def chosen(path: Path, *, place: int = 1) -> str | None:
    async with open_database(path) as database:
        return (await ModelChoices(database).at([(PlaceKind.CHANNEL, place)], None)).alias(PlaceKind.CHANNEL)


def beside(path: Path, *names: str) -> set[str]:
    """What is in the folder, apart from the locks."""
    locks = {f"{name}{end}" for name in (path.name, *names) for end in (".lock", ".in-use")}
    return {file.name for file in path.parent.iterdir()} - locks


def edited(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def ruined(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)


# --- Back and forth ---------------------------------------------------------------------------------------------


async def test_what_was_backed_up_comes_back_and_what_was_there_is_kept_beside(
    path: Path, tmp_path: Path
) -> None:
    await choose(path, "gemma")
    back_up(path, tmp_path / "copy")
    await choose(path, "phi")
    restored = restore(tmp_path / "copy", path)
    assert await chosen(path) == "gemma"
    assert restored.condition.is_newest
    assert restored.kept is not None
    assert await chosen(restored.kept) == "phi"


async def test_a_backup_is_one_file_that_only_its_owner_reads(path: Path, tmp_path: Path) -> None:
    await choose(path, "gemma")
    (tmp_path / "backups").mkdir()
    target = tmp_path / "backups" / "copy"
    condition = back_up(path, target)
    assert [file.name for file in target.parent.iterdir()] == ["copy"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert condition.size_bytes == target.stat().st_size
    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


async def test_what_stands_in_the_log_only_is_in_the_backup_of_a_running_bot(
    path: Path, tmp_path: Path
) -> None:
    async with open_database(path) as database:
        await ModelChoices(database).put(PlaceKind.CHANNEL, 1, "gemma", set_by=7)
        assert Path(f"{path}-wal").stat().st_size  # nothing of it need be in the file itself yet
        await asyncio.to_thread(back_up, path, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "elsewhere")
    assert await chosen(tmp_path / "elsewhere") == "gemma"


async def test_a_backup_beside_somebody_who_writes_is_of_one_moment(path: Path, tmp_path: Path) -> None:
    async with open_database(path) as database:
        choices = ModelChoices(database)
        copied = threading.Event()

        def copy() -> None:
            for number in range(5):
                back_up(path, tmp_path / f"copy{number}")
            copied.set()

        copying = asyncio.create_task(asyncio.to_thread(copy))
        written = 0
        while not copied.is_set():
            await choices.put(PlaceKind.CHANNEL, written, f"m{written}", set_by=7)
            written += 1
        await copying
    for number in range(5):
        with closing(sqlite3.connect(tmp_path / f"copy{number}")) as connection:
            (count, last) = connection.execute("SELECT count(*), max(place_id) FROM model_choices").fetchone()
            assert count == (0 if last is None else last + 1)  # written in order: no gap
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert written > 5


async def test_an_older_backup_is_restored_and_brought_up_to_date_by_the_next_start(
    path: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    with closing(sqlite3.connect(old)) as connection, connection:  # as version 0001 left it
        connection.executescript(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);"
            "INSERT INTO alembic_version VALUES ('0001');"
            "CREATE TABLE model_choices (kind VARCHAR(8), place_id BIGINT, alias VARCHAR(32) NOT NULL, set_by BIGINT"
            " NOT NULL, set_at DATETIME NOT NULL, PRIMARY KEY (kind, place_id));"
            "INSERT INTO model_choices VALUES ('channel', 1, 'gemma', 1, '2026-01-01 00:00:00.000000');"
            "CREATE TABLE offered_models (server_id BIGINT, alias VARCHAR(32), PRIMARY KEY (server_id, alias));"
        )
    restored = restore(old, path)
    assert (restored.condition.schema, restored.condition.is_newest, restored.kept) == ("0001", False, None)
    assert await chosen(path) == "gemma"


# --- Refused ----------------------------------------------------------------------------------------------------


async def test_a_backup_does_not_overwrite_a_file(path: Path, tmp_path: Path) -> None:
    await choose(path, "gemma")
    (tmp_path / "copy").write_text("mine")
    with pytest.raises(StorageError, match="copy exists already: choose another name"):
        back_up(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "mine"


def test_a_backup_of_nothing_says_which_settings_name_the_database(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no database at .* yet: check DATA_DIR and DATABASE_FILE"):
        back_up(path, tmp_path / "copy")


async def test_a_backup_into_a_folder_that_is_not_there_is_a_sentence(path: Path, tmp_path: Path) -> None:
    await choose(path, "gemma")
    with pytest.raises(StorageError, match="choose a file in a folder you may write to"):
        back_up(path, tmp_path / "nowhere" / "copy")


async def test_a_damaged_database_is_not_backed_up_as_if_it_were_whole(path: Path, tmp_path: Path) -> None:
    async with open_database(path) as database:
        for number in range(300):
            await ModelChoices(database).put(PlaceKind.CHANNEL, number, "gemma", set_by=7)
    ruined(path)
    with pytest.raises(StorageError, match=r"punchline\.sqlite3 is damaged: .*restore") as refused:
        back_up(path, tmp_path / "copy")
    assert ".part" not in str(refused.value)
    assert [file.name for file in tmp_path.iterdir()] == ["data"]


async def test_a_restore_while_the_bot_runs_is_refused(path: Path, tmp_path: Path) -> None:
    async with open_database(path) as database:
        await asyncio.to_thread(back_up, path, tmp_path / "copy")
        await ModelChoices(database).put(PlaceKind.CHANNEL, 1, "phi", set_by=7)
        with pytest.raises(StorageError, match=r"The bot is running.*stop it first"):
            restore(tmp_path / "copy", path)
    assert await chosen(path) == "phi"


async def test_a_start_while_a_backup_is_being_restored_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await choose(path, "gemma")
    back_up(path, tmp_path / "copy")
    said: list[str] = []
    set_aside = backup._set_aside

    def meanwhile(database: Path) -> Path | None:
        try:
            asyncio.run(chosen(path))
        except StorageError as refused:
            said.append(str(refused))
        return set_aside(database)

    monkeypatch.setattr(backup, "_set_aside", meanwhile)
    await asyncio.to_thread(restore, tmp_path / "copy", path)
    assert said == [f"{path} is being restored from a backup: start again when that is done."]
    assert await chosen(path) == "gemma"


BOT = """
import asyncio, sys
from pathlib import Path
from bot.storage.database import open_database

async def main():
    async with open_database(Path(sys.argv[1])):
        print("open", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_another_process_that_has_it_open_counts_until_it_is_killed(path: Path, tmp_path: Path) -> None:
    await choose(path, "gemma")
    back_up(path, tmp_path / "copy")
    running = subprocess.Popen([sys.executable, "-c", BOT, str(path)], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        assert running.stdout.readline() == "open\n"
        with pytest.raises(StorageError, match="The bot is running"):
            restore(tmp_path / "copy", path)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
        running.stdout.close()
    restore(tmp_path / "copy", path)
    assert await chosen(path) == "gemma"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda copy: ruined(copy), "copy is damaged: take another backup"),
        (lambda copy: os.truncate(copy, copy.stat().st_size // 2), "copy is damaged: take another backup"),
        (lambda copy: os.truncate(copy, 100), "copy is damaged: take another backup"),
        (lambda copy: os.truncate(copy, 0), "copy is no database of Punchline's"),
        (lambda copy: copy.write_text("words " * 500), "copy is not a database: take another backup"),
        (
            lambda copy: edited(copy, "UPDATE alembic_version SET version_num = '9999'"),
            "written by a newer Punchline .schema 9999; this one knows up to .*: install that version first",
        ),
        (lambda copy: edited(copy, "DROP TABLE alembic_version"), "copy is no database of Punchline's"),
        (lambda copy: copy.unlink(), "There is no file .*copy"),
    ],
    ids=["overwritten", "half", "a-header", "empty", "text", "newer", "foreign", "missing"],
)
async def test_a_backup_that_cannot_be_used_is_refused_and_the_database_stays(
    path: Path, tmp_path: Path, make: object, says: str
) -> None:
    async with open_database(path) as database:
        for number in range(300):
            await ModelChoices(database).put(PlaceKind.CHANNEL, number, "gemma", set_by=7)
    copy = tmp_path / "copy"
    back_up(path, copy)
    await choose(path, "phi")
    before = beside(path)
    assert callable(make)
    make(copy)
    with pytest.raises(StorageError, match=says) as refused:
        restore(copy, path)
    assert "\n" not in str(refused.value)
    assert beside(path) == before
    assert await chosen(path) == "phi"


async def test_the_database_is_not_restored_from_itself(path: Path) -> None:
    await choose(path, "gemma")
    with pytest.raises(StorageError, match="is the database itself"):
        restore(path, path)
    assert await chosen(path) == "gemma"


# --- A damaged database is why somebody restores ----------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 5_000, None], ids=["a-header", "cut", "overwritten"])
async def test_a_restore_over_a_damaged_database_keeps_what_is_left_of_it(
    path: Path, tmp_path: Path, size: int | None
) -> None:
    await choose(path, "gemma")
    back_up(path, tmp_path / "copy")
    if size is None:
        ruined(path)
    else:
        os.truncate(path, size)
    left = path.read_bytes()
    Path(f"{path}-wal").write_bytes(b"of the damaged one")
    kept = restore(tmp_path / "copy", path).kept
    assert kept is not None
    assert kept.read_bytes()[100:] == left[100:]  # before, SQLite says how it keeps its log
    assert not Path(f"{path}-wal").exists()
    assert await chosen(path) == "gemma"


async def test_a_log_that_a_killed_bot_left_is_not_taken_for_that_of_the_restored_file(
    path: Path, tmp_path: Path
) -> None:
    await choose(path, "gemma")
    back_up(path, tmp_path / "copy")
    async with open_database(path) as database:
        await ModelChoices(database).put(PlaceKind.CHANNEL, 1, "phi", set_by=7)
        killed = tmp_path / "killed"
        killed.mkdir()
        for file in path.parent.glob(f"{path.name}*"):  # as it is on the disk at this moment
            shutil.copy2(file, killed)
    restored = restore(tmp_path / "copy", killed / path.name)
    assert await chosen(killed / path.name) == "gemma"
    assert restored.kept is not None
    assert await chosen(restored.kept) == "phi"


async def test_the_log_of_a_damaged_database_is_not_taken_for_that_of_the_restored_file(
    path: Path, tmp_path: Path
) -> None:
    await choose(path, "gemma")
    back_up(path, tmp_path / "copy")
    async with open_database(path) as database:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # so that the log has no new first page
        await ModelChoices(database).put(PlaceKind.CHANNEL, 1, "phi", set_by=7)
        killed = tmp_path / "killed"
        killed.mkdir()
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy2(file, killed)
    with (killed / path.name).open("rb+") as damaged_file:
        damaged_file.write(b"not the beginning of a database")
    restored = restore(tmp_path / "copy", killed / path.name)
    assert restored.kept is not None
    assert restored.kept.read_bytes().startswith(b"not the beginning")
    assert await chosen(killed / path.name) == "gemma"


# --- Killed, and full -------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from bot.storage import backup

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

step = sys.argv[3]
if step == "replace":
    Path.replace = lambda self, to, replace=Path.replace: killed() if self.suffix == ".part" else replace(self, to)
else:
    setattr(backup, step, killed)
backup.restore(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("step", "has"),
    [
        ("_copy", "phi"),
        ("_seen_as", "phi"),
        ("_set_aside", "phi"),
        ("replace", "phi"),
        ("sync_folder", "gemma"),
    ],
)
async def test_a_restore_that_is_killed_leaves_the_old_database_or_the_new_one(
    path: Path, tmp_path: Path, step: str, has: str
) -> None:
    await choose(path, "gemma")
    back_up(path, tmp_path / "copy")
    await choose(path, "phi")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "copy"), str(path), step]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    assert await chosen(path) == has
    restore(tmp_path / "copy", path)
    assert await chosen(path) == "gemma"


SHORT_OF_DISK = """
import resource, sys
from pathlib import Path
from bot.errors import StorageError
from bot.storage.backup import back_up, restore

resource.setrlimit(resource.RLIMIT_FSIZE, (32768, 32768))
try:
    {"back_up": back_up, "restore": restore}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
except StorageError as error:
    print(error)
"""


async def test_a_copy_for_which_there_is_no_room_is_a_sentence_and_leaves_nothing(
    path: Path, tmp_path: Path
) -> None:
    async with open_database(path) as database:
        for number in range(300):
            await ModelChoices(database).put(PlaceKind.CHANNEL, number, "gemma", set_by=7)
    back_up(path, tmp_path / "copy")
    await choose(path, "phi")
    for arguments, named in (
        (("back_up", path, tmp_path / "second"), "second"),
        (("restore", tmp_path / "copy", path), path.name),
    ):
        command = [sys.executable, "-c", SHORT_OF_DISK, *map(str, arguments)]
        # Measuring coverage there would write a file of its own, for which there is no room either.
        env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{named} cannot be read or written" in done.stdout
        assert "may be full" in done.stdout
    assert beside(path) == {path.name}
    assert {file.name for file in tmp_path.iterdir()} == {"data", "copy"}
    assert await chosen(path) == "phi"
