"""A writer that holds the database."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import Connection

from bot.storage.database import Database


@asynccontextmanager
async def somebody_writing(database: Database) -> AsyncIterator[None]:
    """Hold the database's only writing thread while the block runs, so that other writes wait."""
    begun, end = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        begun.set()
        end.wait(30)

    writing = asyncio.create_task(database.run(hold))
    try:
        await asyncio.to_thread(begun.wait, 30)
        yield
    finally:
        end.set()
        await writing
