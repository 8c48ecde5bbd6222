"""Where a reply is shown: the messages of one interaction, a page each.

The only place that sends and edits answers. Nothing here ever pings: `AllowedMentions.none()` goes with every call,
because an edit sent without it is parsed for mentions again.
"""

from __future__ import annotations

import asyncio
import io
from typing import Any

import discord

CALL_TIMEOUT_S = 30.0  # discord.py waits out rate limits inside a call; past this the call is given up

_NOBODY = discord.AllowedMentions.none()


async def acknowledge(interaction: discord.Interaction[Any]) -> None:
    """Tell Discord within its 3 s that an answer is coming; people see "thinking…"."""
    if not interaction.response.is_done():
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await interaction.response.defer(thinking=True)


async def show_card(
    interaction: discord.Interaction[Any], embed: discord.Embed, picture: discord.File | None = None
) -> None:
    """Answer an acknowledged interaction with a card, and a picture above it.

    Where the bot may not attach files, the card comes alone and says so.

    Raises:
        discord.HTTPException: Discord refused.
        TimeoutError: it took longer than `CALL_TIMEOUT_S`.
    """
    async with asyncio.timeout(CALL_TIMEOUT_S):
        try:
            files = [] if picture is None else [picture]
            await interaction.edit_original_response(embed=embed, attachments=files, allowed_mentions=_NOBODY)
        except discord.Forbidden:
            if picture is None:
                raise
            embed.set_footer(text="There is a picture too, where the bot has the permission Attach Files.")
            await interaction.edit_original_response(embed=embed, allowed_mentions=_NOBODY)


class InteractionSurface:
    """The original response of an interaction and its follow-up messages."""

    def __init__(self, interaction: discord.Interaction[Any]) -> None:
        self._interaction = interaction
        self._followups: list[discord.WebhookMessage] = []

    @property
    def asker(self) -> discord.abc.User:
        """Who gave the command."""
        return self._interaction.user

    async def acknowledge(self) -> None:
        """See the function of this name."""
        await acknowledge(self._interaction)

    async def show(
        self, page: int, content: str, view: discord.ui.View | None, file: str | None = None
    ) -> None:
        """Show `content` as page number `page`; pages are begun in order, from 0. A new page may bring a file.

        Raises:
            discord.HTTPException: Discord refused.
            TimeoutError: it took longer than `CALL_TIMEOUT_S`.
        """
        async with asyncio.timeout(CALL_TIMEOUT_S):
            if page == 0:
                await self._interaction.edit_original_response(
                    content=content, view=view, allowed_mentions=_NOBODY
                )
            elif page <= len(self._followups):
                await self._followups[page - 1].edit(content=content, view=view, allowed_mentions=_NOBODY)
            else:
                buttons: Any = discord.utils.MISSING if view is None else view
                files = [] if file is None else [self._attached(file)]
                sent = await self._interaction.followup.send(
                    content, view=buttons, files=files, allowed_mentions=_NOBODY, wait=True
                )
                self._followups.append(sent)

    def _attached(self, text: str) -> discord.File:
        """The text as a file, as much of it as may be uploaded here."""
        data = text.encode()[: self._interaction.filesize_limit]
        return discord.File(io.BytesIO(data), "rest.md")
