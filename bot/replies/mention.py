"""Messages that are meant for the bot: those that mention it, and direct messages."""

from __future__ import annotations

from dataclasses import dataclass

import discord

from bot.replies.message_text import MessageText, is_forward, text_of
from bot.replies.surface import ChannelSurface

_UNREAD_QUOTE = MessageText(unread=("the replied-to message",))
_MEANT = (discord.MessageType.default, discord.MessageType.reply)


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody asks the bot in a message.

    Attributes:
        text: what it says; empty if only the bot's name is there, or Discord does not show more.
        by_role: only the bot's role is mentioned. Discord shows the words of messages that mention the bot itself.
    """

    text: MessageText
    by_role: bool = False


def question_in(message: discord.Message, me: discord.abc.User) -> Question | None:
    """What somebody asks the bot in a message; None if it is not meant for it.

    Discord gives the bot the words of such messages only, unless it asks for more.
    """
    if message.author.bot or message.webhook_id is not None or message.type not in _MEANT:
        return None
    role = None if message.guild is None else message.guild.self_role
    by_role = role is not None and any(one.id == role.id for one in message.role_mentions)
    is_named = message.guild is None or me in message.mentions
    if not (is_named or by_role):
        return None
    own = (me.id,) if role is None else (me.id, role.id)
    return Question(text_of(message, message.guild, without=own), by_role=not is_named)


def may_answer(message: discord.Message) -> bool:
    """Whether the bot may send messages where this one is."""
    if message.guild is None:
        return True
    allowed = message.channel.permissions_for(message.guild.me)
    in_thread = isinstance(message.channel, discord.Thread)
    return allowed.send_messages_in_threads if in_thread else allowed.send_messages


def _reference_to(message: discord.Message) -> discord.MessageReference | None:
    """For an answer that shows whom it answers; where old messages may not be read, Discord refuses that."""
    if (
        message.guild is not None
        and not message.channel.permissions_for(message.guild.me).read_message_history
    ):
        return None
    return message.to_reference(fail_if_not_exists=False)


def replied_to(message: discord.Message) -> int | None:
    """The id of the message that this one replies to. A forwarded message is none."""
    return None if message.reference is None or is_forward(message) else message.reference.message_id


def quoted_in(message: discord.Message) -> MessageText:
    """What the message that this one replies to says.

    Discord shows the bot nothing of a message that is gone, or of somebody's in a server that did not mention it.
    """
    if replied_to(message) is None or message.reference is None:
        return MessageText()
    quoted = message.reference.resolved
    said = text_of(quoted, message.guild) if isinstance(quoted, discord.Message) else MessageText()
    return said if said.words or said.unread else _UNREAD_QUOTE


def surface_for(message: discord.Message) -> ChannelSurface:
    """Where the answer to a message is shown."""
    channel = message._state._get_client().get_partial_messageable(
        message.channel.id, guild_id=None if message.guild is None else message.guild.id
    )
    limit = (
        discord.utils.DEFAULT_FILE_SIZE_LIMIT_BYTES if message.guild is None else message.guild.filesize_limit
    )
    return ChannelSurface(channel, asked_in=_reference_to(message), filesize_limit=limit)
