"""What people chose: which model answers at a place, and which a server offers. No policy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import Connection, delete, insert, select, tuple_
from sqlalchemy.dialects.sqlite import insert as upsert

from bot.storage.database import Database
from bot.storage.tables import model_choices, offered_models


class PlaceKind(StrEnum):
    """What kind of place a choice is for."""

    THREAD = "thread"
    CHANNEL = "channel"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Choice:
    """The model that was chosen for a place, by whom and when (UTC)."""

    kind: PlaceKind
    place_id: int
    alias: str
    set_by: int
    set_at: datetime


@dataclass(frozen=True, slots=True)
class Chosen:
    """All that was chosen for some places, and what their server offers; empty for everything."""

    choices: tuple[Choice, ...] = ()
    offered: frozenset[str] = frozenset()

    def alias(self, kind: PlaceKind) -> str | None:
        """The model chosen at this level, if one was."""
        return next((choice.alias for choice in self.choices if choice.kind is kind), None)


class ModelChoices:
    """The choices in the database. Every method may raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def at(self, places: Sequence[tuple[PlaceKind, int]], server_id: int | None) -> Chosen:
        """What was chosen for these places, and what the server offers."""

        def work(connection: Connection) -> Chosen:
            key = tuple_(model_choices.c.kind, model_choices.c.place_id)
            rows = connection.execute(select(model_choices).where(key.in_(places)))
            choices = tuple(
                Choice(
                    PlaceKind(row.kind), row.place_id, row.alias, row.set_by, row.set_at.replace(tzinfo=UTC)
                )
                for row in rows
            )
            of_server = select(offered_models.c.alias).where(offered_models.c.server_id == server_id)
            return Chosen(choices, frozenset(connection.execute(of_server).scalars()))

        return await self._database.read(work)

    async def put(self, kind: PlaceKind, place_id: int, alias: str, *, set_by: int) -> None:
        """Choose a model for a place."""
        values = {"alias": alias, "set_by": set_by, "set_at": datetime.now(UTC).replace(tzinfo=None)}
        statement = upsert(model_choices).values(kind=str(kind), place_id=place_id, **values)
        statement = statement.on_conflict_do_update(index_elements=["kind", "place_id"], set_=values)
        await self._database.run(lambda connection: connection.execute(statement))

    async def clear(self, kind: PlaceKind, place_id: int) -> bool:
        """Forget a choice; whether there was one."""
        here = (model_choices.c.kind == str(kind)) & (model_choices.c.place_id == place_id)
        statement = delete(model_choices).where(here)
        return await self._database.run(lambda connection: connection.execute(statement).rowcount) > 0

    async def offer(self, server_id: int, aliases: Collection[str]) -> None:
        """Have a server offer these models only; none of them means all."""

        def work(connection: Connection) -> None:
            connection.execute(delete(offered_models).where(offered_models.c.server_id == server_id))
            if aliases:
                rows = [{"server_id": server_id, "alias": alias} for alias in sorted(set(aliases))]
                connection.execute(insert(offered_models), rows)

        await self._database.run(work)
