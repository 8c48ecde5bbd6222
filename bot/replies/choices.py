"""Lists to choose from while somebody types a command."""

from __future__ import annotations

from discord import app_commands

from bot.inference.catalog import ModelCatalog

CHOICES_LIMIT = 25  # Discord's, for autocomplete
CHOICE_NAME_LIMIT = 100  # characters


def model_choices(catalog: ModelCatalog, typed: str) -> list[app_commands.Choice[str]]:
    """The models that fit what was typed, the best first."""
    return [
        app_commands.Choice(name=f"{spec.alias} · {spec.description}"[:CHOICE_NAME_LIMIT], value=spec.alias)
        for spec in catalog.search(typed, limit=CHOICES_LIMIT)
    ]
