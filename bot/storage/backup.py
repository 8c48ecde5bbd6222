"""Copies of the database: taken while the bot runs, and put in its place again while it does not.

A copy is one file, whole and of one moment: SQLite copies the pages inside one read transaction, beside which others
go on writing. Files get their final name at the end, by a rename: half a copy is never taken for one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bot.errors import StorageError
from bot.storage.condition import Condition, condition_of, opened, sync_folder
from bot.storage.in_use import used, used_alone
from bot.storage.rights import make_folder, make_private, take_from_others
from bot.storage.sentences import WAY_OUT, explained, require_file

_LOGS = ("-wal", "-shm")
_ANOTHER = "take another backup"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did; `kept` is where the database that was there is now, None if there was none."""

    condition: Condition
    kept: Path | None


def back_up(database: Path, target: Path) -> Condition:
    """Copy the database into a new file, readable by its owner only: it holds what people wrote.

    Raises:
        StorageError: there is nothing to copy, the copy would be damaged, or it cannot be written.
    """
    with explained(database):
        if not database.exists():
            raise StorageError(f"There is no database at {database} yet: check DATA_DIR and DATABASE_FILE.")
        require_file(database)
    with explained(target, rights="choose a file in a folder you may write to"):
        if target.exists():
            raise StorageError(f"{target} exists already: choose another name, or move it away.")
        with _begun(target) as part:
            with used(database):
                _copy(database, part, WAY_OUT, told=target)
            condition = _seen_as(database, part, WAY_OUT)
            _give_name(part, target)
    return condition


def restore(source: Path, database: Path) -> Restored:
    """Put a copy in the database's place; what was there stays beside it, under another name.

    Killed at any moment, it leaves either the old database or the new one in place.

    Raises:
        StorageError: the bot is running; the copy is damaged, of a newer version or not Punchline's; or it cannot be
            written. The database is as it was then.
    """
    with explained(source, rights="check the rights of the file and its folder"):
        if not source.is_file():
            raise StorageError(f"There is no file {source}: check its path.")
    with explained(database):
        require_file(database)
        if database.exists() and database.samefile(source):
            raise StorageError(f"{source} is the database itself: name the backup to restore.")
        make_folder(database.parent)
        with used_alone(database), _begun(database) as part:
            take_from_others(database)
            _copy(source, part, _ANOTHER, told=database)
            condition = _seen_as(source, part, _ANOTHER, thorough=True)
            _owned_like(database if database.exists() else database.parent, part)
            kept = _set_aside(database)
            part.replace(database)
            sync_folder(database.absolute().parent)
    return Restored(condition, kept)


@contextmanager
def _begun(target: Path) -> Iterator[Path]:
    """A new empty file beside `target`, removed at the end if it is still there."""
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield part
    finally:
        for name in (part, *(Path(f"{part}{log}") for log in (*_LOGS, "-journal"))):
            name.unlink(missing_ok=True)


def _copy(source: Path, part: Path, way_out: str, *, told: Path) -> None:
    """Copy a database's pages, those in its log too.

    Args:
        source: the database, which others may be using.
        part: a file that is empty.
        way_out: what to do if the source is damaged.
        told: what `part` is going to be; named if its disk is full.
    """
    may_write = os.access(source, os.W_OK) and os.access(source.absolute().parent, os.W_OK)
    try:
        with (
            closing(opened(source, "rw" if may_write else "ro")) as reading,
            closing(sqlite3.connect(part)) as writing,
        ):
            reading.backup(writing)  # all pages in one step: nobody who writes has it begin again
            writing.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    except sqlite3.Error as error:
        is_targets = "full" in str(error) or "I/O" in str(error)
        with explained(told if is_targets else source, way_out=way_out):
            raise
    with part.open("rb+") as copied:
        os.fsync(copied.fileno())


def _seen_as(original: Path, part: Path, way_out: str, *, thorough: bool = False) -> Condition:
    """The condition of a copy, told of the original: that is the file which the operator knows."""
    try:
        return condition_of(part, thorough=thorough, way_out=way_out)
    except StorageError as error:
        raise StorageError(str(error).replace(str(part), str(original))) from None


def _give_name(part: Path, target: Path) -> None:
    """Let a finished file have its name, if nobody took it meanwhile."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        part.replace(target)
    sync_folder(target.absolute().parent)


def _set_aside(database: Path) -> Path | None:
    """Give the database a second name, under which it stays when another file takes its first."""
    if not database.exists():
        return None
    kept = _free_name(database)
    try:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")  # the log's pages go into the file
    except sqlite3.DatabaseError as error:
        if "locked" in str(error) or "full" in str(error):
            raise
        # It is damaged, which is why somebody restores.
    for log in _LOGS:  # one that stayed must never be taken for the new file's
        with suppress(FileNotFoundError):
            Path(f"{database}{log}").replace(f"{kept}{log}")
    try:
        os.link(database, kept)
    except OSError:  # a file system without links
        make_private(kept)  # not for others for a moment either
        shutil.copy2(database, kept)
    return kept


def _free_name(database: Path) -> Path:
    now = datetime.now(UTC)
    names = [
        f"{database.name}.before-{now:%Y%m%dT%H%M%SZ}",
        f"{database.name}.before-{now:%Y%m%dT%H%M%S.%fZ}",
    ]
    return next(path for path in map(database.with_name, names) if not path.exists())


def _owned_like(model: Path, part: Path) -> None:
    """An operator who restores as root must not leave a file that the bot cannot open."""
    about = model.stat()
    if model.is_file():
        part.chmod(about.st_mode & 0o777)
    if hasattr(os, "chown"):
        with suppress(PermissionError):
            os.chown(part, about.st_uid, about.st_gid)
