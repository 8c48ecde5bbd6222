"""Where a command was given, and what the person who gave it may do there."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import discord

from bot.chooser import Place
from bot.errors import NotAllowed

Permission = Literal["manage_channels", "manage_guild"]

_NAMES = {"manage_channels": "Manage Channels", "manage_guild": "Manage Server"}
_PATIENCE_S = 1.5


def place_of(interaction: discord.Interaction[Any]) -> Place:
    """The place of an interaction."""
    channel_id = interaction.channel_id or interaction.user.id
    if isinstance(interaction.channel, discord.Thread):
        return Place(interaction.channel.parent_id, interaction.guild_id, channel_id)
    return Place(channel_id, interaction.guild_id)


async def require(interaction: discord.Interaction[Any], permission: Permission) -> None:
    """Let pass who may change things here.

    In a direct message that is everybody. In a server it is who has the permission; or, where the server has
    overrides for the command in its integration settings, whoever these let use it, which Discord has
    looked at already. Discord knows defaults only for a whole command with all that is under it, and `show`
    and `list` are for everybody: so the default is looked at here.

    Raises:
        NotAllowed: the person may not.
    """
    if interaction.guild_id is None or getattr(interaction.permissions, permission):
        return
    if not await _has_overrides(interaction):
        raise NotAllowed(
            f"You need the permission {_NAMES[permission]} for that. A manager of this server can let others do it "
            "too: Server Settings → Integrations → Punchline."
        )


async def _has_overrides(interaction: discord.Interaction[Any]) -> bool:
    data: Any = interaction.data  # a command's, here
    command_id = int(data["id"])
    ask = interaction.client.http.get_application_command_permissions
    try:
        async with asyncio.timeout(_PATIENCE_S):
            found = await ask(interaction.application_id, interaction.guild_id or 0, command_id)
    except (discord.HTTPException, TimeoutError):  # 404: there are none
        return False
    return bool(found.get("permissions"))
