"""Lists to choose from while somebody types a command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import discord
from discord import app_commands

from bot.inference.catalog import ModelSpec
from bot.replies.limits import CHOICE_NAME_LIMIT, one_line, shortened
from bot.replies.pages import units
from bot.replies.places import place_of

CHOICES_LIMIT = 25  # Discord's, for autocomplete

_Choices = list[app_commands.Choice[Any]]


class ModelOption(app_commands.Transformer):
    """An option that names a model: completed from what is offered at the place, by alias, description or
    repository. What comes out is what was typed; Discord holds nobody to the list."""

    async def transform(self, interaction: discord.Interaction[Any], value: Any, /) -> str:
        """The option as it was typed."""
        return str(value)

    async def autocomplete(self, interaction: discord.Interaction[Any], value: Any, /) -> _Choices:
        """What fits what was typed so far."""
        return model_choices(await _found(interaction, value))


class ModelsOption(ModelOption):
    """An option that names several models with commas between; the last one is completed."""

    async def autocomplete(self, interaction: discord.Interaction[Any], value: Any, /) -> _Choices:
        """What fits the last name so far, behind those before it."""
        before, comma, last = value.rpartition(",")
        start = f"{before.strip()}, " if comma else ""
        found = [spec for spec in await _found(interaction, last) if spec.alias not in split_aliases(before)]
        names = [f"{start}{spec.alias}" for spec in found]
        return [app_commands.Choice(name=n, value=n) for n in names if units(n) <= CHOICE_NAME_LIMIT]


def split_aliases(typed: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip().lower() for name in typed.split(",") if name.strip()]


def model_choices(specs: Iterable[ModelSpec]) -> _Choices:
    """Models as choices."""
    return [
        app_commands.Choice(
            name=shortened(f"{spec.alias} · {one_line(spec.description)}", CHOICE_NAME_LIMIT),
            value=spec.alias,
        )
        for spec in specs
    ]


async def _found(interaction: discord.Interaction[Any], typed: str) -> list[ModelSpec]:
    found: list[ModelSpec] = await interaction.client.services.chooser.search(
        typed, place_of(interaction), limit=CHOICES_LIMIT
    )
    return found
