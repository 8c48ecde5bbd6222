"""What a database file is: whole or damaged, ours or not, and of which schema. Looks, and changes nothing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bot.errors import StorageError
from bot.storage.migrate import BUSY_TIMEOUT_S, known_schemas
from bot.storage.sentences import WAY_OUT, damaged, explained, require_file


@dataclass(frozen=True, slots=True)
class Condition:
    """A file that is whole and can be used.

    Attributes:
        schema: the version of its tables.
        is_newest: whether that is what this version of Punchline writes; an older one is brought up to date at the
            next start.
        size_bytes: without what still stands in the write-ahead log.
    """

    schema: str
    is_newest: bool
    size_bytes: int


def condition_of(path: Path, *, thorough: bool = False, way_out: str = WAY_OUT) -> Condition:
    """Look at all of a file.

    Args:
        path: the file.
        thorough: compare the indexes with their tables too, which takes longer.
        way_out: what to do if it is damaged.

    Raises:
        StorageError: it is damaged, not a database of Punchline's, or of a newer version of it.
    """
    with explained(path, way_out=way_out), closing(opened(path, "ro")) as connection:
        check = "integrity_check" if thorough else "quick_check"
        if connection.execute(f"PRAGMA {check}(1)").fetchone() != ("ok",):
            raise damaged(path, way_out)
        found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        version = (
            "alembic_version" in found
            and connection.execute("SELECT version_num FROM alembic_version").fetchone()
        )
        size_bytes = path.stat().st_size
    if not version:
        raise StorageError(f"{path} is no database of Punchline's: choose another file.")
    known = known_schemas()
    if version[0] not in known:
        raise StorageError(
            f"{path} was written by a newer Punchline (schema {version[0]}; this one knows up to {known[-1]}): "
            "install that version first."
        )
    return Condition(str(version[0]), version[0] == known[-1], size_bytes)


def try_to_write(path: Path) -> None:
    """Write to a database, to the disk, without changing anything that is in it.

    Raises:
        StorageError: it cannot be written.
    """
    with explained(path), closing(opened(path, "rw")) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute(
            f"PRAGMA user_version = {version}"
        )  # nobody reads it; its page is written all the same


def opened(path: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    """A connection to a file that is there; patient with others, as the bot's own are.

    Raises:
        StorageError: it is no file.
    """
    require_file(path)
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def sync_folder(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
