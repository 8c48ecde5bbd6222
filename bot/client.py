"""The bot as Discord sees it: its intents, its extensions, and when its commands are registered."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import discord
from discord import app_commands
from discord.ext import commands

from bot import deadline, trace
from bot.discord_needs import INTENTS
from bot.errors import BotError, PlaceClosed, StorageError
from bot.interruptions import mark_interrupted
from bot.registration import Registration
from bot.replies.buttons import ModelSelect, ReplyButton
from bot.replies.explain import tell
from bot.replies.panel_buttons import PanelButton
from bot.replies.surface import TROUBLE
from bot.services import Services
from bot.translator import FileTranslator

log = logging.getLogger(__name__)

EXTENSIONS = (
    "cogs.jokes",
    "cogs.chat",
    "cogs.mentions",
    "cogs.models",
    "cogs.gpu",
    "cogs.access",
    "cogs.doctor",
    "cogs.operate",
)

_WHERE_OFF = frozenset({"access"})  # what is answered in a server where the bot is switched off
# Answered also when the database does not say whether it is: that is when operators need them.
_OF_OPERATORS = frozenset({"doctor", "drain", "resume", "queue", "reload", "panel"})

# discord.py's names of the tasks of commands and presses.
_HANDLERS = ("CommandTree-invoker", "discord-ui-dynamic-item-")
_HANDLERS_S = 3.0  # what they have to do without a model takes milliseconds


class PunchlineBot(commands.Bot):
    """The bot.

    Args:
        services: what the cogs need.
        data_dir: where it is kept which commands are registered.
        force_sync: register the commands whatever the fingerprint says.
        http_trace: told of each request to Discord, by aiohttp.
    """

    def __init__(
        self,
        *,
        services: Services,
        data_dir: Path,
        force_sync: bool = False,
        http_trace: aiohttp.TraceConfig | None = None,
    ) -> None:
        # It speaks by writing: no warnings that voice needs other packages.
        discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False
        super().__init__(
            command_prefix=commands.when_mentioned,
            help_command=None,
            intents=INTENTS,
            max_messages=None,  # what people write is not kept in memory
            allowed_mentions=discord.AllowedMentions.none(),
            # Added to a server or to one's own apps, and usable wherever people write.
            allowed_installs=app_commands.AppInstallationType(guild=True, user=True),
            allowed_contexts=app_commands.AppCommandContext(
                guild=True, dm_channel=True, private_channel=True
            ),
            tree_cls=_Tree,
            http_trace=http_trace or aiohttp.TraceConfig(),
        )
        self.services = services
        self._registration = Registration(data_dir, force=force_sync)
        self._marking: asyncio.Task[None] | None = None

    async def setup_hook(self) -> None:
        """Load the cogs, and register the commands if they changed."""
        self.services.operators.learn(self.application)
        self.add_dynamic_items(ReplyButton, ModelSelect, PanelButton)
        for extension in EXTENSIONS:
            await self.load_extension(extension)
        translator = FileTranslator(self.tree)
        await self.tree.set_translator(translator)
        await self._registration.register_if_changed(self.tree, translator, self.application_id or 0)
        # Read before the first command can come, so that none of this start's own replies is among them.
        left = await self.services.archive.unfinished()
        self._marking = asyncio.create_task(mark_interrupted(self, self.services.archive, left))
        await self.services.operations.panel.begin(self)

    async def close(self) -> None:
        """Leave Discord. What people have just asked for is done first, and they are told."""
        if self._marking is not None:
            self._marking.cancel()
        await self.services.operations.panel.end()
        at_work = [task for task in asyncio.all_tasks() if task.get_name().startswith(_HANDLERS)]
        if at_work:
            await asyncio.wait(at_work, timeout=_HANDLERS_S)
        await super().close()

    async def on_message(self, message: discord.Message, /) -> None:
        """Commands come as interactions, so none are looked for in messages; `cogs.mentions` listens for questions."""

    async def on_ready(self) -> None:
        """Say in the log that people can use it."""
        log.info("ready as %s in %d server(s)", self.user, len(self.guilds))


class _Tree(app_commands.CommandTree[PunchlineBot]):
    async def interaction_check(self, interaction: discord.Interaction[Any], /) -> bool:
        """Called by discord.py before each command, in its task."""
        command = "unknown" if interaction.command is None else interaction.command.qualified_name
        given: Any = interaction.data or {}
        trace.begin(command, trace.words_in(given.get("options")))
        deadline.begin()
        return await self._is_on(interaction, str(given.get("name")))

    async def _is_on(self, interaction: discord.Interaction[Any], command: str) -> bool:
        """Whether the bot is to answer a command here; where moderators have switched it off, only `/access` is."""
        if command in _WHERE_OFF:
            return True
        try:
            await self.client.services.gate.require_on(interaction.guild_id)
        except StorageError as error:
            if command in _OF_OPERATORS:
                return True
            refused: BotError = error
        except PlaceClosed as error:
            refused = error
        else:
            return True
        if interaction.type is discord.InteractionType.autocomplete:
            with suppress(*TROUBLE):
                await interaction.response.autocomplete([])
            return False
        self.client.services.observer.failed(refused)
        await tell(interaction, refused)
        return False

    async def on_error(
        self, interaction: discord.Interaction[Any], error: app_commands.AppCommandError, /
    ) -> None:
        """Say in a sentence what went wrong."""
        cause = (error.__cause__ if isinstance(error, app_commands.CommandInvokeError) else None) or error
        self.client.services.observer.failed(cause)
        await tell(interaction, cause)
