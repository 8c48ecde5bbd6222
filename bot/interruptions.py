"""Replies that a crash left behind: found at the start, and marked, so that nobody waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import discord

from bot.archive import Archive
from bot.replies.buttons import Press, view_of
from bot.replies.live import is_gone
from bot.replies.status import interrupted_text
from bot.replies.surface import TROUBLE, ChannelSurface
from bot.storage.replies import KeptReply

log = logging.getLogger(__name__)

_ATTEMPTS = 3
_PAUSE_S = 10.0


async def mark_interrupted(client: discord.Client, archive: Archive, left: Sequence[KeptReply]) -> None:
    """Write under each of these replies that it was interrupted, with a button to try again.

    One after the other: discord.py waits where a channel takes no more. A reply that is gone, or that the bot can
    only reach by a token that it does not have any more, is just not waited for.
    """
    marked = 0
    for kept in left:
        marked += await _mark(client, kept)
        await archive.interrupted(kept)
    if left:
        log.info(
            "%d replies were interrupted by the last end of the bot, %d of them marked", len(left), marked
        )


async def _mark(client: discord.Client, kept: KeptReply) -> bool:
    if not kept.message_ids:
        return False
    channel = client.get_partial_messageable(kept.channel_id, guild_id=kept.server_id)
    surface = ChannelSurface(channel, message_ids=kept.message_ids)
    last = len(kept.message_ids) - 1
    for attempt in range(_ATTEMPTS):
        try:
            message = await surface.read(last)
            await surface.show(last, interrupted_text(message, kept.alias), view_of((Press.RETRY,), kept.id))
            return True
        except TROUBLE as error:
            if isinstance(error, discord.HTTPException) and is_gone(error):
                log.info("reply %s, interrupted, is gone (%s)", kept.id, error.code)
                return False
            log.warning("reply %s could not be marked (%s)", kept.id, type(error).__name__)
        if attempt < _ATTEMPTS - 1:
            await asyncio.sleep(_PAUSE_S)
    return False
