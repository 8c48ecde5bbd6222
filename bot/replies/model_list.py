"""What `/model` shows: who answers here and why, and the list of models, page by page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import discord

from bot import deadline
from bot.chooser import Level, Standing
from bot.inference.catalog import ModelSpec
from bot.replies.explain import tell
from bot.replies.limits import one_line, packed, safe
from bot.replies.pages import MESSAGE_LIMIT
from bot.replies.surface import TROUBLE

PAGE_ENTRIES = 10
LIST_TIMEOUT_S = 300.0
_PLACE_LIMIT = 100
_DESCRIPTION_LIMIT = 1_500
_FOOT_ROOM = 40  # for "-# page 12 of 34"

_NOBODY = discord.AllowedMentions.none()
_LEVELS = {
    Level.THREAD: "this thread",
    Level.CHANNEL: "this channel",
    Level.SERVER: "this server",
    Level.BOT: "the bot's default",
}


def standing_text(standing: Standing) -> str:
    """Who answers here, and what each level says."""
    lines = [f"**{standing.spec.alias}** answers here: {standing.spec.description}"]
    offered = {spec.alias for spec in standing.offered}
    for level, alias in standing.levels:
        note = f"`{alias}`" if alias else "nothing chosen"
        if alias and alias not in offered:
            note += ", which is not offered any more and is passed over"
        mark = "▸" if level is standing.level and alias == standing.spec.alias else "·"
        lines.append(f"{mark} {_LEVELS[level]}: {note}")
    return "\n".join(lines)


def list_pages(offered: Sequence[ModelSpec], current: str) -> list[str]:
    """The models on offer, some on each page."""
    entries = [
        f"{'▸' if spec.alias == current else '·'} **{spec.alias}** · "
        f"{safe(one_line(spec.description), _DESCRIPTION_LIMIT)}\n-# {safe(one_line(spec.shown_place), _PLACE_LIMIT)}"
        for spec in offered
    ]
    pages = packed(entries, most=PAGE_ENTRIES, limit=MESSAGE_LIMIT - _FOOT_ROOM)
    return [
        safe(
            "\n".join([*page, *([f"-# page {number} of {len(pages)}"] if len(pages) > 1 else [])]),
            MESSAGE_LIMIT,
        )
        for number, page in enumerate(pages, start=1)
    ]


class PagesView(discord.ui.View):
    """Two buttons that turn the pages of a message that only the asker sees.

    Args:
        interaction: the command.
        pages: what the message says, page by page.
        require: raises `NotAllowed` for a person who may not read on; asked at each press.
    """

    def __init__(
        self,
        interaction: discord.Interaction[Any],
        pages: Sequence[str],
        require: Callable[[discord.abc.User], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(timeout=LIST_TIMEOUT_S)
        self._require = require
        self._asked = interaction
        self._pages = pages
        self._at = 0
        self._mark()

    async def interaction_check(self, interaction: discord.Interaction[Any], /) -> bool:
        """Called by discord.py before each press.

        Raises:
            NotAllowed: the person may not read on, or the bot was switched off there meanwhile.
        """
        deadline.begin()
        await interaction.client.services.gate.require_on(interaction.guild_id)
        if self._require is not None:
            await self._require(interaction.user)
        return True

    async def on_error(
        self, interaction: discord.Interaction[Any], error: Exception, item: discord.ui.Item[Any], /
    ) -> None:
        """Say in a sentence what went wrong."""
        await tell(interaction, error)

    async def on_timeout(self) -> None:
        """Take the buttons away: they do nothing any more."""
        with suppress(*TROUBLE):  # the person may have dismissed the message
            await self._asked.edit_original_response(view=None, allowed_mentions=_NOBODY)

    @discord.ui.button(label="Back", emoji="◀️")
    async def back_button(self, interaction: discord.Interaction[Any], _: discord.ui.Button[Any]) -> None:
        """The page before."""
        await self._turn(interaction, -1)

    @discord.ui.button(label="Next", emoji="▶️")
    async def next_button(self, interaction: discord.Interaction[Any], _: discord.ui.Button[Any]) -> None:
        """The page after."""
        await self._turn(interaction, 1)

    async def _turn(self, interaction: discord.Interaction[Any], by: int) -> None:
        self._at = max(0, min(self._at + by, len(self._pages) - 1))
        self._mark()
        await interaction.response.edit_message(
            content=self._pages[self._at], view=self, allowed_mentions=_NOBODY
        )

    def _mark(self) -> None:
        self.back_button.disabled = self._at == 0
        self.next_button.disabled = self._at == len(self._pages) - 1


async def show_list(interaction: discord.Interaction[Any], standing: Standing) -> None:
    """Show the models on offer to the asker alone."""
    pages = list_pages(standing.offered, standing.spec.alias)
    if len(pages) == 1:
        await interaction.response.send_message(pages[0], ephemeral=True, allowed_mentions=_NOBODY)
        return
    view = PagesView(interaction, pages)
    await interaction.response.send_message(pages[0], view=view, ephemeral=True, allowed_mentions=_NOBODY)
