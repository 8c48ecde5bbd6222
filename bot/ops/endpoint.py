"""The local port: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever looks after the bot.

Nobody is asked for a password, so little is given away and little can be taken. A connection has a time, and there are
only so many at once: their sockets are files of the bot's, which needs some for Discord and the database. A page in an
operator's browser reaches 127.0.0.1 under a name of its own (DNS rebinding): where only this machine is listened to, a
request must name it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from bot.errors import SettingsError

log = logging.getLogger(__name__)

CONNECTIONS = 64  # at once
LIFE_S = 60.0  # of a connection, at most; a scrape takes a few seconds at most, and Prometheus connects again
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
        host: the address to listen at, or a name that stands for some.
        port: the port; 0 for any that is free.
        pages: what is answered, by path; everything else is 404.

    Raises:
        SettingsError: the port cannot be opened, with the fix.
    """
    app = web.Application(middlewares=[_uncached, _named_as_this_machine])
    for path, answer in pages.items():
        app.router.add_get(path, answer, allow_head=False)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_CLOSING_S)
    await runner.setup()
    server = runner.server
    assert server is not None  # noqa: S101  it was set up
    closing = asyncio.create_task(_short(server))
    try:
        try:
            listening = await asyncio.get_running_loop().create_server(_few(server), host, port)
        except OSError as error:
            told = _FAULTS.get(
                error.errno or 0, "METRICS_HOST {host}, METRICS_PORT {port} cannot be opened ({why})."
            )
            raise SettingsError(told.format(host=host, port=port, why=error.strerror)) from None
        try:
            addresses = [one.getsockname()[:2] for one in listening.sockets]
            for address, number in addresses:
                shown = f"[{address}]" if ":" in address else address
                log.info("metrics at http://%s:%d/metrics", shown, number)
                if not _is_loopback(address):
                    log.warning(
                        "METRICS_HOST: everybody who can reach %s can read how the bot is doing", address
                    )
            yield addresses[0]
        finally:
            listening.close()
    finally:
        closing.cancel()
        await runner.cleanup()


class _Refused(asyncio.Protocol):
    """A connection for which there is no room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


def _few(server: web.Server) -> Callable[[], asyncio.Protocol]:
    """What makes the protocol of each connection."""
    return lambda: server() if len(server.connections) < CONNECTIONS else _Refused()


async def _short(server: web.Server) -> None:
    """Close connections that have been there for longer than `LIFE_S`, whatever they do."""
    before: set[asyncio.Protocol] = set()
    while True:
        await asyncio.sleep(LIFE_S / 2)
        now = set(server.connections)
        for late in now & before:
            late.force_close()
        before = {*now}


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@web.middleware
async def _named_as_this_machine(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let pass whoever came from elsewhere, or names this machine by its address or as localhost."""
    came_to = request.transport.get_extra_info("sockname") if request.transport is not None else None
    if came_to is not None and _is_loopback(came_to[0]):
        try:
            name = request.url.host or ""
        except ValueError:  # the header is no address at all
            name = ""
        if not (_is_loopback(name) or name == "localhost"):
            raise web.HTTPForbidden(text="Ask for 127.0.0.1 or localhost: this name is not this machine's.\n")
    return await handler(request)


@web.middleware
async def _uncached(request: web.Request, handler: Handler) -> web.StreamResponse:
    response = await handler(request)
    response.headers["Cache-Control"] = "no-store"
    return response
