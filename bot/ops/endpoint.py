"""The local port: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever looks after the bot."""

from __future__ import annotations

import errno
import ipaddress
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from bot.errors import SettingsError

log = logging.getLogger(__name__)

_CLOSING_S = 1.0
_FAULTS = {
    errno.EADDRINUSE: "METRICS_PORT {port} is taken by another program: write another port, or 0 for none.",
    errno.EACCES: "METRICS_PORT {port} may not be opened by this user: write one from 1024 on.",
    errno.EADDRNOTAVAIL: "METRICS_HOST {host} is no address of this machine: write 127.0.0.1, or one of its own.",
}

Answer = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def open_endpoint(host: str, port: int, pages: Mapping[str, Answer]) -> AsyncIterator[tuple[str, int]]:
    """Serve pages while the block runs, on the loop that runs it; gives the address and the port.

    Args:
        host: the address to listen at.
        port: the port; 0 for any that is free.
        pages: what is answered, by path; everything else is 404.

    Raises:
        SettingsError: the port cannot be opened, with the fix.
    """
    app = web.Application(middlewares=[_uncached])
    for path, answer in pages.items():
        app.router.add_get(path, answer)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_CLOSING_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            told = _FAULTS.get(
                error.errno or 0, "METRICS_HOST {host}, METRICS_PORT {port} cannot be opened ({why})."
            )
            raise SettingsError(told.format(host=host, port=port, why=error.strerror)) from None
        address, port = runner.addresses[0][:2]
        log.info("metrics at http://%s:%d/metrics", address, port)
        if not ipaddress.ip_address(address).is_loopback:
            log.warning("METRICS_HOST: everybody who can reach %s can read how the bot is doing", address)
        yield address, port
    finally:
        await runner.cleanup()


@web.middleware
async def _uncached(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.headers["Cache-Control"] = "no-store"
    return response
