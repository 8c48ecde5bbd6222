"""The buttons under the operators' panel; they work after a restart, and do nothing for others."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Self

import discord


class PanelPress(StrEnum):
    """What a press asks for."""

    QUEUE = "queue"
    DRAIN = "drain"
    RESUME = "resume"


_LOOKS: dict[PanelPress, tuple[str, str]] = {
    PanelPress.QUEUE: ("Queue", "📋"),
    PanelPress.DRAIN: ("Drain", "⏸️"),
    PanelPress.RESUME: ("Resume", "▶️"),
}


def panel_view(*, drained: bool) -> discord.ui.View:
    """The buttons for Discord."""
    view = discord.ui.View(timeout=None)
    view.add_item(PanelButton(PanelPress.QUEUE))
    view.add_item(PanelButton(PanelPress.RESUME if drained else PanelPress.DRAIN))
    return view


class PanelButton(
    discord.ui.DynamicItem[discord.ui.Button[Any]], template=rf"panel:(?P<press>{'|'.join(PanelPress)})"
):
    """A button under the panel."""

    def __init__(self, press: PanelPress) -> None:
        label, emoji = _LOOKS[press]
        super().__init__(discord.ui.Button(label=label, emoji=emoji, custom_id=f"panel:{press}"))
        self._press = press

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Called by discord.py for a press."""
        return cls(PanelPress(match["press"]))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Pass the press on."""
        await interaction.client.services.operations.pressed(interaction, self._press)
