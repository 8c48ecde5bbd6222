"""Where a command was given, and what the person who gave it may do there."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import discord

from bot.chooser import Place
from bot.deadline import left_s
from bot.errors import NotAllowed

Permission = Literal["manage_channels", "manage_guild"]

_NAMES = {"manage_channels": "Manage Channels", "manage_guild": "Manage Server"}
_PATIENCE_S = 1.5
_CHANNEL = 3  # the kind of an override, Discord API v10


def place_of(interaction: discord.Interaction[Any]) -> Place:
    """The place of an interaction."""
    return _place(interaction.channel, interaction.channel_id or interaction.user.id, interaction.guild_id)


def place_of_message(message: discord.Message) -> Place:
    """The place of a message."""
    return _place(message.channel, message.channel.id, None if message.guild is None else message.guild.id)


def _place(channel: object, channel_id: int, server_id: int | None) -> Place:
    if isinstance(channel, discord.Thread):
        return Place(channel.parent_id, server_id, channel_id)
    return Place(channel_id, server_id)


async def require(interaction: discord.Interaction[Any], permission: Permission) -> None:
    """Let pass who may change things here.

    In a direct message or a group that is everybody. In a server it is who has the permission, or whom the server's
    integration settings allow the command by name or by role. Discord knows defaults only for a whole command with
    all that is under it, and `show` and `list` are for everybody: so the default is looked at here.

    Whoever has the bot among their own apps brings it to servers that never added it. Nobody chooses anything there,
    whatever they may do: it is not for a visitor to change what the server's people get.

    Raises:
        NotAllowed: the person may not.
    """
    if interaction.guild_id is None:
        return
    if interaction.is_user_integration() and not interaction.is_guild_integration():
        raise NotAllowed(
            "The bot was not added to this server, so nothing can be chosen here. Ask a manager of the server to add "
            "it, or name the `model` in each command."
        )
    if getattr(interaction.permissions, permission):
        return
    if not await _allowed_by_server(interaction):
        raise NotAllowed(
            f"You need the permission {_NAMES[permission]} for that. A manager of this server can let others do it "
            "too: Server Settings → Integrations → Punchline."
        )


async def _allowed_by_server(interaction: discord.Interaction[Any]) -> bool:
    """Whether the server's integration settings allow the command to this person, or to one of their roles, by name:
    that others are forbidden it, or that it is allowed in some channel, gives nobody a right."""
    data: Any = interaction.data  # a command's, here
    ask = interaction.client.http.get_application_command_permissions
    try:
        async with asyncio.timeout(left_s(_PATIENCE_S)):
            found = await ask(interaction.application_id, interaction.guild_id or 0, int(data["id"]))
    except (discord.HTTPException, TimeoutError):  # 404: there are none
        return False
    roles = [role.id for role in getattr(interaction.user, "roles", [])]
    theirs = {interaction.user.id, interaction.guild_id, *roles}  # a server's own id is its @everyone role
    people = [one for one in found.get("permissions", []) if one["type"] != _CHANNEL]
    return any(one["permission"] and int(one["id"]) in theirs for one in people)
