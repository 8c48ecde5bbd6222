"""`/doctor`: the checks of `python -m bot check`, for operators of a bot that runs."""

from __future__ import annotations

import discord
from discord import app_commands
from discord.ext import commands

from bot.client import PunchlineBot
from bot.services import Services


class Doctor(commands.Cog):
    """How the bot and its machine are."""

    def __init__(self, *, services: Services) -> None:
        self._services = services

    @app_commands.command(description="Check the bot and its machine (its operators only)")
    @app_commands.default_permissions(
        administrator=True
    )  # others need not see it; an operator can, in messages to it
    async def doctor(self, interaction: discord.Interaction) -> None:
        """Show what the checks find."""
        await self._services.operators.require(interaction.user)
        await self._services.consultation.show(interaction)


async def setup(bot: PunchlineBot) -> None:
    """Called by discord.py when the extension is loaded."""
    await bot.add_cog(Doctor(services=bot.services))
