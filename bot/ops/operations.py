"""What operators do from Discord. Whoever is none hears that; nobody else sees the answers."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import discord

from bot import deadline, trace
from bot.access.gate import Gate
from bot.answers import Answers
from bot.errors import BotError, StorageError
from bot.inference.observer import UNOBSERVED, Observer
from bot.inference.queue import InferenceQueue
from bot.operators import Operators
from bot.ops.panel import Panel
from bot.ops.queue_list import QueueView
from bot.ops.reload import Reload
from bot.ops.supervision import Supervision
from bot.replies.explain import tell
from bot.replies.limits import safe
from bot.replies.pages import MESSAGE_LIMIT
from bot.replies.panel_buttons import PanelPress

log = logging.getLogger(__name__)

_NOBODY = discord.AllowedMentions.none()

_Interaction = discord.Interaction[Any]


class Operations:
    """Does what operators say.

    Args:
        operators: who they are.
        gate: whom it lets in.
        answers: those that are under way.
        queue: where they are.
        reload: reads the settings once more.
        panel: the message that is kept current.
        observer: hears what went wrong with a press.

    Attributes:
        reload, panel: the same.
    """

    def __init__(
        self,
        operators: Operators,
        gate: Gate,
        answers: Answers,
        queue: InferenceQueue,
        reload: Reload,
        panel: Panel,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.reload = reload
        self.panel = panel
        self._operators = operators
        self._gate = gate
        self._answers = answers
        self._queue = queue
        self._observer = observer

    async def drain(self, interaction: _Interaction, reason: str = "") -> None:
        """Let nobody new in.

        Raises:
            NotAllowed: the person is no operator.
        """
        await self._operators.require(interaction.user)
        self._gate.drain(reason)
        self.panel.refresh()
        await _say(
            interaction,
            f"Nobody new is let in. {self._queue.running} running and {self._queue.waiting} waiting are served. "
            "`/resume` lets people in again, and so does a restart.",
        )

    async def resume(self, interaction: _Interaction) -> None:
        """Let people in again.

        Raises:
            NotAllowed: the person is no operator.
        """
        await self._operators.require(interaction.user)
        said = "People are let in again." if self._gate.drained else "People were let in already."
        self._gate.resume()
        self.panel.refresh()
        await _say(interaction, said)

    async def show_queue(self, interaction: _Interaction) -> None:
        """Show who is answered and who waits.

        Raises:
            NotAllowed: the person is no operator.
        """
        await self._operators.require(interaction.user)
        view = QueueView(interaction, self._answers, self._queue, self._operators)
        await interaction.response.send_message(
            view.look(), view=view, ephemeral=True, allowed_mentions=_NOBODY
        )

    async def read_again(self, interaction: _Interaction) -> None:
        """Reload the settings and the catalogue.

        Raises:
            NotAllowed: the person is no operator.
            SettingsError: they are faulty; nothing has changed.
            CatalogError: the same of the catalogue.
        """
        await self._operators.require(interaction.user)
        await interaction.response.defer(ephemeral=True, thinking=True)
        said = safe(await self.reload(), MESSAGE_LIMIT)  # all of it is in the log too
        await interaction.edit_original_response(content=said, allowed_mentions=_NOBODY)

    async def show_panel(self, interaction: _Interaction) -> None:
        """Put the panel here.

        Raises:
            NotAllowed: the person is no operator.
            UsageError: it cannot be kept current here.
            StorageError: the database does not take it.
        """
        await self._operators.require(interaction.user)
        await self.panel.put(interaction, drained=self._gate.drained)

    async def pressed(self, interaction: _Interaction, press: PanelPress) -> None:
        """Do what a button under the panel says. Whatever goes wrong is a sentence for who pressed."""
        trace.begin(f"panel {press}")
        deadline.begin()
        does = {
            PanelPress.QUEUE: self.show_queue,
            PanelPress.DRAIN: self.drain,
            PanelPress.RESUME: self.resume,
        }
        try:
            with suppress(StorageError):  # operators are needed most when the database does not answer
                await self._gate.require_on(interaction.guild_id)
            await does[press](interaction)
        except Exception as error:  # the last one who can tell the person
            self._observer.failed(error)
            await tell(interaction, error)


async def _say(interaction: _Interaction, text: str) -> None:
    await interaction.response.send_message(text, ephemeral=True, allowed_mentions=_NOBODY)


async def reload_when(asked: asyncio.Event, operations: Operations, supervision: Supervision) -> None:
    """Reload each time that the event is set, for a signal; a fault goes to the log, and nothing has changed."""
    while True:
        await asked.wait()
        asked.clear()
        with supervision.reloading():
            try:
                await operations.reload()
            except BotError as error:
                log.error("nothing was reloaded: %s", error)
            except Exception:
                log.exception("nothing was reloaded")
