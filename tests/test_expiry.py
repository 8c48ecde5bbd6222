"""What is too old is deleted while nobody asks anything."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from bot.app import open_services
from bot.errors import StorageError
from bot.expiry import deleting_old
from bot.inference.scripted import ScriptedEngine
from bot.settings import load_settings
from bot.storage.database import open_database
from bot.storage.replies import KeptReply, Replies
from bot.storage.usage import Scope, ScopeKind, UsageSpans


def counts(folder: Path) -> tuple[int, int, int]:
    """How many replies, messages of replies and spans of use there are."""
    connection = sqlite3.connect(folder / "punchline.sqlite3")
    found = [
        connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
        for table in ("replies", "reply_messages", "usage_spans")
    ]
    connection.close()
    return found[0], found[1], found[2]


async def test_a_bot_that_nobody_asks_anything_deletes_what_is_old_when_it_starts(tmp_path: Path) -> None:
    async with open_database(tmp_path / "punchline.sqlite3") as database:
        replies = Replies(database)
        for number in range(450):  # more than goes at a time
            await replies.put(
                KeptReply(f"{number:x}", 1, 2, 3, "smol", {"messages": []}, message_ids=(number,))
            )
        await UsageSpans(database).add([Scope(ScopeKind.PERSON, 1)], 1_600_000_000.0, 5, 1.0)
    connection = sqlite3.connect(tmp_path / "punchline.sqlite3")
    connection.execute("UPDATE replies SET begun_at = '2020-01-01 00:00:00.000000' WHERE id != '7'")
    connection.commit()
    connection.close()
    settings = load_settings(None, data_dir=tmp_path, cache_dir=tmp_path, replies_kept_days=1)
    async with open_services(settings, ScriptedEngine()), asyncio.timeout(60):
        while counts(tmp_path) != (1, 1, 0):
            await asyncio.sleep(0.02)
    assert [task for task in asyncio.all_tasks() if task.get_name() == "expiry"] == []


async def test_what_is_deleted_is_not_left_in_the_file(tmp_path: Path) -> None:
    """Also where SQLite was built to leave it, as is its default."""
    path = tmp_path / "punchline.sqlite3"
    async with open_database(path) as database:

        def setting(connection: Connection) -> int:
            return int(connection.execute(text("PRAGMA secure_delete")).scalar_one())

        assert await database.read(setting) == 1
        replies = Replies(database)
        for number in range(50):
            words = {"messages": [{"role": "user", "content": "SECRETWORD " * 50}]}
            await replies.put(KeptReply(f"{number:x}", 1, 2, 3, "smol", words))
        await replies.forget(older_than_days=0)
    assert b"SECRETWORD" not in path.read_bytes()


async def test_it_is_done_again_after_each_pause_whatever_went_wrong_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []
    again = asyncio.Semaphore(0)
    faults: list[Exception] = [StorageError("The disk is full."), LookupError("a bug")]

    async def replies() -> None:
        if faults:
            raise faults.pop(0)
        done.append("replies")

    async def use() -> None:
        done.append("use")

    async def until(expected: list[str]) -> None:
        async with asyncio.timeout(30):
            while done != expected:
                await asyncio.sleep(0)

    async def pause() -> None:
        await again.acquire()

    async with deleting_old(replies, use, pause=pause):
        await until(["use"])
        again.release()
        await until(["use", "use"])
        again.release()
        await until(["use", "use", "replies", "use"])
    again.release()
    await asyncio.sleep(0)
    assert len(done) == 4
    assert "The disk is full." in caplog.text
    assert "a bug" in caplog.text
