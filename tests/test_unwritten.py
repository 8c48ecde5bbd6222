"""What the database did not take yet is written later, and never over something newer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from bot.storage.database import open_database
from bot.storage.replies import KeptReply, Replies
from bot.unwritten import Unwritten
from tests.storage.writing import somebody_writing

REPLY = KeptReply("ab12", 1, 2, 3, "smol", {}, answer="Done", reason="stop")


async def test_an_answer_that_another_one_brings_along_does_not_undo_that_its_end_was_shown(
    tmp_path: Path,
) -> None:
    async with open_database(tmp_path / "punchline.sqlite3") as database:
        replies = Replies(database)
        unwritten = Unwritten(replies)
        await replies.put(replace(REPLY, reason=None))

        async def shown() -> None:
            await unwritten.write(REPLY, is_begun=True)
            await unwritten.write(replace(REPLY, end_shown=True), is_begun=True)

        async def another() -> None:
            await unwritten.write(replace(REPLY, id="cd34", end_shown=True), is_begun=False)

        async with somebody_writing(database):  # both are under way at once
            tasks = [asyncio.create_task(shown()), asyncio.create_task(another())]
            while len(unwritten._waiting) < len(tasks):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert await replies.unfinished() == []
        kept = await replies.find("ab12")
    assert kept == replace(REPLY, end_shown=True)
