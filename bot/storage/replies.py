"""What was asked and answered: what the buttons under a reply need, also after a restart. No policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from bot.storage.database import Database
from bot.storage.tables import replies, reply_messages

# Reasons that are no `FinishReason`.
INTERRUPTED = "interrupted"
TOO_LONG = "too_long"  # an error: the question left the model no room for an answer


@dataclass(frozen=True, slots=True)
class KeptReply:
    """One reply.

    Attributes:
        id: the number that is in the log too.
        asker_id, channel_id, server_id: Discord's; the server is None in direct messages.
        alias: the model's.
        request: the messages and the sampling, as JSON.
        answer: what the model wrote, thoughts included.
        reason: why it ended; None while it is under way.
        numbers: what was counted and timed, as JSON.
        message_ids: by page.
        end_shown: whether people see how it ended.
        tokens: the ids of what the model wrote, as JSON, where it can go on from them: `vocabulary` is what they are
            from, `ids` begin with those of the earlier part that this one goes on from, and `said` is their number.
    """

    id: str
    asker_id: int
    channel_id: int
    server_id: int | None
    alias: str
    request: dict[str, Any]
    answer: str = ""
    reason: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    message_ids: tuple[int, ...] = ()
    end_shown: bool = False
    tokens: dict[str, Any] | None = None


class Replies:
    """The replies in the database. Every method may raise `StorageError`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, reply: KeptReply) -> None:
        """A reply is under way, and has these messages so far; called again for each that is new."""
        values = {name: getattr(reply, name) for name in _COLUMNS}
        values["begun_at"] = datetime.now(UTC).replace(tzinfo=None)
        pages = [{"message_id": message_id, "reply_id": reply.id} for message_id in reply.message_ids]

        def work(connection: Connection) -> None:
            connection.execute(insert(replies).values(**values).on_conflict_do_nothing())
            if pages:
                connection.execute(insert(reply_messages).values(pages).on_conflict_do_nothing())

        await self._database.run(work)

    async def end(self, reply: KeptReply) -> None:
        """How a reply ended, and whether that was shown; nothing happens if it is not there."""
        change = update(replies).where(replies.c.id == reply.id)
        change = change.values({name: getattr(reply, name) for name in _OF_THE_END})
        await self._database.run(lambda connection: connection.execute(change))

    async def find(self, reply_id: str) -> KeptReply | None:
        """The reply of this id."""
        return next(iter(await self._read(replies.c.id == reply_id)), None)

    async def of_message(self, message_id: int) -> KeptReply | None:
        """The reply that a message is a page of."""
        its = select(reply_messages.c.reply_id).where(reply_messages.c.message_id == message_id)
        return next(iter(await self._read(replies.c.id.in_(its))), None)

    async def unfinished(self) -> list[KeptReply]:
        """Replies whose end nobody has seen: they are under way or, right after a start, a crash left them behind."""
        return await self._read(replies.c.end_shown.is_(False))

    async def forget(self, *, older_than_days: float) -> int:
        """Forget replies that were begun before that; how many. A few at a time: others who write take turns."""
        before = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=older_than_days)
        some = select(replies.c.id).where(replies.c.begun_at < before).limit(_FORGOTTEN_AT_A_TIME)
        statement = delete(replies).where(replies.c.id.in_(some))
        forgotten = 0
        while True:
            count = await self._database.run(lambda connection: connection.execute(statement).rowcount)
            forgotten += count
            if count < _FORGOTTEN_AT_A_TIME:
                return forgotten

    async def _read(self, where: Any) -> list[KeptReply]:
        def work(connection: Connection) -> list[KeptReply]:
            rows = connection.execute(select(replies).where(where).order_by(replies.c.begun_at)).all()
            ids = select(reply_messages).where(reply_messages.c.reply_id.in_([row.id for row in rows]))
            messages = connection.execute(ids.order_by(reply_messages.c.message_id)).all()
            return [
                KeptReply(
                    **{name: getattr(row, name) for name in _COLUMNS},
                    message_ids=tuple(one.message_id for one in messages if one.reply_id == row.id),
                )
                for row in rows
            ]

        return await self._database.read(work)


_FORGOTTEN_AT_A_TIME = 200
_OF_THE_END = ("request", "answer", "reason", "numbers", "end_shown", "tokens")
_COLUMNS = ("id", "asker_id", "channel_id", "server_id", "alias", *_OF_THE_END)
