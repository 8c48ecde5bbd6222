"""The buttons under a reply."""

from __future__ import annotations

from typing import Any

import discord

from bot.inference.generation import Generation


class StopView(discord.ui.View):
    """A Stop button for the person who asked; it works while they wait and while the model talks."""

    def __init__(self, generation: Generation, asker: discord.abc.User) -> None:
        super().__init__(timeout=None)  # it lives as long as the generation: LiveReply stops it
        self._generation = generation
        self._asker = asker

    async def interaction_check(self, interaction: discord.Interaction[Any], /) -> bool:
        """Tell anybody else, and nobody but them, that it is not theirs to stop."""
        if interaction.user.id == self._asker.id:
            return True
        await interaction.response.send_message(
            "Only the person who asked can stop this answer.",
            ephemeral=True,
            allowed_mentions=discord.AllowedMentions.none(),
        )
        return False

    @discord.ui.button(label="Stop", style=discord.ButtonStyle.secondary, emoji="⏹️")
    async def stop_button(self, interaction: discord.Interaction[Any], _: discord.ui.Button[Any]) -> None:
        """Stop the model; the reply itself then says that it was stopped."""
        self._generation.cancel()
        await interaction.response.defer()
