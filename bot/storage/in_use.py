"""Who has the database open: any number of users at once, or one who exchanges the file and nobody else.

The operating system gives such a lock back when a process ends, however it ends: nothing is left to clean up.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot.errors import StorageError
from bot.storage.rights import make_private
from bot.storage.sentences import explained

if sys.platform != "win32":
    import fcntl


@contextmanager
def used(path: Path) -> Iterator[None]:
    """Use the database at `path` beside others.

    Raises:
        StorageError: its file is being exchanged right now.
    """
    with _held(path, alone=False) as is_held:
        if not is_held:
            raise StorageError(f"{path} is being restored from a backup: start again when that is done.")
        yield


@contextmanager
def used_alone(path: Path) -> Iterator[None]:
    """Have the database at `path` to oneself, to exchange its file.

    Raises:
        StorageError: somebody uses it.
    """
    with _held(path, alone=True) as is_held:
        if not is_held:
            raise StorageError(f"The bot is running, with {path} open: stop it first, then do this again.")
        yield


@contextmanager
def _held(path: Path, *, alone: bool) -> Iterator[bool]:
    if sys.platform == "win32":  # there, a file that is open cannot be exchanged anyway
        yield True
        return
    file = Path(f"{path}.in-use")
    with explained(file):
        make_private(file)
        held = os.open(file, os.O_RDONLY)
    try:
        with explained(file):
            is_held = _locked(held, alone=alone)
        yield is_held
    finally:
        os.close(held)


def _locked(file: int, *, alone: bool) -> bool:
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
