"""Looking on: metrics, health and the local port together, from the start of the process to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiohttp import web
from discord.ext import commands
from prometheus_client.exposition import choose_encoder

from bot.inference.memory import MemoryReport
from bot.inference.observer import Observer, Several
from bot.inference.queue import InferenceQueue
from bot.ops.content_log import ContentLog
from bot.ops.discord_watch import DiscordWatch, latency_s
from bot.ops.endpoint import open_endpoint
from bot.ops.health import Health
from bot.ops.heartbeat import Heartbeat
from bot.ops.metrics import Metrics
from bot.ops.readings import DeviceLook, Readings, ReadingsCollector
from bot.settings import Settings


class Observation:
    """What looks on.

    Args:
        metrics: what is counted.
        heart: the event loop's.
        observers: who looks on beside the metrics.
        device: looks at the device.

    Attributes:
        metrics: the same.
        observer: for the queue, the engine and the services.
        discord: the connection; its `http_trace` is for the bot.
        health: what `/healthz` and `/readyz` say.
    """

    def __init__(
        self,
        metrics: Metrics,
        heart: Heartbeat,
        observers: Sequence[Observer] = (),
        device: DeviceLook | None = None,
    ) -> None:
        self.metrics = metrics
        self.observer: Observer = Several(metrics, *observers) if observers else metrics
        self.discord = DiscordWatch(metrics)
        self.health = Health(heart, self.discord)
        self._device = device or DeviceLook()
        self._collector = ReadingsCollector()
        self._queue: InferenceQueue | None = None
        self._memory: Callable[[], MemoryReport] | None = None
        self._bot: commands.Bot | None = None
        metrics.registry.register(self._collector)

    def attach(
        self,
        queue: InferenceQueue,
        memory: Callable[[], MemoryReport],
        ping: Callable[[], Awaitable[None]],
        bot: commands.Bot,
        drained: Callable[[], bool] = lambda: False,
    ) -> None:
        """Everything is open, and the bot is about to log in.

        Args:
            queue: what answers.
            memory: the engine's report.
            ping: returns when the database answers.
            bot: the bot.
            drained: whether operators let nobody in.
        """
        self._queue, self._memory, self._bot = queue, memory, bot
        self.health.attach(queue, ping, drained)
        self.discord.attach(bot)

    async def metrics_page(self, request: web.Request) -> web.Response:
        """Everything, in the format that Prometheus asks for."""
        readings = await self._read()
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        self._collector.newest = readings
        return web.Response(body=encode(self.metrics.registry), headers={"Content-Type": content_type})

    async def health_page(self, request: web.Request) -> web.Response:
        """Whether the event loop runs."""
        life = self.health.life()
        return web.json_response(life, status=200 if life["alive"] else 503)

    async def ready_page(self, request: web.Request) -> web.Response:
        """Whether people can use the bot, and why not."""
        checks = await self.health.readiness()
        reasons = [reason for reason in checks.values() if reason is not None]
        body: dict[str, Any] = {"ready": not reasons, "reasons": reasons}
        body["checks"] = {name: "ok" if reason is None else reason for name, reason in checks.items()}
        return web.json_response(body, status=503 if reasons else 200)

    async def _read(self) -> Readings:
        if self._queue is None or self._memory is None or self._bot is None:
            return Readings(await self.health.readiness())
        checks, device = await asyncio.gather(self.health.readiness(), self._device.now())
        return Readings(
            checks=checks,
            waiting=self._queue.waiting,
            running=self._queue.running,
            held=len(self._queue.held),
            memory=self._memory(),
            device=device,
            latency_s=latency_s(self._bot),
            servers=len(self._bot.guilds),
            tasks=len(asyncio.all_tasks()),
        )


@asynccontextmanager
async def open_observation(
    settings: Settings, device: DeviceLook | None = None
) -> AsyncIterator[Observation]:
    """Look on while the block runs; the port is open before anything else is, and says that the bot is starting.

    Args:
        settings: which port, if any, and whether words may be logged.
        device: looks at the device; None for the one there is.

    Raises:
        SettingsError: the port cannot be opened.
    """
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        heart = await stack.enter_async_context(Heartbeat(metrics.lag_s.observe))
        observation = Observation(metrics, heart, [ContentLog()] if settings.log_content else [], device)
        if settings.metrics_port:
            pages = {
                "/metrics": observation.metrics_page,
                "/healthz": observation.health_page,
                "/readyz": observation.ready_page,
            }
            await stack.enter_async_context(
                open_endpoint(settings.metrics_host, settings.metrics_port, pages)
            )
        yield observation
