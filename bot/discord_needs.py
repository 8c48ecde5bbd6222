"""What the bot needs of Discord: the events it is sent, and what it may do in a server."""

from __future__ import annotations

import discord

# None of them is privileged: Discord shows the words of messages that mention the bot, and of direct ones, to it
# anyway. guilds keeps the channel cache filled.
INTENTS = discord.Intents(guilds=True, guild_messages=True, dm_messages=True)

# For answers to mentions, answers that take longer than an interaction lives, and marking what a crash interrupted.
# Commands need none of them.
PERMISSIONS = discord.Permissions(
    view_channel=True,
    send_messages=True,
    send_messages_in_threads=True,
    embed_links=True,
    attach_files=True,
    read_message_history=True,
)
