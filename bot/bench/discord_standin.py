"""A stand-in for Discord, in a process of its own: its HTTP side, with a latency, and its gateway.

Real discord.py talks to it over HTTP and a WebSocket: what is needed to log in, to be ready, to register commands, to
get a command and to reply. It notes when each message and edit arrived, on the system's monotonic
clock, which other processes of the same machine read too.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import discord.http
import yarl
from aiohttp import web
from discord.gateway import DiscordWebSocket

from bot.bench.discord_payloads import APPLICATION_ID, BOT, CHANNEL_ID


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message or an edit that reached Discord: when, for which interaction, saying what."""

    at_s: float
    token: str
    content: str


@dataclass(frozen=True, slots=True)
class StandIn:
    """A running stand-in."""

    _pipe: Connection

    def dispatch(self, payload: dict[str, Any]) -> None:
        """Send an interaction through the gateway, to whoever is connected."""
        self._pipe.send(payload)

    def hang(self) -> None:
        """Answer no request any more that shows something."""
        self._pipe.send("hang")
        self._pipe.recv()

    def drop(self) -> None:
        """Drop the gateway's connections, as Discord does now and then; they may be resumed."""
        self._pipe.send("drop")

    def resumed(self) -> int:
        """How many connections were resumed so far."""
        self._pipe.send("resumed")
        return int(self._pipe.recv())

    def refused(self) -> int:
        """How many requests were answered with 429 so far."""
        self._pipe.send("refused")
        return int(self._pipe.recv())

    def arrivals(self) -> list[Arrival]:
        """What arrived since the last call."""
        self._pipe.send("arrivals")
        return [Arrival(*fields) for fields in self._pipe.recv()]


