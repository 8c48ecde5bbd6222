"""What moderators decided for their server: who may ask, how much, and whether the bot is on. No policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Table, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from bot.storage.database import Database
from bot.storage.tables import access_quotas, access_rules, servers_off

EVERY_MODEL = ""


class SubjectKind(StrEnum):
    """What a rule or a quota is about. A place is a thread, a channel, a category, or a whole server by its id."""

    PERSON = "person"
    ROLE = "role"
    PLACE = "place"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom or what a rule or a quota is about, by Discord's id. A server's id is that of its role @everyone too."""

    kind: SubjectKind
    id: int


@dataclass(frozen=True, slots=True)
class Rule:
    """Whether somebody, or everybody at a place, may ask a model, or all of them."""

    subject: Subject
    allowed: bool
    alias: str = EVERY_MODEL


@dataclass(frozen=True, slots=True)
class Quota:
    """How much one may have. None says nothing about it; 0 is no limit."""

    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    gpu_s_per_day: int | None = None

    def over(self, below: Quota) -> Quota:
        """This, and what another one says where it says nothing."""
        pairs = zip(astuple(self), astuple(below), strict=True)
        return Quota(*(there if here is None else here for here, there in pairs))


@dataclass(frozen=True, slots=True)
class ServerAccess:
    """All that was decided for a server."""

    is_off: bool = False
    rules: tuple[Rule, ...] = ()
    quotas: Mapping[Subject, Quota] = field(default_factory=dict)


class AccessRules:
    """The decisions in the database. Every method may raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, server_id: int) -> ServerAccess:
        """What was decided for a server."""

        def work(connection: Connection) -> ServerAccess:
            def rows(table: Table) -> list[Any]:
                return list(connection.execute(select(table).where(table.c.server_id == server_id)))

            rules = tuple(Rule(_subject(row), row.allowed, row.alias) for row in rows(access_rules))
            quotas = {
                _subject(row): Quota(row.requests_per_minute, row.tokens_per_day, row.gpu_s_per_day)
                for row in rows(access_quotas)
            }
            return ServerAccess(bool(rows(servers_off)), rules, quotas)

        return await self._database.read(work)

    async def put_rule(self, server_id: int, rule: Rule, *, set_by: int) -> None:
        """Decide who may ask, in the place of what was decided about the same before."""
        await self._put(
            access_rules,
            {"server_id": server_id, **_key(rule.subject), "alias": rule.alias},
            {"allowed": rule.allowed, **_stamp(set_by)},
        )

    async def clear_rule(self, server_id: int, subject: Subject, alias: str = EVERY_MODEL) -> bool:
        """Forget a rule; whether there was one."""
        here = _here(access_rules, server_id, subject) & (access_rules.c.alias == alias)
        return await self._clear(access_rules, here) > 0

    async def put_quota(self, server_id: int, subject: Subject, quota: Quota, *, set_by: int) -> None:
        """Decide how much somebody may have, in the place of what was decided before."""
        amounts = {
            "requests_per_minute": quota.requests_per_minute,
            "tokens_per_day": quota.tokens_per_day,
            "gpu_s_per_day": quota.gpu_s_per_day,
        }
        await self._put(
            access_quotas, {"server_id": server_id, **_key(subject)}, {**amounts, **_stamp(set_by)}
        )

    async def clear_quota(self, server_id: int, subject: Subject) -> bool:
        """Forget a quota; whether there was one."""
        return await self._clear(access_quotas, _here(access_quotas, server_id, subject)) > 0

    async def clear_all(self, server_id: int) -> int:
        """Forget all rules and quotas of a server; how many there were."""
        counts = [
            await self._clear(table, table.c.server_id == server_id)
            for table in (access_rules, access_quotas)
        ]
        return sum(counts)

    async def switch_off(self, server_id: int, *, set_by: int) -> None:
        """Switch the bot off in a server."""
        await self._put(servers_off, {"server_id": server_id}, _stamp(set_by))

    async def switch_on(self, server_id: int) -> bool:
        """Switch the bot on again; whether it was off."""
        return await self._clear(servers_off, servers_off.c.server_id == server_id) > 0

    async def _put(self, table: Table, key: dict[str, Any], values: dict[str, Any]) -> None:
        statement = upsert(table).values(**key, **values)
        statement = statement.on_conflict_do_update(index_elements=list(key), set_=values)
        await self._database.run(lambda connection: connection.execute(statement))

    async def _clear(self, table: Table, where: Any) -> int:
        return await self._database.run(
            lambda connection: connection.execute(delete(table).where(where)).rowcount
        )


def _subject(row: Any) -> Subject:
    return Subject(SubjectKind(row.kind), row.subject_id)


def _key(subject: Subject) -> dict[str, Any]:
    return {"kind": str(subject.kind), "subject_id": subject.id}


def _stamp(set_by: int) -> dict[str, Any]:
    return {"set_by": set_by, "set_at": datetime.now(UTC).replace(tzinfo=None)}


def _here(table: Table, server_id: int, subject: Subject) -> Any:
    at = (table.c.server_id == server_id) & (table.c.kind == str(subject.kind))
    return at & (table.c.subject_id == subject.id)
