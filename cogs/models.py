"""`/model`: which model answers where, which there are, and what they are made of."""

from __future__ import annotations

from typing import Literal

import discord
from discord import app_commands
from discord.ext import commands

from bot.client import PunchlineBot
from bot.errors import UsageError
from bot.replies.choices import ModelOption, ModelsOption, split_aliases
from bot.replies.limits import safe
from bot.replies.model_list import show_list, standing_text
from bot.replies.pages import MESSAGE_LIMIT
from bot.replies.places import place_of, require
from bot.services import Services
from bot.storage.choices import PlaceKind

_Model = app_commands.Transform[str, ModelOption()]
_Models = app_commands.Transform[str, ModelsOption()]
_Scope = Literal["here", "channel", "server"]
_WORDS = {PlaceKind.THREAD: "this thread", PlaceKind.CHANNEL: "this channel", PlaceKind.SERVER: "this server"}
_NOBODY = discord.AllowedMentions.none()


class Models(commands.GroupCog, name="model", description="The models: who answers here, and what they are"):
    """Choosing and looking at models."""

    def __init__(self, *, services: Services) -> None:
        self._services = services

    @app_commands.command(name="set", description="Choose which model answers here")
    @app_commands.describe(model="Which model", scope="Where it answers: here, if you leave it out")
    async def set_(self, interaction: discord.Interaction, model: _Model, scope: _Scope = "here") -> None:
        """Choose a model for a place."""
        kind = await _allowed(interaction, scope)
        place = place_of(interaction)
        spec = await self._services.chooser.choose(kind, place, model, by=interaction.user.id)
        await _say(interaction, f"**{spec.alias}** answers in {_WORDS[kind]} from now on: {spec.description}")

    @app_commands.command(description="Forget which model was chosen here")
    @app_commands.describe(scope="What to forget: the choice for here, if you leave it out")
    async def reset(self, interaction: discord.Interaction, scope: _Scope = "here") -> None:
        """Forget a choice."""
        kind = await _allowed(interaction, scope)
        place = place_of(interaction)
        was_set = await self._services.chooser.reset(kind, place)
        spec = (await self._services.chooser.standing(place)).spec
        done = (
            f"The choice for {_WORDS[kind]} is gone" if was_set else f"Nothing was chosen for {_WORDS[kind]}"
        )
        await _say(interaction, f"{done}; **{spec.alias}** answers here.")

    @app_commands.command(description="Show which model answers here, and why")
    async def show(self, interaction: discord.Interaction) -> None:
        """Show who answers."""
        standing = await self._services.chooser.standing(place_of(interaction))
        await _say(interaction, standing_text(standing), ephemeral=True)

    @app_commands.command(name="list", description="Show all models you can choose from")
    async def list_(self, interaction: discord.Interaction) -> None:
        """Show what is on offer."""
        await show_list(interaction, await self._services.chooser.standing(place_of(interaction)))

    @app_commands.command(description="Choose which models this server offers")
    @app_commands.describe(models="Their names with commas between; leave it out to offer all")
    async def offer(self, interaction: discord.Interaction, models: _Models | None = None) -> None:
        """Restrict what a server offers."""
        if interaction.guild_id is None:
            raise UsageError("Only a server can choose what it offers.")
        await require(interaction, "manage_guild")
        specs = await self._services.chooser.offer(interaction.guild_id, split_aliases(models or ""))
        names = ", ".join(f"**{spec.alias}**" for spec in specs) or "all models"
        await _say(interaction, f"This server offers {names} from now on.")

    @app_commands.command(description="Look inside a model: its layers, their dimensions, its memory")
    @app_commands.describe(model="Which model")
    async def inspect(self, interaction: discord.Interaction, model: _Model | None = None) -> None:
        """Show what a model is made of."""
        spec = await self._services.chooser.resolve(model, place_of(interaction))
        await self._services.inspections.show(interaction, spec)


async def _allowed(interaction: discord.Interaction, scope: _Scope) -> PlaceKind:
    """The kind of place that is meant, if the person may change it."""
    if scope == "server" and interaction.guild_id is None:
        raise UsageError("This is not a server: leave `scope` out.")
    await require(interaction, "manage_guild" if scope == "server" else "manage_channels")
    if scope == "here":
        return PlaceKind.THREAD if place_of(interaction).thread_id is not None else PlaceKind.CHANNEL
    return PlaceKind(scope)


async def _say(interaction: discord.Interaction, text: str, *, ephemeral: bool = False) -> None:
    await interaction.response.send_message(
        safe(text, MESSAGE_LIMIT), ephemeral=ephemeral, allowed_mentions=_NOBODY
    )


async def setup(bot: PunchlineBot) -> None:
    """Called by discord.py when the extension is loaded."""
    await bot.add_cog(Models(services=bot.services))
