"""Bringing a database file to the schema that this version knows.

SQLite can take back changes of the schema like any others, if they are inside a transaction; Python's driver only
begins one when it is told to. So all that is pending, and the new version's number, are one transaction: whoever
interrupts it leaves the old schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, event

from bot.errors import StorageError
from bot.storage.rights import make_private, take_from_others
from bot.storage.sentences import damaged, require_file

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 10.0  # how long one waits for another who writes


def migrate(path: Path, migrations: Path = MIGRATIONS) -> None:
    """Make the file if there is none, for its owner only, and bring it up to date. Blocks; two may do it at once.

    All of the file is read first: damage is told at the start, and not in the middle of somebody's question.

    Raises:
        StorageError: it is damaged, another program's, or a newer version of Punchline wrote it.
    """
    require_file(path)
    config = _config(migrations)
    # Turning on the write-ahead log fails at once where another one does it in the same moment.
    lock = Path(f"{path}.lock")
    make_private(lock)
    with FileLock(lock, timeout=BUSY_TIMEOUT_S), _connected(path) as connection:
        if connection.exec_driver_sql("PRAGMA quick_check(1)").scalar() != "ok":
            raise damaged(path)
        try:
            current = MigrationContext.configure(connection).get_current_revision()
        except CommandError:  # it has more than one
            raise damaged(path) from None
        if current is not None and current not in _known(config):
            raise StorageError(
                f"{path} was written by a newer Punchline (schema {current}): install that version again, or set "
                "DATABASE_FILE to another file."
            )
        if current is None and connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar():
            raise StorageError(f"{path} belongs to another program: set DATABASE_FILE to another file.")
        take_from_others(path)  # now that it is known to be ours
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def known_schemas() -> list[str]:
    """The versions that this code can bring up to date, the newest last."""
    return _known(_config(MIGRATIONS))


def _config(migrations: Path) -> Config:
    config = Config()
    # The option's value is a template, in which % begins the name of another option.
    config.set_main_option("script_location", str(migrations.absolute()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _known(config: Config) -> list[str]:
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


@contextmanager
def _connected(path: Path) -> Iterator[Connection]:
    make_private(path)
    engine = create_engine(address("sqlite", path))
    told_when_to_begin(engine)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def address(driver: str, path: Path) -> URL:
    """The address of a database file for SQLAlchemy, whatever characters are in its path."""
    return URL.create(driver, database=str(path.absolute()))


def told_when_to_begin(engine: Engine, *, to_write: bool = True) -> None:
    """Set up each connection, and begin each transaction, with the right to write if that is what it is for: so no two
    meet half-way. Readers need no right: beside a writer, they see what was there before."""

    @event.listens_for(engine, "connect")
    def _set_up(connection: object, _: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # the driver begins nothing by itself
        cursor = connection.cursor()  # type: ignore[attr-defined]
        for pragma in (
            f"busy_timeout = {int(1000 * BUSY_TIMEOUT_S)}",
            "journal_mode = WAL",
            "synchronous = FULL",  # what was confirmed survives a power cut
            "foreign_keys = ON",
            "secure_delete = ON",  # some builds of SQLite leave what is deleted in free pages of the file
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if to_write else "BEGIN")
