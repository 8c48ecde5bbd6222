"""Who may read the database's files: their owner only. They hold what people wrote."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

OWNER_ONLY = 0o600
FOLDER_OWNER_ONLY = 0o700
_BESIDE = ("", "-wal", "-shm", "-journal", ".lock", ".in-use")


def make_folder(folder: Path) -> None:
    """Make the database's folder if there is none; one that is there keeps its rights.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(mode=FOLDER_OWNER_ONLY, parents=True, exist_ok=True)


def make_private(path: Path) -> None:
    """Make an empty file that only its owner reads, if there is none. SQLite gives its logs the same rights.

    Root makes it for the owner of its folder: the bot must be able to open it later.

    Raises:
        OSError: it cannot be made.
    """
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    except FileExistsError:
        return
    try:
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            owner = path.absolute().parent.stat()
            with suppress(PermissionError):  # root of a container without that right
                os.fchown(made, owner.st_uid, owner.st_gid)
    finally:
        os.close(made)


def open_to_others(database: Path) -> list[Path]:
    """Those of the database's files that every user of this machine may read or write.

    Raises:
        OSError: they cannot be looked at.
    """
    if os.name != "posix":
        return []
    files = [Path(f"{database}{end}") for end in _BESIDE]
    return [file for file in files if file.is_file() and file.stat().st_mode & stat.S_IRWXO]


def take_from_others(database: Path) -> None:
    """Leave the database's files to their owner where every user of this machine may read or write them.

    Earlier versions left that to the umask, which usually lets everybody read. Rights of a group alone are no accident
    of the usual umask, and stay.

    Raises:
        OSError: the files cannot be looked at.
    """
    for file in open_to_others(database):
        before = stat.S_IMODE(file.stat().st_mode)
        try:
            file.chmod(OWNER_ONLY)
        except OSError as error:
            log.warning(
                "%s can be read by others (%04o), and that could not be changed (%s): chmod 600 %s",
                file,
                before,
                error.strerror,
                file,
            )
        else:
            log.warning("%s could be read by others (%04o); now only its owner can", file, before)
