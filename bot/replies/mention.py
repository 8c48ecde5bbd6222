"""Messages that are meant for the bot: those that mention it, and direct messages."""

from __future__ import annotations

import re

import discord

from bot.replies.surface import ChannelSurface

_MEANT = (discord.MessageType.default, discord.MessageType.reply)


def question_in(message: discord.Message, me: discord.abc.User) -> str | None:
    """What somebody asks the bot in a message, empty if only its name is there; None if it is not meant for it.

    Discord gives the bot the words of such messages only, unless it asks for more.
    """
    if message.author.bot or message.webhook_id is not None or message.type not in _MEANT:
        return None
    if message.guild is not None and me not in message.mentions:
        return None
    return re.sub(rf"<@!?{me.id}>", "", message.content).strip()


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


def quoted_in(message: discord.Message) -> str:
    """What the message that this one replies to says, as far as Discord shows it to the bot."""
    replied_to = None if message.reference is None else message.reference.resolved
    return replied_to.content if isinstance(replied_to, discord.Message) else ""


def surface_for(message: discord.Message) -> ChannelSurface:
    """Where the answer to a message is shown."""
    channel = message._state._get_client().get_partial_messageable(
        message.channel.id, guild_id=None if message.guild is None else message.guild.id
    )
    limit = (
        discord.utils.DEFAULT_FILE_SIZE_LIMIT_BYTES if message.guild is None else message.guild.filesize_limit
    )
    return ChannelSurface(channel, asked_in=_reference_to(message), filesize_limit=limit)
