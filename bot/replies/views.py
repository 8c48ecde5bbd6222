"""The buttons under a reply."""

from __future__ import annotations

from typing import Any

import discord

from bot.inference.generation import Generation

_NAME_LIMIT = 60  # the line under an answer has little room


class StopView(discord.ui.View):
    """A Stop button for the person who asked and for moderators; it works while they wait and while the model talks.

    Attributes:
        stopped_by: the name of who pressed it, as it may be shown.
    """

    def __init__(self, generation: Generation, asker: discord.abc.User) -> None:
        super().__init__(timeout=None)  # it lives as long as the generation: LiveReply stops it
        self._generation = generation
        self._asker = asker
        self.stopped_by: str | None = None

    async def interaction_check(self, interaction: discord.Interaction[Any], /) -> bool:
        """Tell anybody else, and nobody but them, that it is not theirs to stop."""
        if interaction.user.id == self._asker.id or interaction.permissions.manage_messages:
            return True
        await interaction.response.send_message(
            "Only the person who asked, or somebody who may manage messages here, can stop this answer.",
            ephemeral=True,
            allowed_mentions=discord.AllowedMentions.none(),
        )
        return False

    @discord.ui.button(label="Stop", style=discord.ButtonStyle.secondary, emoji="⏹️")
    async def stop_button(self, interaction: discord.Interaction[Any], _: discord.ui.Button[Any]) -> None:
        """Stop the model; the reply itself then says who stopped it."""
        if self._generation.finished is None:
            self.stopped_by = discord.utils.escape_markdown(interaction.user.display_name)[:_NAME_LIMIT]
            self._generation.cancel()
        await interaction.response.defer()
