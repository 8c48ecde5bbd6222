"""The buttons under a reply. They carry its id, so they work after a restart; what they do is somewhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Self

import discord

from bot.inference.catalog import ModelSpec
from bot.inference.engine import Finished, FinishReason
from bot.replies.limits import OPTION_LIMIT, one_line, shortened

OPTIONS_LIMIT = 25  # Discord's, for a select


class Press(StrEnum):
    """What a press asks for."""

    STOP = "stop"
    AGAIN = "again"
    OTHER = "other"
    GO_ON = "go_on"
    THOUGHTS = "thoughts"
    DETAILS = "details"
    RETRY = "retry"


_LOOKS: dict[Press, tuple[str, str]] = {
    Press.STOP: ("Stop", "⏹️"),
    Press.AGAIN: ("Regenerate", "🔁"),
    Press.OTHER: ("Another model", "🔀"),
    Press.GO_ON: ("Continue", "▶️"),
    Press.THOUGHTS: ("Thinking", "💭"),
    Press.DETAILS: ("Details", "ℹ️"),
    Press.RETRY: ("Retry", "🔁"),
}

Buttons = tuple[Press, ...]


def buttons_meanwhile() -> Buttons:
    """What is under a reply that waits or grows."""
    return (Press.STOP,)


def buttons_at_end(finished: Finished, *, thought: bool) -> Buttons:
    """What is under a reply that ended so."""
    again = Press.RETRY if finished.reason is FinishReason.ERROR else Press.AGAIN
    cut = (Press.GO_ON,) if finished.reason is FinishReason.LENGTH else ()
    return (again, Press.OTHER, *cut, *((Press.THOUGHTS,) if thought else ()), Press.DETAILS)


def view_of(buttons: Buttons, reply_id: str) -> discord.ui.View | None:
    """The buttons for Discord."""
    if not buttons:
        return None
    view = discord.ui.View(timeout=None)
    for press in buttons:
        view.add_item(ReplyButton(press, reply_id))
    return view


def model_view(specs: Iterable[ModelSpec], reply_id: str) -> discord.ui.View:
    """A list of models to choose from, as many as Discord shows."""
    view = discord.ui.View(timeout=None)
    view.add_item(ModelSelect(reply_id, list(specs)[:OPTIONS_LIMIT]))
    return view


class ReplyButton(
    discord.ui.DynamicItem[discord.ui.Button[Any]],
    template=rf"reply:(?P<press>{'|'.join(Press)}):(?P<reply>[0-9a-f]+)",
):
    """A button under a reply; discord.py makes it anew for each press from what its id says."""

    def __init__(self, press: Press, reply_id: str) -> None:
        label, emoji = _LOOKS[press]
        super().__init__(
            discord.ui.Button(
                label=label,
                emoji=emoji,
                style=discord.ButtonStyle.secondary,
                custom_id=f"reply:{press}:{reply_id}",
            )
        )
        self._press = press
        self._reply_id = reply_id

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Called by discord.py for a press."""
        return cls(Press(match["press"]), match["reply"])

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Pass the press on."""
        await interaction.client.services.presses.pressed(interaction, self._press, self._reply_id)


class ModelSelect(
    discord.ui.DynamicItem[discord.ui.Select[Any]], template=r"reply:model:(?P<reply>[0-9a-f]+)"
):
    """The list behind "Another model"."""

    def __init__(self, reply_id: str, specs: Iterable[ModelSpec] = ()) -> None:
        options = [
            discord.SelectOption(
                label=spec.alias,
                value=spec.alias,
                description=shortened(one_line(spec.description), OPTION_LIMIT) or None,
            )
            for spec in specs
        ]
        super().__init__(
            discord.ui.Select(
                placeholder="Which model is to answer?", custom_id=f"reply:model:{reply_id}", options=options
            )
        )
        self._reply_id = reply_id

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Called by discord.py for a choice."""
        return cls(match["reply"])

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Pass the choice on."""
        await interaction.client.services.presses.chosen(interaction, self._reply_id, self.item.values[0])
