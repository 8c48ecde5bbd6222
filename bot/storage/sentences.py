"""What SQLite and the file system say, as sentences with the fix."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout
from sqlalchemy.exc import DBAPIError

from bot.errors import StorageError

WAY_OUT = (
    "the operator can restore a backup with `python -m bot restore FILE`, or move the file away to begin with an "
    "empty one"
)
RIGHTS = "set DATABASE_FILE to a file in a folder the bot may write to"

LOCKED = "Another program has kept {path} locked for long. Please try again in a minute."
# Parts of SQLite's messages, and what they mean for whoever reads it.
_SENTENCES = {
    "disk is full": "The disk of {path} is full: nothing new can be kept. The operator must free space there.",
    "disk I/O error": "The disk of {path} cannot be read or written. The operator must look at it: it may be full, "
    "or failing.",
    "locked": LOCKED,
    "malformed": "{path} is damaged: {way_out}.",
    "not a database": "{path} is not a database: {way_out}.",
    "unable to open": "{path} cannot be opened: check DATABASE_FILE, and the rights of its folder.",
    "readonly": "{path} cannot be written: check the rights of the file and its folder.",
}


def require_file(path: Path) -> None:
    """Let nothing but a file, or nothing at all, be taken for a database: reading a pipe would never end.

    Raises:
        StorageError: it is something else.
        OSError: it cannot be looked at.
    """
    if path.exists() and not path.is_file():
        raise StorageError(f"{path} is no file: set DATABASE_FILE to one, in a folder the bot may write to.")


def damaged(path: Path, way_out: str = WAY_OUT) -> StorageError:
    """That a file was looked at, and is not whole."""
    return about(path, _SENTENCES["malformed"], way_out=way_out)


def about(path: Path, sentence: str, **more: object) -> StorageError:
    """An error whose sentence names a file to operators, and "the database" to anybody else.

    Args:
        path: the file.
        sentence: with `{path}` where the file is named.
        more: what else stands in braces.
    """
    for_people = sentence.format(path="the database", **more)
    return StorageError(
        sentence.format(path=path, **more), for_people=for_people[:1].upper() + for_people[1:]
    )


@contextmanager
def explained(path: Path, *, way_out: str = WAY_OUT, rights: str = RIGHTS) -> Iterator[None]:
    """Turn what is raised around a file into sentences.

    Args:
        path: the file they are to name.
        way_out: what to do if it is damaged.
        rights: what to do if the file system refuses.

    Raises:
        StorageError: in place of what SQLite, the file system and the locks raise.
    """
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        said = str(error.orig if isinstance(error, DBAPIError) else error)
        sentence = next((text for part, text in _SENTENCES.items() if part in said), None)
        sentence = sentence or f"{{path}} cannot be used ({said.replace('{', '(').replace('}', ')')})."
        raise about(path, sentence, way_out=way_out) from error
    except Timeout as error:
        raise about(path, LOCKED) from error
    except NotImplementedError as error:  # what `filelock` raises where a file system has no locks
        raise about(path, f"{{path}} cannot be used (its file system has no locks): {rights}.") from error
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise
        why = error.strerror or type(error).__name__
        raise about(path, f"{{path}} cannot be used ({why}): {rights}.") from error
