"""`/inspect`: what a model is made of, and what memory it needs."""

from __future__ import annotations

import discord
from discord import app_commands
from discord.ext import commands

from bot.client import PunchlineBot
from bot.replies.choices import model_choices
from bot.services import Services


class Inspect(commands.Cog):
    """A look inside the models."""

    def __init__(self, *, services: Services) -> None:
        self._services = services

    @app_commands.command(description="Look inside a model: its layers, their dimensions, its memory")
    @app_commands.describe(model="Which model")
    async def inspect(self, interaction: discord.Interaction, model: str | None = None) -> None:
        """Show what a model is made of."""
        await self._services.inspections.show(interaction, self._services.catalog.resolve(model))

    @inspect.autocomplete("model")
    async def _models(self, _: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        return model_choices(self._services.catalog, typed)


async def setup(bot: PunchlineBot) -> None:
    """Called by discord.py when the extension is loaded."""
    await bot.add_cog(Inspect(services=bot.services))
