"""Replies that a crash left behind: found at the start, and brought to their end, so that nobody waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import discord

from bot.archive import Archive, messages_of
from bot.chat.prompt import said_before
from bot.inference.engine import Finished, FinishReason, TextDelta, Usage
from bot.replies.buttons import Buttons, Press, buttons_at_end, view_of
from bot.replies.long_texts import read_apart
from bot.replies.refusal import is_final, is_gone, take_refusal
from bot.replies.shown import Contents, Shown
from bot.replies.status import interrupted_text
from bot.replies.surface import TROUBLE, ChannelSurface
from bot.storage.replies import INTERRUPTED, TOO_LONG, KeptReply

log = logging.getLogger(__name__)

_ATTEMPTS = 3
_PAUSE_S = 10.0


async def mark_interrupted(client: discord.Client, archive: Archive, left: Sequence[KeptReply]) -> None:
    """Show how each of these replies ended: the whole answer, if it was kept before the crash and not shown; else that
    it was interrupted, with a button to try again.

    One after the other: discord.py waits where a channel takes no more. A reply that is gone, or that the bot can
    only reach by a token that it does not have any more, is just not waited for; one that Discord does not take now is
    tried again at the next start.
    """
    marked = 0
    for unended in left:
        kept = await archive.interrupted(unended) if unended.reason is None else unended
        done = await _mark(client, kept)
        marked += done is True
        if done is not None:
            await archive.told(kept)
    if left:
        log.info(
            "%d replies were interrupted by the last end of the bot, %d of them marked", len(left), marked
        )


async def _mark(client: discord.Client, kept: KeptReply) -> bool | None:
    """Whether it could be shown; None if that is not to be said now."""
    if not kept.message_ids:
        return False
    channel = client.get_partial_messageable(kept.channel_id, guild_id=kept.server_id)
    surface = ChannelSurface(channel, message_ids=kept.message_ids)
    for attempt in range(_ATTEMPTS):
        try:
            await (
                _show_interrupted(surface, kept) if kept.reason == INTERRUPTED else _show_end(surface, kept)
            )
            return True
        except TROUBLE as error:
            if isinstance(error, discord.HTTPException) and is_gone(error):
                log.info("reply %s, interrupted, is gone (%s)", kept.id, error.code)
                return False
            if is_final(error):
                log.info("reply %s, interrupted, is refused (%s)", kept.id, getattr(error, "code", ""))
                return await _with_buttons_alone(surface, kept)
            log.warning("reply %s could not be marked (%s)", kept.id, type(error).__name__)
        if attempt < _ATTEMPTS - 1:
            await asyncio.sleep(_PAUSE_S)
    return None


async def _with_buttons_alone(surface: ChannelSurface, kept: KeptReply) -> bool:
    """For words that Discord takes in no form: Stop makes way for Retry. Whether it could."""
    try:
        await surface.show_buttons(len(kept.message_ids) - 1, view_of((Press.RETRY,), kept.id))
    except TROUBLE as error:
        log.warning("reply %s could not be given its buttons (%s)", kept.id, type(error).__name__)
        return False
    return True


async def _show_interrupted(surface: ChannelSurface, kept: KeptReply) -> None:
    """The words that stand there stay. Where the bot may not read them, the button alone tells."""
    last, view = len(kept.message_ids) - 1, view_of((Press.RETRY,), kept.id)
    try:
        message = await surface.read(last)
    except discord.Forbidden:
        await surface.show_buttons(last, view)
    else:
        await surface.show(last, interrupted_text(message, kept.alias), view)


async def _show_end(surface: ChannelSurface, kept: KeptReply) -> None:
    """The whole answer, as the reply would have shown it; who stopped it, or what failed, is not kept."""
    usage = Usage(**kept.numbers)
    reason = FinishReason.ERROR if kept.reason == TOO_LONG else FinishReason(str(kept.reason))
    finished = Finished(reason, usage)
    shown = await read_apart(Shown.going_on, said_before(messages_of(kept)))
    await read_apart(lambda answer: shown.apply(TextDelta(answer, usage)), kept.answer)
    shown.apply(finished)
    buttons = buttons_at_end(finished, thought=shown.has_thoughts)
    while not await _show_pages(
        surface, shown, shown.end(finished, kept.alias, reference=kept.id), buttons, kept.id
    ):
        pass  # each refusal leaves less to show


async def _show_pages(
    surface: ChannelSurface, shown: Shown, contents: Contents, buttons: Buttons, reply_id: str
) -> bool:
    """Whether all could be shown; if not, `shown` has something else to show now."""
    last = len(contents.pages) - 1
    for number, content in enumerate(contents.pages):
        view = view_of(buttons, reply_id) if number == last else None
        file = contents.file if number == last else None
        is_new = number >= len(surface.message_ids)
        try:
            await surface.show(number, content, view, file)
        except discord.HTTPException as error:
            if not take_refusal(shown, error, page=number, is_new=is_new, has_file=file is not None):
                raise
            return False
    return True
