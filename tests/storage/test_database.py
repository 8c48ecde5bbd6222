"""The database is there, up to date and whole, whatever happened to it before."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, inspect, text

from bot.errors import StorageError
from bot.storage.choices import ModelChoices, PlaceKind
from bot.storage.database import open_database
from bot.storage.migrate import MIGRATIONS, migrate
from bot.storage.replies import Replies
from bot.storage.tables import metadata

TABLES = {
    "access_quotas",
    "access_rules",
    "alembic_version",
    "model_choices",
    "offered_models",
    "replies",
    "reply_messages",
    "servers_off",
    "panels",
    "usage_spans",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "punchline.sqlite3"


def tables(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        found = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.close()
    return found


async def why_not(path: Path) -> str:
    with pytest.raises(StorageError) as caught:
        async with open_database(path):
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_new_file_has_everything_and_is_safe_for_readers_beside_a_writer(path: Path) -> None:
    async with open_database(path):
        pass
    assert tables(path) == TABLES
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_the_migrations_make_the_tables_that_the_code_knows(path: Path) -> None:
    path.parent.mkdir()
    migrate(path)
    engine = create_engine(f"sqlite:///{path}")
    found = inspect(engine)
    for table in metadata.tables.values():
        assert [column["name"] for column in found.get_columns(table.name)] == list(table.columns.keys())
        assert set(found.get_pk_constraint(table.name)["constrained_columns"]) == {
            column.name for column in table.primary_key
        }
    engine.dispose()


async def test_a_file_that_is_up_to_date_is_left_alone(path: Path) -> None:
    async with open_database(path) as database:
        await ModelChoices(database).put(PlaceKind.CHANNEL, 1, "gemma", set_by=7)
    async with open_database(path) as database:
        assert (await ModelChoices(database).at([(PlaceKind.CHANNEL, 1)], None)).alias(
            PlaceKind.CHANNEL
        ) == "gemma"


async def test_a_file_of_a_newer_version_is_refused_and_not_touched(path: Path) -> None:
    async with open_database(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    said = await why_not(path)
    assert "written by a newer Punchline (schema 9999)" in said
    assert "DATABASE_FILE" in said
    assert tables(path) == TABLES


def test_two_that_start_at_once_make_it_once(path: Path) -> None:
    path.parent.mkdir()
    with ThreadPoolExecutor(4) as pool:
        for started in [pool.submit(migrate, path) for _ in range(4)]:
            started.result(timeout=30)
    assert tables(path) == TABLES


@pytest.mark.parametrize("content", [b"this is no database, but it is long enough" * 50])
async def test_what_is_no_database_is_said_to_be_that_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert "is not a database" in await why_not(path)
    assert path.read_bytes() == content


async def with_content(path: Path) -> int:
    async with open_database(path) as database:
        for number in range(300):
            await ModelChoices(database).put(PlaceKind.CHANNEL, number, "gemma", set_by=7)
    return path.stat().st_size


@pytest.mark.parametrize("kept_bytes", [60, 4_096, 5_000, 20_000], ids=lambda size: f"{size}-bytes-left")
async def test_a_truncated_file_is_told_at_the_start_with_the_way_out(path: Path, kept_bytes: int) -> None:
    assert await with_content(path) > kept_bytes
    os.truncate(path, kept_bytes)
    left = path.read_bytes()
    said = await why_not(path)
    assert str(path) in said
    assert "`python -m bot restore FILE`, or move the file away to begin with an empty one" in said
    assert path.read_bytes() == left  # nothing is written over what could still be saved


@pytest.mark.parametrize("page", [1, 2, 5, -1])
async def test_a_page_that_was_overwritten_is_told_at_the_start_with_the_way_out(
    path: Path, page: int
) -> None:
    pages = await with_content(path) // 4096
    with path.open("rb+") as file:
        file.seek(4096 * (page % pages))
        file.write(os.urandom(4096))
    said = await why_not(path)
    assert "is damaged" in said
    assert "`python -m bot restore FILE`" in said


async def test_the_database_of_another_program_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (words TEXT)")
    connection.close()
    assert "belongs to another program: set DATABASE_FILE" in await why_not(path)
    assert tables(path) == {"theirs"}


async def test_people_are_not_told_where_the_file_is(path: Path) -> None:
    async with open_database(path) as database:
        with sqlite3.connect(path) as other:
            other.execute("DROP TABLE model_choices")
        other.close()
        with pytest.raises(StorageError, match=r"^punchline\.sqlite3 "):
            await ModelChoices(database).put(PlaceKind.CHANNEL, 1, "gemma", set_by=7)


async def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    said = await why_not(tmp_path / "data" / "punchline.sqlite3")
    assert "DATABASE_FILE" in said


async def test_a_full_disk_is_a_sentence_reads_go_on_and_later_writes_work(path: Path) -> None:
    async with open_database(path) as database:
        choices = ModelChoices(database)
        await choices.put(PlaceKind.CHANNEL, 1, "gemma", set_by=7)

        async def limit(pages: int) -> None:
            await database.run(
                lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            )

        await limit(1)  # no more than there are: what a full disk is to SQLite
        with pytest.raises(StorageError, match=r"disk .* is full"):
            for number in range(500):
                await choices.put(PlaceKind.CHANNEL, 1000 + number, "gemma", set_by=7)
        assert (await choices.at([(PlaceKind.CHANNEL, 1)], None)).alias(PlaceKind.CHANNEL) == "gemma"
        await limit(100_000)
        await choices.put(PlaceKind.CHANNEL, 2, "phi", set_by=7)
        assert (await choices.at([(PlaceKind.CHANNEL, 2)], None)).alias(PlaceKind.CHANNEL) == "phi"


async def test_somebody_else_who_keeps_it_locked_is_a_sentence_and_not_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.storage.migrate.BUSY_TIMEOUT_S", 0.05)
    async with open_database(path) as database:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            await ModelChoices(database).put(PlaceKind.CHANNEL, 1, "gemma", set_by=7)
        other.execute("ROLLBACK")
        other.close()
        await ModelChoices(database).put(PlaceKind.CHANNEL, 1, "gemma", set_by=7)


# --- Killed -----------------------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from pathlib import Path
from bot.storage.choices import ModelChoices, PlaceKind
from bot.storage.database import open_database

async def main():
    async with open_database(Path(sys.argv[1])) as database:
        for number in range(100_000):
            await ModelChoices(database).put(PlaceKind.CHANNEL, number, f"m{number}", set_by=1)
            print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("confirmed", [1, 5, 40])
async def test_killed_in_the_middle_of_writing_it_loses_nothing_that_was_confirmed(
    path: Path, confirmed: int
) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    last = -1
    while last < confirmed:
        last = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    writer.stdout.close()
    last = int(rest[-1]) if rest else last
    async with open_database(path) as database:
        for number in range(last + 1):
            chosen = await ModelChoices(database).at([(PlaceKind.CHANNEL, number)], None)
            assert chosen.alias(PlaceKind.CHANNEL) == f"m{number}"
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


KILLED_MIGRATION = """
import os, signal, sys
from pathlib import Path
from alembic import op
from bot.storage.migrate import migrate

