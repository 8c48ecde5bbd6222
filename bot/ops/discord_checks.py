"""What only Discord knows: whether the token is valid, what the application may do, what the bot may do in a server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import aiohttp
import discord

from bot.discord_needs import INTENTS, PERMISSIONS
from bot.errors import BotError, SettingsError
from bot.ops.checks import Check, NotChecked, Once
from bot.ops.clock import Clock
from bot.ops.findings import Verdict
from bot.settings import TOKEN_PAGE, Settings

_NEEDED = ("view_channel", "send_messages")  # without these it answers no mention
_PRIVILEGED = ("presences", "members", "message_content")
_FLAGS = {"presences": "gateway_presence", "members": "gateway_guild_members"}
_FLAGS |= {"message_content": "gateway_message_content"}
_LATE = "check the network, and that a firewall lets discord.com:443 through"
_CHANNELS_NAMED = 5

_Result = TypeVar("_Result")


class DiscordChecks:
    """The checks that ask Discord.

    Args:
        client: logged in once `log_in` has returned; it need not be connected to the gateway.
        log_in: says whose application it is.
        intents: what the bot asks for.
    """

    def __init__(
        self,
        client: discord.Client,
        log_in: Callable[[], Awaitable[discord.AppInfo]],
        intents: discord.Intents = INTENTS,
    ) -> None:
        self._client = client
        self._intents = intents

        async def application() -> discord.AppInfo:
            return await log_in()

        self.application = Once(application)

    def checks(self, server_id: int | None) -> list[Check]:
        """The checks, that of a server only where one is named."""
        looks: list[tuple[str, str, Callable[[], Awaitable[Any]]]] = [
            ("token", "token", self._token),
            ("intents", "intents", self._checked_intents),
            ("invite", "invite", self._invite),
        ]
        if server_id is not None:
            looks.append(("server", "server", lambda: self._server(server_id)))
        return [Check(name, subject, look, asks="Discord", if_late=_LATE) for name, subject, look in looks]

    async def _token(self) -> tuple[Verdict, str]:
        try:
            application = await _explained(self.application())
        except SettingsError as error:  # there is none
            return Verdict.WARNING, f"{error} (`make demo` needs none.)"
        return Verdict.OK, f"valid: {self._client.user} of the application {application.id}"

    async def _checked_intents(self) -> tuple[Verdict, str]:
        application = await self._after_login()
        wanted = [name for name in _PRIVILEGED if getattr(self._intents, name)]
        granted = [name for name in _PRIVILEGED if _granted(application.flags, name)]
        page = f"{TOKEN_PAGE}/{application.id}/bot"
        if missing := [_words(name) for name in wanted if name not in granted]:
            text = (
                f"not granted: {', '.join(missing)}: switch it on under Privileged Gateway Intents on {page}"
            )
            return Verdict.FAILED, text
        text = "those the bot asks for are granted" if wanted else "the bot asks for no privileged one"
        if spare := [_words(name) for name in granted if name not in wanted]:
            text += f"; granted and not needed: {', '.join(spare)}; you may switch it off on {page}"
        return Verdict.OK, text

    async def _invite(self) -> tuple[Verdict, str]:
        application = await self._after_login()
        link = invite_link(application.id)
        if not application.bot_public:
            return Verdict.OK, f"only you can add the bot, because it is not public: {link}"
        return Verdict.OK, link

    async def _server(self, server_id: int) -> tuple[Verdict, str]:
        application = await self._after_login()
        link = invite_link(application.id, server_id)
        try:
            server = await self._client.fetch_guild(server_id, with_counts=False)
            me = await server.fetch_member(self._client.user.id if self._client.user else application.id)
            channels = [one for one in await server.fetch_channels() if isinstance(one, discord.TextChannel)]
        except (discord.NotFound, discord.Forbidden):
            return Verdict.FAILED, f"the bot is not in the server {server_id}: add it with {link}"
        except discord.HTTPException as error:
            raise BotError(f"Discord answered {error.status}: try again later") from None
        if missing := _missing(me.guild_permissions):
            fatal = any(name in missing for name in _NEEDED)
            words = ", ".join(_words(name) for name in missing)
            text = f"the bot has no {words} in the server {server_id}: add it again with {link}, or give its role that"
            return Verdict.FAILED if fatal else Verdict.WARNING, text
        closed = [one for one in channels if not one.permissions_for(me).is_superset(_SPEAKING)]
        text = f"everything is allowed in the server {server_id}"
        if closed:
            named = ", ".join(str(one.id) for one in closed[:_CHANNELS_NAMED])
            more = " and others" if len(closed) > _CHANNELS_NAMED else ""
            text += f", but it may not write in {len(closed)} of {len(channels)} text channels: {named}{more}"
        return Verdict.OK, text

    async def _after_login(self) -> discord.AppInfo:
        try:
            return await self.application()
        except Exception:
            raise NotChecked("the bot could not log in, see token") from None


_SPEAKING = discord.Permissions(view_channel=True, send_messages=True)


@asynccontextmanager
async def logged_in_checks(settings: Settings, clock: Clock) -> AsyncIterator[DiscordChecks]:
    """The checks for a bot that does not run: they log in as it would, with discord.py, and not to the gateway."""
    client = discord.Client(intents=INTENTS, max_messages=None, http_trace=_dates_noted(clock))

    async def log_in() -> discord.AppInfo:
        await client.login(settings.required_token())
        application = client.application
        assert application is not None  # noqa: S101  the login has asked for it
        return application

    checks = DiscordChecks(client, log_in)
    try:
        yield checks
    finally:
        await checks.application.aclose()
        await client.close()


def invite_link(application_id: int, server_id: int | None = None) -> str:
    """Where somebody who may manage a server adds the bot to it, one that is chosen already if it is named."""
    return discord.utils.oauth_url(
        application_id,
        permissions=PERMISSIONS,
        guild=discord.utils.MISSING if server_id is None else discord.Object(server_id),
        scopes=("bot", "applications.commands"),
    )


async def _explained(asked: Awaitable[_Result]) -> _Result:
    """Turn what a login raises into sentences.

    Raises:
        BotError: it did not work.
    """
    try:
        return await asked
    except discord.LoginFailure:
        raise BotError(
            f"DISCORD_TOKEN was refused by Discord: reset it on the application's Bot page, {TOKEN_PAGE}, and write "
            "the new one into .env"
        ) from None
    except discord.HTTPException as error:
        raise BotError(f"Discord answered {error.status}: look at https://discordstatus.com") from None
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise BotError(f"Discord cannot be reached ({type(error).__name__}): {_LATE}") from None


def _dates_noted(clock: Clock) -> aiohttp.TraceConfig:
    async def begun(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
        context.began_s = time.time()

    async def ended(
        _: aiohttp.ClientSession, context: SimpleNamespace, end: aiohttp.TraceRequestEndParams
    ) -> None:
        clock.note("Discord", end.response.headers.get("Date"), context.began_s)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(begun)
    trace.on_request_end.append(ended)
    return trace


def _granted(flags: discord.ApplicationFlags, intent: str) -> bool:
    """Whether an application has it: up to a size it is a switch (limited), after that Discord's permission."""
    return bool(getattr(flags, _FLAGS[intent]) or getattr(flags, f"{_FLAGS[intent]}_limited"))


def _missing(permissions: discord.Permissions) -> list[str]:
    return [name for name, wanted in PERMISSIONS if wanted and not getattr(permissions, name)]


def _words(name: str) -> str:
    return name.replace("_", " ").title()
