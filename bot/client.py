"""The bot as Discord sees it: its intents, its extensions, when its commands are registered, and the one
place where an error becomes a reply.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from pathlib import Path
from typing import Any

import discord
from discord import app_commands
from discord.ext import commands

from bot.errors import BotError, Unexpected
from bot.services import Services

log = logging.getLogger(__name__)

EXTENSIONS = ("cogs.jokes", "cogs.chat", "cogs.models", "cogs.gpu")


class PunchlineBot(commands.Bot):
    """The bot.

    Args:
        services: what the cogs need.
        data_dir: where the fingerprint of the registered commands is kept.
        force_sync: register the commands whatever the fingerprint says.
    """

    def __init__(self, *, services: Services, data_dir: Path, force_sync: bool = False) -> None:
        # It speaks by writing: no warnings that voice needs other packages.
        discord.VoiceClient.warn_nacl = discord.VoiceClient.warn_dave = False
        super().__init__(
            command_prefix=commands.when_mentioned,
            help_command=None,
            # Slash commands need no privileged intent; guilds keeps the channel cache filled.
            intents=discord.Intents(guilds=True),
            allowed_mentions=discord.AllowedMentions.none(),
            tree_cls=_Tree,
        )
        self.services = services
        self._data_dir = data_dir
        self._force_sync = force_sync

    async def setup_hook(self) -> None:
        """Load the cogs, and register the commands if they changed."""
        for extension in EXTENSIONS:
            await self.load_extension(extension)
        await self._sync_if_changed()

    async def on_ready(self) -> None:
        """Say in the log that people can use it."""
        log.info("ready as %s in %d server(s)", self.user, len(self.guilds))

    async def _sync_if_changed(self) -> None:
        """Registering is rationed by Discord: do it when the commands differ from the last time."""
        payload = [command.to_dict(self.tree) for command in self.tree.get_commands()]
        told = json.dumps([self.application_id, payload], sort_keys=True, default=str)
        fingerprint = hashlib.sha256(told.encode()).hexdigest()
        file = self._data_dir / "commands.sha256"
        if not self._force_sync and _read(file) == fingerprint:
            log.info("commands are registered already")
            return
        try:
            registered = await self.tree.sync()
        except discord.HTTPException as error:
            log.error(
                "commands could not be registered (%s): the old ones stay until the next start", error.status
            )
            return
        log.info("registered %d commands", len(registered))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(fingerprint, encoding="ascii")
        except OSError as error:
            log.warning(
                "cannot write %s (%s): commands will be registered again at the next start",
                file,
                error.strerror,
            )


class _Tree(app_commands.CommandTree[PunchlineBot]):
    async def on_error(
        self, interaction: discord.Interaction[Any], error: app_commands.AppCommandError, /
    ) -> None:
        """Say in a sentence what went wrong, to the person who asked only if nobody else has seen anything."""
        cause = error.__cause__ if isinstance(error, app_commands.CommandInvokeError) else error
        sentence = _explained(cause or error)
        if sentence is None:
            return
        nobody = discord.AllowedMentions.none()
        try:
            if interaction.response.is_done():
                await interaction.edit_original_response(content=sentence, view=None, allowed_mentions=nobody)
            else:
                await interaction.response.send_message(sentence, ephemeral=True, allowed_mentions=nobody)
        except discord.HTTPException as failed:
            log.warning("could not tell a person what went wrong (%s)", failed.status)


def _explained(error: BaseException) -> str | None:
    """The sentence for a person, or None where nobody is left to read it. Bugs go to the log with a number."""
    if isinstance(error, BotError):
        return str(error)
    if isinstance(error, discord.NotFound):
        log.info("an interaction was gone before it could be answered (%s)", error.code)
        return None
    if isinstance(error, app_commands.CommandNotFound):
        return "This command has changed. Please type it again."
    if isinstance(error, app_commands.CheckFailure):
        return "You may not use this command here."
    reference = secrets.token_hex(4)
    log.error("%s: a command failed", reference, exc_info=error)
    return str(Unexpected("with that command", reference))


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
