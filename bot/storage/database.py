"""The database: one SQLite file, opened for as long as the bot runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from bot.errors import StorageError
from bot.storage.in_use import used
from bot.storage.migrate import BUSY_TIMEOUT_S, address, migrate, told_when_to_begin
from bot.storage.rights import make_folder
from bot.storage.sentences import LOCKED, about, explained

ANSWER_TIMEOUT_S = BUSY_TIMEOUT_S + 5.0

_Result = TypeVar("_Result")


async def in_time(work: Awaitable[_Result], patience_s: float) -> _Result:
    """What a store says, for somebody who does not wait longer than that; what it does goes on.

    Raises:
        StorageError: it took longer.
    """
    try:
        async with asyncio.timeout(patience_s):
            return await work
    except TimeoutError:
        raise StorageError("The database does not answer. Please try again in a minute.") from None


class Database:
    """A file that is open. Stores use it through `read` and `run`.

    Those who write take turns here: SQLite has them wait by sleeping, which is slow when there are many.
    """

    def __init__(self, path: Path) -> None:
        self._name = Path(path.name)  # people read of it; where it is, is the operator's business
        self._turn = asyncio.Lock()
        self._writer = _engine(path, to_write=True)
        self._readers = _engine(path, to_write=False)
        self._begun: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def read(self, work: Callable[[AsyncConnection], Awaitable[_Result]]) -> _Result:
        """Do `work`, which changes nothing, in one transaction; it waits for nobody who writes.

        Raises:
            StorageError: it could not be done.
        """

        async def transaction() -> _Result:
            async with self._readers.begin() as connection:
                return await work(connection)

        return await self._done(transaction())

    async def run(self, work: Callable[[AsyncConnection], Awaitable[_Result]]) -> _Result:
        """Do `work` in one transaction; when this returns, what was written is on the disk.

        Raises:
            StorageError: it could not be done; nothing of it was.
        """

        async def transaction() -> _Result:
            async with self._turn, self._writer.begin() as connection:
                return await work(connection)

        return await self._done(transaction())

    async def _done(self, transaction: Coroutine[Any, Any, _Result]) -> _Result:
        if self._closed:
            transaction.close()
            raise StorageError("The bot is stopping.")
        # A task of its own: whoever asked may be cancelled, a transaction is finished.
        task = asyncio.get_running_loop().create_task(transaction)
        self._begun.add(task)
        task.add_done_callback(self._ended)
        try:
            with explained(self._name):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    return await asyncio.shield(task)
        except TimeoutError:
            raise about(self._name, LOCKED) from None

    async def ping(self) -> None:
        """Return when the file can be read.

        Raises:
            StorageError: it cannot.
        """

        async def look(connection: AsyncConnection) -> None:
            await connection.execute(
                text("SELECT count(*) FROM sqlite_master")
            )  # it has to read the file for this

        await self.read(look)

    async def aclose(self) -> None:
        """Let what was begun finish, and close the file."""
        self._closed = True
        if self._begun:
            await asyncio.wait(tuple(self._begun), timeout=ANSWER_TIMEOUT_S)
        await self._readers.dispose()
        await self._writer.dispose()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._begun.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has it, or has left


def _engine(path: Path, *, to_write: bool) -> AsyncEngine:
    # What people wrote is among the parameters: they are in no error and no line of the log.
    engine = create_async_engine(address("sqlite+aiosqlite", path), hide_parameters=True)
    told_when_to_begin(engine.sync_engine, to_write=to_write)
    return engine


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """Open the file, made and brought up to date first; its folder is made too. Both are their
    owner's only.

    Nobody exchanges the file while it is open (`backup.restore`).

    Raises:
        StorageError: it cannot be used, with the fix.
    """
    with explained(path):
        make_folder(path.parent)
    with used(path):
        with explained(path):
            await asyncio.to_thread(migrate, path)
        database = Database(path)
        try:
            yield database
        finally:
            await database.aclose()
