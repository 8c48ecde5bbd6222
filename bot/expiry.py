"""Deletes what is older than it is kept for, whether anybody asks or not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from bot.errors import StorageError

log = logging.getLogger(__name__)

PERIOD_S = 600.0  # so much longer than said does anything stay


async def _a_period() -> None:
    await asyncio.sleep(PERIOD_S)


@asynccontextmanager
async def deleting_old(
    *deletions: Callable[[], Awaitable[None]],
    pause: Callable[[], Awaitable[None]] = _a_period,
) -> AsyncIterator[None]:
    """Run these deletions at once and after each pause, while the block runs. One that fails is tried again after the
    next pause.

    Args:
        deletions: each deletes the old of one kind.
        pause: returns when it is time again.
    """

    async def delete_regularly() -> None:
        while True:
            for delete in deletions:
                try:
                    await delete()
                except StorageError as error:
                    log.warning("what is old could not be deleted; it is tried again: %s", error)
                except Exception:
                    log.exception("what is old could not be deleted; it is tried again")
            await pause()

    task = asyncio.create_task(delete_regularly(), name="expiry")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
