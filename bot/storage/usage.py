"""What was used: tokens and seconds of generation, added up in short spans of time. No policy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, and_, delete, or_, select
from sqlalchemy.dialects.sqlite import insert as upsert

from bot.storage.database import Database
from bot.storage.tables import usage_spans

SPAN_S = 600  # a day has few of them to add up, and a quota opens at most so much early


class ScopeKind(StrEnum):
    """Whose use is added up."""

    PERSON = "person"  # wherever they ask
    MEMBER = "member"  # one person in one server
    SERVER = "server"  # all who ask there


@dataclass(frozen=True, slots=True)
class Scope:
    """What use is added up for, by Discord's ids; `server_id` is a member's, else 0."""

    kind: ScopeKind
    subject_id: int
    server_id: int = 0


@dataclass(frozen=True, slots=True)
class Spent:
    """What was used in a span: tokens, and seconds of generation. `at_s` is when it began, in s since 1970."""

    at_s: int
    tokens: int
    gpu_s: float


class UsageSpans:
    """The use in the database. Every method may raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, scopes: Collection[Scope], at_s: float, tokens: int, gpu_s: float) -> None:
        """Add something that was used at that time, in s since 1970."""
        span_s = int(at_s // SPAN_S) * SPAN_S
        rows = [
            {
                "kind": str(one.kind),
                "subject_id": one.subject_id,
                "server_id": one.server_id,
                "span_s": span_s,
            }
            | {"tokens": tokens, "gpu_s": gpu_s}
            for one in scopes
        ]
        statement = upsert(usage_spans)
        statement = statement.on_conflict_do_update(
            index_elements=["kind", "subject_id", "server_id", "span_s"],
            set_={
                "tokens": usage_spans.c.tokens + statement.excluded.tokens,
                "gpu_s": usage_spans.c.gpu_s + statement.excluded.gpu_s,
            },
        )
        await self._database.run(lambda connection: connection.execute(statement, rows))

    async def since(self, scopes: Collection[Scope], at_s: float) -> dict[Scope, list[Spent]]:
        """What was used in spans that began after that time; each scope has a list, the oldest span first."""
        found: dict[Scope, list[Spent]] = {scope: [] for scope in scopes}
        columns = usage_spans.c
        each = (  # spelled out, so that SQLite looks each of them up by the primary key
            and_(
                columns.kind == str(one.kind),
                columns.subject_id == one.subject_id,
                columns.server_id == one.server_id,
                columns.span_s > at_s,
            )
            for one in scopes
        )
        statement = select(usage_spans).where(or_(*each)).order_by(columns.span_s)

        def work(connection: Connection) -> dict[Scope, list[Spent]]:
            for row in connection.execute(statement):
                scope = Scope(ScopeKind(row.kind), row.subject_id, row.server_id)
                found[scope].append(Spent(row.span_s, row.tokens, row.gpu_s))
            return found

        return await self._database.read(work)

    async def forget(self, before_s: float) -> int:
        """Forget spans that began before that; how many."""
        statement = delete(usage_spans).where(usage_spans.c.span_s < before_s)
        return await self._database.run(lambda connection: connection.execute(statement).rowcount)
