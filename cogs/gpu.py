"""`/gpu`: how the device is, and which models are in its memory."""

from __future__ import annotations

import discord
from discord import app_commands
from discord.ext import commands

from bot.client import PunchlineBot
from bot.services import Services


class Gpu(commands.Cog):
    """The device that models run on."""

    def __init__(self, *, services: Services) -> None:
        self._services = services

    @app_commands.command(description="The GPU now: memory, temperature, and the models in it")
    async def gpu(self, interaction: discord.Interaction) -> None:
        """Show the device."""
        await self._services.device_card.show(interaction)


async def setup(bot: PunchlineBot) -> None:
    """Called by discord.py when the extension is loaded."""
    await bot.add_cog(Gpu(services=bot.services))
