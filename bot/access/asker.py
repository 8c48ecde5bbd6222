"""Who asks, and where, as far as rules and limits look at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import discord


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who asks, by Discord's ids.

    Attributes:
        person_id: who.
        place_ids: where, the nearest first: thread, channel, category, server. In a direct message, its channel.
        role_ids: the person's roles in the server, without @everyone.
        server_id: the server; None in direct messages and groups.
        is_guest: whether the person has brought the bot among their own apps to a server that did not add it. They use
            up nothing of that server's.
    """

    person_id: int
    place_ids: tuple[int, ...] = ()
    role_ids: frozenset[int] = frozenset()
    server_id: int | None = None
    is_guest: bool = False

    @classmethod
    def of(cls, interaction: discord.Interaction[Any]) -> Asker:
        """That of a command or a press."""
        is_guest = interaction.is_user_integration() and not interaction.is_guild_integration()
        channel_id = interaction.channel_id or interaction.user.id
        server_id = interaction.guild_id
        return cls._at(interaction.user, interaction.channel, channel_id, server_id, is_guest)

    @classmethod
    def of_message(cls, message: discord.Message) -> Asker:
        """That of a message that mentions the bot."""
        server_id = None if message.guild is None else message.guild.id
        return cls._at(message.author, message.channel, message.channel.id, server_id, False)

    @classmethod
    def _at(
        cls,
        person: discord.User | discord.Member,
        channel: Any,
        channel_id: int,
        server_id: int | None,
        is_guest: bool,
    ) -> Asker:
        parent_id = channel.parent_id if isinstance(channel, discord.Thread) else None
        parent = channel.parent if isinstance(channel, discord.Thread) else channel
        # Of a thread in a channel that Discord does not show the bot, the category is not known.
        category_id = getattr(parent, "category_id", None)
        places = (channel_id, parent_id, category_id, server_id)
        roles = frozenset(role.id for role in getattr(person, "roles", ())) - {server_id}
        return cls(person.id, tuple(one for one in places if one is not None), roles, server_id, is_guest)