make = op.create_table
def half_way(name, *columns, **options):
    made = make(name, *columns, **options)
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return made
op.create_table = half_way
migrate(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("table", sorted(TABLES - {"alembic_version"}))
async def test_killed_in_the_middle_of_a_migration_the_next_start_does_it(path: Path, table: str) -> None:
    path.parent.mkdir()
    ran = subprocess.run([sys.executable, "-c", KILLED_MIGRATION, str(path), table], timeout=60, check=False)
    assert ran.returncode == -signal.SIGKILL
    assert tables(path) == set()
    async with open_database(path) as database:
        await ModelChoices(database).put(PlaceKind.SERVER, 1, "gemma", set_by=1)
    assert tables(path) == TABLES


async def test_choices_of_an_older_version_are_kept_by_the_next_migration(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:  # as version 0001 left it
        connection.executescript(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);"
            "INSERT INTO alembic_version VALUES ('0001');"
            "CREATE TABLE model_choices (kind VARCHAR(8), place_id BIGINT, alias VARCHAR(32) NOT NULL, set_by BIGINT"
            " NOT NULL, set_at DATETIME NOT NULL, PRIMARY KEY (kind, place_id));"
            "INSERT INTO model_choices VALUES ('channel', 7, 'gemma', 1, '2026-01-01 00:00:00.000000');"
            "CREATE TABLE offered_models (server_id BIGINT, alias VARCHAR(32), PRIMARY KEY (server_id, alias));"
        )
    connection.close()
    async with open_database(path) as database:
        chosen = await ModelChoices(database).at([(PlaceKind.CHANNEL, 7)], None)
    assert chosen.alias(PlaceKind.CHANNEL) == "gemma"
    assert tables(path) == TABLES


async def test_replies_of_an_older_version_that_had_ended_were_shown(path: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(MIGRATIONS, older, ignore=shutil.ignore_patterns("0005*", "0006*", "__pycache__"))
    path.parent.mkdir()
    migrate(path, older)
    with sqlite3.connect(path) as connection:
        for reply_id, reason in (("ab12", "stop"), ("cd34", None)):
            connection.execute(
                "INSERT INTO replies VALUES (?, 1, 2, 3, 'smol', '{}', '', ?, '{}', '2026-01-01 00:00:00.000000')",
                (reply_id, reason),
            )
    connection.close()
    async with open_database(path) as database:
        replies = Replies(database)
        assert [one.id for one in await replies.unfinished()] == ["cd34"]
        ended = await replies.find("ab12")
    assert ended is not None
    assert ended.tokens is None  # it goes on from its text


def test_migrations_are_shipped_with_the_package() -> None:
    assert (MIGRATIONS / "env.py").exists()
    assert sorted(file.stem for file in (MIGRATIONS / "versions").glob("*.py")) == [
        "0001_model_choices",
        "0002_replies",
        "0003_access",
        "0004_panels",
        "0005_end_shown",
        "0006_answer_tokens",
    ]


async def test_many_at_once_write_without_getting_in_each_others_way(path: Path) -> None:
    async with open_database(path) as database:
        choices = ModelChoices(database)
        await asyncio.gather(*(choices.put(PlaceKind.CHANNEL, n % 7, f"m{n}", set_by=n) for n in range(60)))
        chosen = await choices.at([(PlaceKind.CHANNEL, n) for n in range(7)], None)
    assert len(chosen.choices) == 7


async def test_an_error_of_the_database_does_not_quote_what_was_to_be_written(tmp_path: Path) -> None:
    async with open_database(tmp_path / "it.sqlite3") as database:

        def write(connection: Connection) -> None:
            connection.execute(text("INSERT INTO nowhere VALUES (:words)"), {"words": "a private joke"})

        with pytest.raises(StorageError) as failed:
            await database.run(write)
    assert "nowhere" in str(failed.value.__cause__)
    assert "private" not in str(failed.value.__cause__)


async def test_whether_the_database_answers_can_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "it.sqlite3"
    async with open_database(path) as database:
        await database.ping()
        path.write_bytes(b"nothing like a database, and longer than a page's header" * 100)
        with pytest.raises(StorageError):
            await database.ping()
