"""The local port gives little away, and nobody who can reach it can take much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from bot.ops import endpoint
from bot.ops.endpoint import open_endpoint
from bot.settings import load_settings


@asynccontextmanager
async def opened(host: str = "127.0.0.1") -> AsyncIterator[int]:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="fine")

    async with open_endpoint(host, 0, {"/it": page}) as (address, port):
        assert address == host
        yield port


async def asked(port: int, host: str) -> int:
    """The status for a request that names a host."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/it", headers={"Host": host}) as answer,
    ):
        return answer.status


def test_without_a_setting_there_is_no_port_and_with_one_it_is_for_this_machine() -> None:
    settings = load_settings(None)
    assert (settings.metrics_port, settings.metrics_host) == (0, "127.0.0.1")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("127.0.0.1", 200),
        ("localhost:{port}", 200),
        ("[::1]:{port}", 200),
        ("rebound.example:{port}", 403),
        ("127.0.0.1.rebound.example", 403),
        ("192.0.2.1", 403),
        ("", 403),
        ("a:b:c", 403),
    ],
)
async def test_a_page_in_a_browser_that_reaches_the_port_under_a_name_of_its_own_is_refused(
    host: str, status: int
) -> None:
    async with opened() as port:
        assert await asked(port, host.format(port=port)) == status


async def test_who_connects_and_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "LIFE_S", 0.05)
    async with opened() as port, asyncio.timeout(30):
        for said in (b"", b"GET /it HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            assert await reader.read() == b""
            writer.close()


async def test_many_connections_leave_the_bot_its_files_and_are_over_when_they_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "CONNECTIONS", 3)
    async with opened() as port, asyncio.timeout(30):
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, writer in kept:  # the bot has seen each of them
            writer.write(b"GET /it HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        for reader, _ in kept:
            assert b"200 OK" in await reader.readline()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        for _, writer in kept:
            writer.close()
        while True:
            try:
                assert await asked(port, "localhost") == 200
                break
            except aiohttp.ClientError:  # it has not seen yet that they have closed
                continue
