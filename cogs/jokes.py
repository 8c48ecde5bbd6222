"""`/joke`: what it is all about."""

from __future__ import annotations

import discord
from discord import app_commands
from discord.ext import commands

from bot.chat.prompt import joke_messages
from bot.client import PunchlineBot
from bot.replies.choices import ModelOption
from bot.replies.message_text import readable
from bot.replies.places import place_of
from bot.services import Services

_TopicRange = app_commands.Range[str, 1, 300]

_Model = app_commands.Transform[str, ModelOption()]


class Jokes(commands.Cog):
    """Jokes on demand."""

    def __init__(self, *, services: Services) -> None:
        self._services = services

    @app_commands.command(description="Have a model tell a joke")
    @app_commands.describe(
        topic="What the joke is about", audience="Whom it is for", model="Which model tells it"
    )
    async def joke(
        self,
        interaction: discord.Interaction,
        topic: _TopicRange | None = None,
        audience: _TopicRange | None = None,
        model: _Model | None = None,
    ) -> None:
        """Tell a joke."""
        services = self._services
        spec = await services.chooser.resolve(model, place_of(interaction))
        topic, audience = (readable(one, interaction.guild) if one else None for one in (topic, audience))
        messages = joke_messages(topic=topic, audience=audience or services.default_audience)
        await services.answers.give(interaction, spec, messages)


async def setup(bot: PunchlineBot) -> None:
    """Called by discord.py when the extension is loaded."""
    await bot.add_cog(Jokes(services=bot.services))
