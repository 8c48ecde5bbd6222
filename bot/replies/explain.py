"""The one place where an error becomes a sentence for the person who met it."""

from __future__ import annotations

import logging
import secrets
from typing import Any

import aiohttp
import discord
from discord import app_commands

from bot.errors import BotError, Unexpected
from bot.replies.limits import safe
from bot.replies.pages import MESSAGE_LIMIT
from bot.replies.refusal import blocks_words, why_refused
from bot.replies.surface import TROUBLE, ChannelSurface, was_told_already

log = logging.getLogger(__name__)


async def tell(interaction: discord.Interaction[Any], error: BaseException) -> None:
    """Say in a sentence what went wrong; only to the person who asked, if nobody else has seen anything."""
    sentence = explained(error)
    if sentence is None:
        return
    sentence = safe(sentence, MESSAGE_LIMIT)
    nobody = discord.AllowedMentions.none()
    try:
        if interaction.response.is_done():
            await interaction.edit_original_response(content=sentence, view=None, allowed_mentions=nobody)
        else:
            await interaction.response.send_message(sentence, ephemeral=True, allowed_mentions=nobody)
    except TROUBLE as failed:
        log.warning("could not tell a person what went wrong (%s)", type(failed).__name__)


async def tell_in_channel(surface: ChannelSurface, error: BaseException) -> None:
    """Say in a sentence what went wrong with a question that was a message: there only everybody can be told."""
    if (sentence := explained(error)) is None:
        return
    try:
        await surface.show(0, safe(sentence, MESSAGE_LIMIT), None)
    except TROUBLE as failed:
        log.warning("could not tell a person what went wrong (%s)", type(failed).__name__)


def explained(error: BaseException) -> str | None:
    """The sentence for a person, or None where nobody is left to read it. Bugs go to the log with a number."""
    if isinstance(error, BotError):
        if error.is_more_for_operators:
            log.warning("%s: %s", type(error).__name__, error)
        return error.for_people
    if isinstance(error, discord.NotFound):
        log.info("there was no answering any more (%s %s)", error.status, error.code)
        return None
    if isinstance(error, discord.Forbidden):
        log.info("Discord did not let the bot answer (%s %s)", error.status, error.code)
        return (
            f"Discord did not take my answer: {why_refused(error)}. Ask a manager of this server to allow it."
        )
    if isinstance(error, discord.HTTPException) and blocks_words(error):
        log.info("Discord did not take an answer (%s %s)", error.status, error.code)
        return f"Discord did not take my answer: {why_refused(error)}."
    if was_told_already(error):
        log.info("Discord had the answer already (%s)", error)
        return None
    if isinstance(error, app_commands.CommandNotFound):
        return "This command has changed. Please type it again."
    if isinstance(error, app_commands.CheckFailure):
        return "You may not use this command here."
    if isinstance(error, discord.DiscordServerError | aiohttp.ClientError):
        log.warning("Discord did not take an answer (%s)", type(error).__name__)
        return (
            "Discord was out of order while I answered. See whether it was done, and try again if it was not."
        )
    reference = secrets.token_hex(6)
    log.error("%s: a command failed", reference, exc_info=error)
    return str(Unexpected("with that command", reference))
