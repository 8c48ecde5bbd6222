"""Somebody who writes for long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bot.storage.database import Database


@asynccontextmanager
async def somebody_writing(database: Database) -> AsyncIterator[None]:
    """Keep whoever else wants to write waiting while the block runs."""
    end = threading.Event()
    writing = asyncio.create_task(database.run(lambda _: end.wait(30)))
    try:
        yield
    finally:
        end.set()
        await writing
