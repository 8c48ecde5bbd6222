"""Replies are kept with their messages, found by either, and forgotten when they are old."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection

from bot.errors import StorageError
from bot.storage.database import open_database
from bot.storage.replies import KeptReply, Replies

REPLY = KeptReply(
    "ab12", 1, 2, 3, "gemma", {"messages": [{"role": "user", "content": "Ü?"}]}, message_ids=(10,)
)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Replies]:
    async with open_database(folder / "punchline.sqlite3") as database:
        yield Replies(database)


def made_older(folder: Path, reply_id: str, days: int) -> None:
    with sqlite3.connect(folder / "punchline.sqlite3") as connection:
        connection.execute(
            "UPDATE replies SET begun_at = datetime('now', ?) WHERE id = ?", (f"-{days} days", reply_id)
        )
    connection.close()


async def test_a_reply_is_found_by_its_id_and_by_each_of_its_messages_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as replies:
        await replies.put(REPLY)
        await replies.put(replace(REPLY, message_ids=(10, 11)))
        expected = replace(
            REPLY, answer="Because", reason="length", numbers={"completion_tokens": 3}, message_ids=(10, 11)
        )
        await replies.end(expected)
    async with opened(tmp_path) as replies:
        assert await replies.find("ab12") == expected
        assert await replies.of_message(10) == expected
        assert await replies.of_message(11) == expected
        assert await replies.of_message(12) is None
        assert await replies.find("cd34") is None


async def test_the_token_ids_of_a_reply_are_kept_and_those_of_one_without_are_none(tmp_path: Path) -> None:
    tokens = {"vocabulary": "ab", "ids": [3, 1, 2], "said": 1}
    async with opened(tmp_path) as replies:
        await replies.put(replace(REPLY, tokens={"vocabulary": "ab", "ids": [3], "said": 1}))
        await replies.end(replace(REPLY, answer="Because", reason="length", tokens=tokens))
        await replies.put(replace(REPLY, id="cd34", message_ids=(20,)))
    async with opened(tmp_path) as replies:
        found, other = await replies.find("ab12"), await replies.find("cd34")
    assert found is not None
    assert found.tokens == tokens
    assert other is not None
    assert other.tokens is None
    connection = sqlite3.connect(tmp_path / "punchline.sqlite3")
    assert connection.execute("SELECT tokens IS NULL FROM replies WHERE id = 'cd34'").fetchone() == (1,)
    connection.close()


async def test_a_reply_is_unfinished_until_its_end_was_shown(tmp_path: Path) -> None:
    async with opened(tmp_path) as replies:
        await replies.put(REPLY)
        await replies.put(replace(REPLY, id="cd34", message_ids=(), server_id=None))
        await replies.end(replace(REPLY, answer="Done", reason="stop"))
        assert [one.id for one in await replies.unfinished()] == ["ab12", "cd34"]
        await replies.end(replace(REPLY, answer="Done", reason="stop", end_shown=True))
        assert [one.id for one in await replies.unfinished()] == ["cd34"]


async def test_old_replies_are_forgotten_with_their_messages(tmp_path: Path) -> None:
    async with opened(tmp_path) as replies:
        await replies.put(REPLY)
        await replies.put(replace(REPLY, id="cd34", message_ids=(20,)))
        made_older(tmp_path, "ab12", 31)
        assert await replies.forget(older_than_days=30) == 1
        assert await replies.find("ab12") is None
        assert await replies.of_message(10) is None
        assert await replies.of_message(20) is not None


async def test_a_message_belongs_to_one_reply_and_one_without_a_reply_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as replies:
        await replies.put(REPLY)
        await replies.put(replace(REPLY, id="cd34"))
        found = await replies.of_message(10)
        assert found is not None
        assert found.id == "ab12"
    connection = sqlite3.connect(tmp_path / "punchline.sqlite3")
    assert connection.execute("SELECT count(*) FROM reply_messages").fetchone() == (1,)
    connection.close()


async def test_a_disk_that_is_full_is_a_sentence(tmp_path: Path) -> None:
    async with opened(tmp_path) as replies:
        await replies.put(REPLY)
        too_much = replace(REPLY, id="cd34", request={"messages": "x" * 10_000_000})

        def fill(connection: Connection) -> None:
            connection.exec_driver_sql("PRAGMA max_page_count = 50")

        await replies._database.run(fill)
        with pytest.raises(StorageError, match="disk"):
            await replies.put(too_much)
        assert await replies.find("ab12") is not None
