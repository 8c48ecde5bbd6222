"""Where the operators' panel stands. No policy."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from bot.storage.database import Database
from bot.storage.tables import panels


@dataclass(frozen=True, slots=True)
class PanelPlace:
    """A message, by Discord's ids."""

    channel_id: int
    message_id: int


class Panels:
    """The panel in the database; there is one at most. Every method may raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self) -> PanelPlace | None:
        """Where it stands."""

        def work(connection: Connection) -> PanelPlace | None:
            row = connection.execute(select(panels)).first()
            return None if row is None else PanelPlace(row.channel_id, row.message_id)

        return await self._database.read(work)

    async def put(self, place: PanelPlace) -> None:
        """It stands there from now on."""

        def work(connection: Connection) -> None:
            connection.execute(delete(panels))
            row = {"channel_id": place.channel_id, "message_id": place.message_id}
            connection.execute(insert(panels).values(row))

        await self._database.run(work)

    async def forget(self, place: PanelPlace) -> None:
        """It does not stand there any more."""
        here = panels.c.message_id == place.message_id
        await self._database.run(lambda connection: connection.execute(delete(panels).where(here)))
