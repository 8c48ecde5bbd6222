"""Somebody who runs the bot, in a test's world."""

from __future__ import annotations

import discord
from simcord.actors import MemberActor

from tests.world import World


def administrator(world: World, *, operates: bool = True) -> MemberActor:
    """Somebody who sees the commands of operators; whether the bot is theirs too."""
    guild = world.channel.guild
    assert guild is not None
    role = guild.create_role("admins", permissions=discord.Permissions(administrator=True))
    somebody = guild.add_member(world.env.create_user("admin"), roles=[role])
    world.bot.services.operators.name([somebody.id if operates else world.alice.id])
    return somebody
