"""`/ask`: put a question to a model."""

from __future__ import annotations

import discord
from discord import app_commands
from discord.ext import commands

from bot.chat.prompt import ask_messages
from bot.client import PunchlineBot
from bot.replies.choices import ModelOption
from bot.replies.message_text import readable
from bot.replies.places import place_of
from bot.services import Services

_PromptRange = app_commands.Range[str, 1, 4000]

_Model = app_commands.Transform[str, ModelOption()]


class Chat(commands.Cog):
    """Questions and answers."""

    def __init__(self, *, services: Services) -> None:
        self._services = services

    @app_commands.command(description="Ask a model anything")
    @app_commands.describe(prompt="Your question", model="Which model answers")
    async def ask(
        self, interaction: discord.Interaction, prompt: _PromptRange, model: _Model | None = None
    ) -> None:
        """Answer a question."""
        services = self._services
        spec = await services.chooser.resolve(model, place_of(interaction))
        asked = readable(prompt, interaction.guild) or prompt
        await services.answers.give(interaction, spec, ask_messages(asked))


async def setup(bot: PunchlineBot) -> None:
    """Called by discord.py when the extension is loaded."""
    await bot.add_cog(Chat(services=bot.services))
