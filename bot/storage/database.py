"""The database: one SQLite file, opened for as long as the bot runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, text

from bot.errors import StorageError
from bot.storage.in_use import used
from bot.storage.migrate import BUSY_TIMEOUT_S, address, migrate, told_when_to_begin
from bot.storage.rights import make_folder
from bot.storage.sentences import LOCKED, about, explained

ANSWER_TIMEOUT_S = BUSY_TIMEOUT_S + 5.0
_READERS = 4  # one may wait for the disk while others are served from memory

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
    """An open file. Stores use it through `read` and `run`.

    Each transaction runs whole in one of the database's own threads: one hop there and back, however many statements it
    has. A cancelled caller does not stop its transaction.
    """

    def __init__(self, path: Path) -> None:
        self._name = Path(path.name)  # people read of it; where it is, is the operator's business
        # One thread writes: SQLite makes waiting writers sleep, which is slow when there are many.
        self._writer = _Side(path, threads=1, to_write=True)
        self._readers = _Side(path, threads=_READERS, to_write=False)
        self._begun: set[asyncio.Future[Any]] = set()
        self._closed = False

    async def read(self, work: Callable[[Connection], _Result]) -> _Result:
        """Do `work`, which changes nothing, in one transaction; it waits for nobody who writes.

        Args:
            work: called in another thread.

        Raises:
            StorageError: it could not be done.
        """
        return await self._done(self._readers, work)

    async def run(self, work: Callable[[Connection], _Result]) -> _Result:
        """Do `work` in one transaction; when this returns, what was written is on the disk.

        Args:
            work: called in another thread.

        Raises:
            StorageError: it could not be done; nothing of it was.
        """
        return await self._done(self._writer, work)

    async def _done(self, side: _Side, work: Callable[[Connection], _Result]) -> _Result:
        if self._closed:
            raise StorageError("The bot is stopping.")
        transaction = side.begin(work)
        self._begun.add(transaction)
        transaction.add_done_callback(self._ended)
        try:
            with explained(self._name):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    return await asyncio.shield(transaction)
        except TimeoutError:
            raise about(self._name, LOCKED) from None

    async def ping(self) -> None:
        """Return when the file can be read.

        Raises:
            StorageError: it cannot.
        """

        # It has to read the file for this.
        await self.read(
            lambda connection: connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar()
        )

    async def aclose(self) -> None:
        """Let what was begun finish, and close the file."""
        self._closed = True
        if self._begun:
            await asyncio.wait(tuple(self._begun), timeout=ANSWER_TIMEOUT_S)
        self._readers.close()
        self._writer.close()

    def _ended(self, transaction: asyncio.Future[Any]) -> None:
        self._begun.discard(transaction)
        if not transaction.cancelled():
            transaction.exception()  # mark it as seen: the caller may have been cancelled


class _Side:
    """The connections for reading, or the one for writing, and the threads that use them."""

    def __init__(self, path: Path, *, threads: int, to_write: bool) -> None:
        # What people wrote is among the parameters: they are in no error and no line of the log.
        self._engine = create_engine(
            address("sqlite", path), hide_parameters=True, pool_size=threads, max_overflow=0
        )
        told_when_to_begin(self._engine, to_write=to_write)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="database")

    def begin(self, work: Callable[[Connection], _Result]) -> asyncio.Future[_Result]:
        """Do `work` in one transaction as soon as a thread is free."""
        return asyncio.get_running_loop().run_in_executor(self._threads, self._transaction, work)

    def _transaction(self, work: Callable[[Connection], _Result]) -> _Result:
        with self._engine.begin() as connection:
            return work(connection)

    def close(self) -> None:
        """End the threads and close the connections, once nobody uses them."""
        self._threads.shutdown(wait=False)
        self._engine.dispose()


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
