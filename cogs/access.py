"""`/access`: moderators say who may ask in their server, and how much."""

from __future__ import annotations

import discord
from discord import app_commands
from discord.ext import commands

from bot.client import PunchlineBot
from bot.errors import UsageError
from bot.replies.choices import ModelOption
from bot.replies.places import require
from bot.services import Services
from bot.storage.access import Quota, Subject, SubjectKind

_Model = app_commands.Transform[str, ModelOption()]
_Who = discord.User | discord.Member | discord.Role
_Place = app_commands.AppCommandChannel | app_commands.AppCommandThread
_About = tuple[_Who | None, _Place | None, bool]  # whom, or which channel, or whether all of them
_Amount = app_commands.Range[int, 0, 1_000_000_000_000]

_WHO, _CHANNEL = "A person or a role", "A channel, a category or a thread"
_EVERYWHERE = "All channels that have no rule of their own"
_MODEL = "Only for this model; for all, if you leave it out"


@app_commands.allowed_contexts(guilds=True, dms=False, private_channels=False)
@app_commands.allowed_installs(guilds=True, users=False)
@app_commands.default_permissions(manage_guild=True)
class Access(commands.GroupCog, name="access", description="Who may ask in this server, and how much"):
    """Rules and quotas of a server."""

    def __init__(self, *, services: Services) -> None:
        self._moderation = services.moderation

    @app_commands.command(description="Let somebody ask, or let people ask in a channel")
    @app_commands.describe(who=_WHO, channel=_CHANNEL, everywhere=_EVERYWHERE, model=_MODEL)
    async def allow(
        self,
        interaction: discord.Interaction,
        who: _Who | None = None,
        channel: _Place | None = None,
        everywhere: bool = False,
        model: _Model | None = None,
    ) -> None:
        """Allow."""
        await self._decide(interaction, (who, channel, everywhere), model, allowed=True)

    @app_commands.command(description="Keep somebody from asking, or people from asking in a channel")
    @app_commands.describe(who=_WHO, channel=_CHANNEL, everywhere=_EVERYWHERE, model=_MODEL)
    async def deny(
        self,
        interaction: discord.Interaction,
        who: _Who | None = None,
        channel: _Place | None = None,
        everywhere: bool = False,
        model: _Model | None = None,
    ) -> None:
        """Deny."""
        await self._decide(interaction, (who, channel, everywhere), model, allowed=False)

    @app_commands.command(description="Forget a rule, or everything that was decided here")
    @app_commands.describe(
        who=_WHO, channel=_CHANNEL, everywhere=_EVERYWHERE, model=_MODEL, all_of_it="All rules and quotas"
    )
    @app_commands.rename(all_of_it="all")
    async def clear(
        self,
        interaction: discord.Interaction,
        who: _Who | None = None,
        channel: _Place | None = None,
        everywhere: bool = False,
        model: _Model | None = None,
        all_of_it: bool = False,
    ) -> None:
        """Forget rules."""
        server_id = await _server(interaction)
        if all_of_it:
            await _say(interaction, await self._moderation.clear_all(server_id))
            return
        subject = _subject(server_id, who, channel, everywhere)
        await _say(interaction, await self._moderation.clear(server_id, subject, model))

    @app_commands.command(description="Show who may ask here, how much, and what was used")
    async def show(self, interaction: discord.Interaction) -> None:
        """Show what holds."""
        embed = discord.Embed(
            title="Access", description=await self._moderation.text(await _server(interaction))
        )
        nobody = discord.AllowedMentions.none()
        await interaction.response.send_message(embed=embed, ephemeral=True, allowed_mentions=nobody)

    @app_commands.command(description="Say how much somebody may have here; without a number, forget it")
    @app_commands.describe(
        who="A person or a role, @everyone for each person; the whole server, if you leave it out",
        requests_per_minute="How often they may ask within a minute; 0 is no limit",
        tokens_per_day="Tokens within 24 hours; 0 is no limit",
        gpu_seconds_per_day="Seconds of answering within 24 hours; 0 is no limit",
    )
    async def quota(
        self,
        interaction: discord.Interaction,
        who: _Who | None = None,
        requests_per_minute: _Amount | None = None,
        tokens_per_day: _Amount | None = None,
        gpu_seconds_per_day: _Amount | None = None,
    ) -> None:
        """Set or forget a quota."""
        server_id = await _server(interaction)
        subject = _subject(server_id, who, None, who is None)
        quota = Quota(requests_per_minute, tokens_per_day, gpu_seconds_per_day)
        await _say(
            interaction, await self._moderation.allot(server_id, subject, quota, by=interaction.user.id)
        )

    @app_commands.command(description="Switch the bot off in this server, at once and for everybody")
    async def off(self, interaction: discord.Interaction) -> None:
        """The kill switch."""
        await self._switch(interaction, on=False)

    @app_commands.command(description="Switch the bot on again in this server")
    async def on(self, interaction: discord.Interaction) -> None:
        """Undo it."""
        await self._switch(interaction, on=True)

    async def _decide(
        self, interaction: discord.Interaction, about: _About, model: str | None, *, allowed: bool
    ) -> None:
        server_id = await _server(interaction)
        subject, by = _subject(server_id, *about), interaction.user.id
        await _say(
            interaction, await self._moderation.decide(server_id, subject, model, allowed=allowed, by=by)
        )

    async def _switch(self, interaction: discord.Interaction, *, on: bool) -> None:
        server_id = await _server(interaction)
        await _say(interaction, await self._moderation.switch(server_id, on=on, by=interaction.user.id))


async def _server(interaction: discord.Interaction) -> int:
    """The server, for somebody who may decide for it."""
    if interaction.guild_id is None:
        raise UsageError("That can be decided for a server only.")
    await require(interaction, "manage_guild")
    return interaction.guild_id


def _subject(server_id: int, who: _Who | None, channel: _Place | None, everywhere: bool) -> Subject:
    if (who is not None) + (channel is not None) + everywhere != 1:
        raise UsageError("Name one: `who`, `channel` or `everywhere`.")
    if who is not None:
        return Subject(SubjectKind.ROLE if isinstance(who, discord.Role) else SubjectKind.PERSON, who.id)
    return Subject(SubjectKind.PLACE, server_id if channel is None else channel.id)


async def _say(interaction: discord.Interaction, text: str) -> None:
    nobody = discord.AllowedMentions.none()
    await interaction.response.send_message(text, ephemeral=True, allowed_mentions=nobody)


async def setup(bot: PunchlineBot) -> None:
    """Called by discord.py when the extension is loaded."""
    await bot.add_cog(Access(services=bot.services))
