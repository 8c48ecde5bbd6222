"""`/drain`, `/resume`, `/queue`, `/reload`, `/panel`: for those who run the bot."""

from __future__ import annotations

import discord
from discord import app_commands
from discord.ext import commands

from bot.client import PunchlineBot
from bot.services import Services

_Reason = app_commands.Range[str, 1, 200]


class Operate(commands.Cog):
    """What operators do. Others need not see the commands; an operator can, in messages to the bot."""

    def __init__(self, *, services: Services) -> None:
        self._operations = services.operations

    @app_commands.command(
        description="Take no new questions; those that were asked are answered (operators only)"
    )
    @app_commands.describe(reason="Why, for people who ask meanwhile")
    @app_commands.default_permissions(administrator=True)
    async def drain(self, interaction: discord.Interaction, reason: _Reason | None = None) -> None:
        """Let nobody new in."""
        await self._operations.drain(interaction, reason or "")

    @app_commands.command(description="Take questions again (operators only)")
    @app_commands.default_permissions(administrator=True)
    async def resume(self, interaction: discord.Interaction) -> None:
        """Let people in again."""
        await self._operations.resume(interaction)

    @app_commands.command(description="Who is answered and who waits, and cancel some of it (operators only)")
    @app_commands.default_permissions(administrator=True)
    async def queue(self, interaction: discord.Interaction) -> None:
        """Show the queue."""
        await self._operations.show_queue(interaction)

    @app_commands.command(
        description="Read the settings and the catalogue again, without a restart (operators only)"
    )
    @app_commands.default_permissions(administrator=True)
    async def reload(self, interaction: discord.Interaction) -> None:
        """Reload."""
        await self._operations.read_again(interaction)

    @app_commands.command(
        description="A message here that shows how the bot is, kept current (operators only)"
    )
    @app_commands.default_permissions(administrator=True)
    async def panel(self, interaction: discord.Interaction) -> None:
        """Put the panel here."""
        await self._operations.show_panel(interaction)


async def setup(bot: PunchlineBot) -> None:
    """Called by discord.py when the extension is loaded."""
    await bot.add_cog(Operate(services=bot.services))