@contextmanager
def running(latency_s: float = 0.05, *, refuse_token: bool = False) -> Iterator[StandIn]:
    """Run the stand-in while the block runs; discord.py is pointed at it."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, latency_s, refuse_token), daemon=True)
    process.start()
    before = discord.http.Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY
    try:
        address = ours.recv()
        discord.http.Route.BASE = f"http://{address}"
        DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(f"ws://{address}/gateway")
        yield StandIn(ours)
    finally:
        discord.http.Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY = before
        process.terminate()
        process.join()


def _serve(pipe: Connection, latency_s: float, refuse_token: bool) -> None:
    asyncio.run(_Server(pipe, latency_s, refuse_token).serve())


class _Server:
    def __init__(self, pipe: Connection, latency_s: float, refuse_token: bool) -> None:
        self._me_status = 401 if refuse_token else 200
        self._sockets: list[web.WebSocketResponse] = []
        self._pipe = pipe
        self._latency_s = latency_s
        self._arrivals: list[tuple[float, str, str]] = []
        self._ids = itertools.count(20_000)
        self._buckets = Buckets()
        self._resumed = 0
        self._hangs = False
        self._left = ""  # what was shown last

    async def serve(self) -> None:
        app = web.Application()
        app.router.add_get("/users/@me", self._answer(BOT, self._me_status))
        about: dict[str, Any] = {
            "id": APPLICATION_ID,
            "name": "Punchline",
            "icon": None,
            "description": "",
            "bot_public": True,
        }
        about |= {"bot_require_code_grant": False, "verify_key": "", "flags": 0, "team": None, "owner": BOT}
        app.router.add_get("/oauth2/applications/@me", self._answer(about))
        app.router.add_put("/applications/{application}/commands", self._answer([]))
        app.router.add_post("/interactions/{id}/{token}/callback", self._callback)
        app.router.add_patch("/webhooks/{application}/{token}/messages/{message}", self._message)
        app.router.add_post("/webhooks/{application}/{token}", self._message)
        app.router.add_patch("/channels/{channel}/messages/{message}", self._message)
        app.router.add_post("/channels/{channel}/messages", self._message)
        app.router.add_get("/channels/{channel}/messages/{message}", self._read)
        app.router.add_post("/channels/{channel}/typing", self._typing)
        app.router.add_get("/gateway", self._gateway)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self._pipe.send(f"127.0.0.1:{port}")
        while asked := await asyncio.to_thread(self._pipe.recv):
            if asked == "refused":
                self._pipe.send(self._buckets.refused)
            elif asked == "resumed":
                self._pipe.send(self._resumed)
            elif asked == "hang":
                self._hangs = True
                self._pipe.send("hung")
            elif asked == "drop":
                for socket in self._sockets:
                    await socket.close(code=4000)
                self._sockets.clear()
            elif asked == "arrivals":
                self._pipe.send(self._arrivals)
                self._arrivals = []
            else:
                for socket in self._sockets:
                    await socket.send_json({"op": 0, "s": 2, "t": "INTERACTION_CREATE", "d": asked})

    async def _gateway(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": 10, "d": {"heartbeat_interval": 40_000}})
        async for message in socket:
            match json.loads(message.data)["op"]:
                case 1:
                    await socket.send_json({"op": 11})
                case 2:
                    about = {"v": 10, "user": BOT, "guilds": [], "session_id": "s", "shard": [0, 1]}
                    about |= {"resume_gateway_url": f"ws://{request.host}/gateway"}
                    about |= {"application": {"id": APPLICATION_ID, "flags": 0}}
                    await socket.send_json({"op": 0, "s": 1, "t": "READY", "d": about})
                    self._sockets.append(socket)
                case 6:
                    await socket.send_json({"op": 0, "s": 2, "t": "RESUMED", "d": {}})
                    self._resumed += 1
                    self._sockets.append(socket)
        if socket in self._sockets:  # whoever was there has left
            self._sockets.remove(socket)
        return socket

    def _answer(self, body: Any, status: int = 200) -> Any:
        async def handler(_: web.Request) -> web.Response:
            await asyncio.sleep(self._latency_s)
            return _json(body, status)

        return handler

    async def _callback(self, request: web.Request) -> web.Response:
        if (headers := self._counted(f"callback {request.match_info['token']}")) is None:
            return self._refusal
        if content := ((await request.json()).get("data") or {}).get("content"):  # answered at once
            self._arrivals.append((time.monotonic(), request.match_info["token"], content))
        await asyncio.sleep(self._latency_s)
        about = {"id": request.match_info["id"], "type": 2, "response_message_loading": True}
        message = self._payload("")
        interaction = about | {"response_message_id": message["id"]}
        body = {"interaction": interaction, "resource": {"type": 5, "message": message}}
        return _json(body, headers=headers)

    async def _message(self, request: web.Request) -> web.Response:
        """A message or an edit, by an interaction's token or by the bot's own."""
        where = request.match_info.get("token") or request.match_info["channel"]
        kind = "edit" if request.method == "PATCH" else "create"
        if (headers := self._counted(f"{kind} {where}")) is None:
            return self._refusal
        message_id = request.match_info.get("message", "@original")
        payload = self._payload(await _content(request), None if message_id == "@original" else message_id)
        if self._hangs:
            await asyncio.sleep(3_600)
        token = request.match_info.get("token") or f"message {payload['id']}"
        self._left = payload["content"]
        self._arrivals.append((time.monotonic(), token, payload["content"]))
        await asyncio.sleep(self._latency_s)
        return _json(payload, headers=headers)

    async def _read(self, request: web.Request) -> web.Response:
        """A message as it was left."""
        await asyncio.sleep(self._latency_s)
        return _json(self._payload(self._left, request.match_info["message"]))

    async def _typing(self, request: web.Request) -> web.Response:
        if (headers := self._counted(f"typing {request.match_info['channel']}")) is None:
            return self._refusal
        await asyncio.sleep(self._latency_s)
        return web.Response(status=204, headers=headers)

    def _counted(self, bucket: str) -> dict[str, str] | None:
        """Count a request; the headers of its answer, or None if it is refused."""
        headers, refused_s = self._buckets.take(bucket, time.monotonic())
        if not refused_s:
            return headers
        body = {"message": "You are being rate limited.", "retry_after": refused_s, "global": False}
        self._refusal = _json(body, 429, headers)
        return None

    def _payload(self, content: str, message_id: str | None = None) -> dict[str, Any]:
        empty: dict[str, Any] = {"embeds": [], "attachments": [], "mentions": [], "mention_roles": []}
        return empty | {
            "id": message_id or str(next(self._ids)),
            "channel_id": CHANNEL_ID,
            "author": BOT,
            "content": content,
            "timestamp": "2026-01-01T00:00:00+00:00",
            "edited_timestamp": None,
            "tts": False,
            "mention_everyone": False,
            "pinned": False,
            "type": 20,
            "components": [],
            "flags": 0,
        }


class Buckets:
    """Discord's limits: 5 requests in 5 s for each bucket, 50 a second in all; told in headers as Discord does.

    Discord leaves what is sent by an interaction's token out of the 50; here it counts, which is harder.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._begun: dict[str, tuple[float, int]] = {}
        self._all: collections.deque[float] = collections.deque(maxlen=50)

    def take(self, bucket: str, now_s: float) -> tuple[dict[str, str], float]:
        """The headers of the answer, and the seconds to wait if it is a refusal."""
        began_s, taken = self._begun.get(bucket, (now_s, 0))
        if now_s - began_s >= 5.0:
            began_s, taken = now_s, 0
        everywhere = len(self._all) == 50 and now_s - self._all[0] < 1.0
        left_s = began_s + 5.0 - now_s
        headers = {"X-RateLimit-Limit": "5", "X-RateLimit-Bucket": bucket.split()[0]}
        headers["X-RateLimit-Reset-After"] = f"{left_s:.3f}"
        headers["X-RateLimit-Remaining"] = str(max(0, 4 - taken))
        if taken >= 5 or everywhere:
            self.refused += 1
            return headers | {"Retry-After": f"{left_s:.3f}", "Via": "stand-in"}, left_s
        self._begun[bucket] = (began_s, taken + 1)
        self._all.append(now_s)
        return headers, 0.0


async def _content(request: web.Request) -> str:
    """The content of a message that is sent, with or without files."""
    if request.content_type == "application/json":
        return str((await request.json()).get("content") or "")
    form = await request.post()
    return str(json.loads(str(form["payload_json"])).get("content") or "")


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """JSON without a charset in its type, which is how Discord sends it and discord.py knows it."""
    headers = {"Content-Type": "application/json"} | (headers or {})
    return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)
