"""How things are between the bot and Discord: its gateway, and what becomes of the requests that discord.py makes.

discord.py waits out rate limits and tries again by itself, and says nothing to whoever called. aiohttp's own tracing,
which discord.py takes in its constructor, sees each single request below that, refused ones too.
"""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import aiohttp
import discord
from discord.ext import commands

from bot.ops.metrics import Metrics

_KINDS = (
    ("acknowledge", re.compile(r"POST .*/interactions/[^/]+/[^/]+/callback$")),
    ("edit", re.compile(r"PATCH .*/messages/[^/]+$")),
    ("send", re.compile(r"POST .*/(channels/\d+/messages|webhooks/\d+/[^/]+)$")),
    ("typing", re.compile(r"POST .*/typing$")),
    ("gateway", re.compile(r"GET (/|.*/gateway.*)$")),
)
_SCOPES = ("user", "global", "shared")  # of a 429
_RESUMED, _NEW = "resumed", "new session"


class DiscordWatch:
    """Counts requests to Discord, and knows whether the gateway is there.

    Args:
        metrics: where they are counted.

    Attributes:
        connected: whether events come in.
        http_trace: to be given to the bot.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.connected = False
        self._metrics = metrics
        self._was_ready = False
        # From 0 on: Prometheus sees no rise in a number that begins with 1.
        for scope in _SCOPES:
            metrics.rate_limits.labels(scope)
        for how in (_RESUMED, _NEW):
            metrics.reconnects.labels(how)
        self.http_trace = trace = aiohttp.TraceConfig()
        trace.on_request_start.append(_started)
        trace.on_request_end.append(self._answered)
        trace.on_request_exception.append(self._broken)

    def attach(self, bot: commands.Bot) -> None:
        """Listen to a bot's connection."""
        bot.add_listener(self._ready, "on_ready")
        bot.add_listener(self._resumed, "on_resumed")
        bot.add_listener(self._disconnected, "on_disconnect")

    async def _ready(self) -> None:
        if self._was_ready:
            self._metrics.reconnects.labels(_NEW).inc()
        self._was_ready = self.connected = True

    async def _resumed(self) -> None:
        self._metrics.reconnects.labels(_RESUMED).inc()
        self.connected = True

    async def _disconnected(self) -> None:
        """Called again for each attempt that fails."""
        if self.connected:
            self._metrics.disconnects.inc()
        self.connected = False

    async def _answered(
        self, _: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        kind, status = kind_of(params.method, params.url.path), params.response.status
        self._metrics.discord_requests.labels(kind, str(status)).inc()
        self._metrics.discord_request_s.labels(kind).observe(_elapsed_s(context))
        if status == 429:
            said = params.response.headers.get("X-RateLimit-Scope", "user")
            self._metrics.rate_limits.labels(said if said in _SCOPES else "user").inc()

    async def _broken(
        self, _: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams
    ) -> None:
        kind = kind_of(params.method, params.url.path)
        self._metrics.discord_requests.labels(kind, "no answer").inc()


def kind_of(method: str, path: str) -> str:
    """What a request is, in one of a few words."""
    request = f"{method} {path}"
    return next((kind for kind, pattern in _KINDS if pattern.match(request)), "other")


def latency_s(bot: discord.Client) -> float | None:
    """The time of the last heartbeat to Discord and back; None while there was none."""
    found = bot.latency
    return found if 0 <= found < float("inf") else None


async def _started(_: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
    context.began_s = asyncio.get_running_loop().time()


def _elapsed_s(context: SimpleNamespace) -> float:
    return asyncio.get_running_loop().time() - float(context.began_s)
