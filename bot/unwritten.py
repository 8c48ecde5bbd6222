"""Replies that the database did not take: remembered while the bot runs, and written when it takes them again."""

from __future__ import annotations

import logging
from dataclasses import replace

from bot.errors import StorageError
from bot.storage.database import in_time
from bot.storage.replies import KeptReply, Replies

log = logging.getLogger(__name__)

PATIENCE_S = 2.0  # what people see does not wait longer for what is kept
_REMEMBERED = 200  # the newest; each holds what was asked and answered
_CAUGHT_UP = 20  # how many old ones a new one may bring along, so that nobody waits for long


class Unwritten:
    """Writes replies that have ended, each as soon as the database can: a full disk costs nobody the buttons.

    Args:
        replies: the store.
    """

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._waiting: dict[str, KeptReply] = {}

    async def write(self, ended: KeptReply, *, is_begun: bool) -> bool:
        """Write a reply, and some of those that wait; or remember it. Whether it is written.

        Args:
            ended: the reply.
            is_begun: whether it is in the database with all its messages, as one that is under way.
        """
        others = list(self._waiting.values())[:_CAUGHT_UP]
        self._waiting[ended.id] = ended
        try:
            for kept in (ended, *others):
                if self._waits(kept) and (kept is not ended or not is_begun):
                    begun = replace(kept, answer="", reason=None, end_shown=False)
                    await in_time(self._replies.put(begun), PATIENCE_S)
                # Looked at again: who brought it may have written something newer of it meanwhile.
                if self._waits(kept):
                    await in_time(self._replies.end(kept), PATIENCE_S)
                if self._waits(kept):
                    del self._waiting[kept.id]
        except StorageError as error:
            log.warning("%d replies are not kept yet: %s", len(self._waiting), error)
        while len(self._waiting) > _REMEMBERED:
            del self._waiting[next(iter(self._waiting))]
        return ended.id not in self._waiting

    def _waits(self, kept: KeptReply) -> bool:
        """Whether this is the newest of the reply, and not written."""
        return self._waiting.get(kept.id) is kept

    def find(self, reply_id: str) -> KeptReply | None:
        """The reply of this id, if it waits."""
        return self._waiting.get(reply_id)

    def of_message(self, message_id: int) -> KeptReply | None:
        """The reply that a message is a page of, if it waits."""
        return next((kept for kept in self._waiting.values() if message_id in kept.message_ids), None)
