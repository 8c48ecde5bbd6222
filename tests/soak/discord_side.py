"""A simulated Discord that remembers: messages stand as they were last edited, and can be pressed and deleted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

from bot.bench.discord_payloads import APPLICATION_ID, BOT, guild_payload
from bot.bench.discord_standin import Buckets
from tests.soak.faults import Fault, Faults
from tests.soak.messages import Asked, Board, Message

CHANNELS = 4
_ACKNOWLEDGE_S = 3.0  # Discord API v10: later, an interaction is unknown
_EPHEMERAL = 1 << 6
_DEFERRED, _UPDATE_LATER = 5, 6  # an interaction's answers that show nothing yet

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class DiscordSide:
    """Discord, as far as the bot uses it.

    Args:
        faults: what goes wrong.
        latency_s: of each request.

    Attributes:
        board: what is seen.
        life: which of the bot's processes is connected; set by whoever starts it.
        connected: set while the bot gets what happens.
        address: where it listens.
        late: how many acknowledgements came too late.
        resumed, identified: how many connections went on, or began anew.
    """

    def __init__(self, faults: Faults, latency_s: float = 0.03) -> None:
        self.board = Board()
        self.life = 0
        self.connected = asyncio.Event()
        self.address = ""
        self.late = self.resumed = self.identified = 0
        self.buckets = Buckets()
        self._faults = faults
        self._latency_s = latency_s
        self._sockets: list[web.WebSocketResponse] = []
        self._sequence = 0

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._trouble])
        about: dict[str, Any] = {"id": APPLICATION_ID, "name": "Punchline", "icon": None, "description": ""}
        about |= {"bot_public": True, "bot_require_code_grant": False, "verify_key": "", "flags": 0}
        about |= {"team": None, "owner": {**BOT, "id": "1"}}
        app.router.add_get("/users/@me", _always(BOT))
        app.router.add_get("/oauth2/applications/@me", _always(about))
        app.router.add_put("/applications/{application}/commands", _always([]))
        app.router.add_post("/interactions/{id}/{token}/callback", self._callback)
        app.router.add_post("/webhooks/{application}/{token}", self._follow_up)
        app.router.add_patch("/webhooks/{application}/{token}/messages/{message}", self._edit_by_token)
        app.router.add_post("/channels/{channel}/messages", self._create)
        app.router.add_patch("/channels/{channel}/messages/{message}", self._edit)
        app.router.add_get("/channels/{channel}/messages/{message}", self._read)
        app.router.add_post("/channels/{channel}/typing", self._typing)
        app.router.add_get("/gateway", self._gateway)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def dispatch(self, kind: str, payload: dict[str, Any]) -> None:
        """Have something happen, for whoever is connected."""
        self._sequence += 1
        for socket in tuple(self._sockets):
            await socket.send_json({"op": 0, "s": self._sequence, "t": kind, "d": payload})

    async def drop(self, *, anew: bool) -> None:
        """Drop the connections: to be resumed, or to begin `anew`."""
        for socket in tuple(self._sockets):
            if anew:
                await socket.send_json({"op": 9, "d": False})
            await socket.close(code=4000)

    @web.middleware
    async def _trouble(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Every request takes its time, and something happens to some."""
        if request.path == "/gateway":
            return await handler(request)
        fault = self._faults.next(request.path)
        if fault is Fault.REFUSED:
            return _json({"message": "Internal Server Error", "code": 0}, 500)
        # Done even if whoever asked does not wait, as in the real Discord.
        response = await asyncio.shield(asyncio.ensure_future(handler(request)))
        await asyncio.sleep(self._faults.late_s() if fault is Fault.SLOW else self._latency_s)
        if fault is Fault.LOST:
            return _json({"message": "Bad Gateway", "code": 0}, 502)
        if fault is Fault.CUT and request.transport is not None:
            request.transport.close()
        return response

    async def _callback(self, request: web.Request) -> web.StreamResponse:
        """The first answer to an interaction."""
        if isinstance(headers := self._counted(f"callback {request.match_info['token']}"), web.Response):
            return headers
        asked = self._asked(request)
        if asked is None or (asked.acknowledged_s is None and _now_s() - asked.sent_s > _ACKNOWLEDGE_S):
            self.late += asked is not None
            return _json({"message": "Unknown interaction", "code": 10062}, 404, headers)
        if asked.acknowledged_s is not None:
            again = {"message": "Interaction has already been acknowledged.", "code": 40060}
            return _json(again, 400, headers)
        payload = await _payload(request)
        asked.acknowledged_s = _now_s()
        data = payload.get("data") or {}
        about: dict[str, Any] = {"id": request.match_info["id"], "type": 2}
        resource: dict[str, Any] = {"type": payload["type"]}
        if payload["type"] != _UPDATE_LATER:
            message = self.board.answer(asked)
            message.ephemeral = bool(data.get("flags", 0) & _EPHEMERAL)
            if payload["type"] == _DEFERRED:
                message.life, message.changed_s = self.life, _now_s()
            else:
                message.edit(data, self.life, _now_s())
                if asked.then is not None:
                    asked.then(message.content)
            about["response_message_id"] = str(message.id)
            resource["message"] = message.payload()
        return _json({"interaction": about, "resource": resource}, headers=headers)

    async def _follow_up(self, request: web.Request) -> web.StreamResponse:
        return await self._new(request, f"create {request.match_info['token']}", self._asked(request))

    async def _create(self, request: web.Request) -> web.StreamResponse:
        return await self._new(request, f"create {request.match_info['channel']}")

    async def _new(self, request: web.Request, bucket: str, asked: Asked | None = None) -> web.StreamResponse:
        if isinstance(headers := self._counted(bucket), web.Response):
            return headers
        payload = await _payload(request)
        channel = int(request.match_info["channel"]) if asked is None else asked.channel
        nonce = payload.get("nonce") if payload.get("enforce_nonce") else None
        if (there := self.board.by_nonce(nonce)) is not None:
            return _json(there.payload(), headers=headers)
        message = self.board.new(channel, None if asked is None else asked.number, nonce)
        message.ephemeral = bool(payload.get("flags", 0) & _EPHEMERAL)
        if (reference := payload.get("message_reference")) is not None:
            message.asked = int(reference["message_id"]) - 10_000  # see `mention_payload`
        message.edit(payload, self.life, _now_s())
        return _json(message.payload(), headers=headers)

    async def _edit_by_token(self, request: web.Request) -> web.StreamResponse:
        asked = self._asked(request)
        if asked is None or asked.acknowledged_s is None:
            return _json({"message": "Unknown Webhook", "code": 10015}, 404)
        named = request.match_info["message"]
        message = self.board.answer(asked) if named == "@original" else self.board.messages.get(int(named))
        return await self._change(request, f"edit {asked.token}", message)

    async def _edit(self, request: web.Request) -> web.StreamResponse:
        message = self.board.messages.get(int(request.match_info["message"]))
        return await self._change(request, f"edit {request.match_info['channel']}", message)

    async def _change(self, request: web.Request, bucket: str, message: Message | None) -> web.StreamResponse:
        if isinstance(headers := self._counted(bucket), web.Response):
            return headers
        if message is None or message.deleted:
            return _json({"message": "Unknown Message", "code": 10008}, 404, headers)
        message.edit(await _payload(request), self.life, _now_s())
        return _json(message.payload(), headers=headers)

    async def _read(self, request: web.Request) -> web.StreamResponse:
        message = self.board.messages.get(int(request.match_info["message"]))
        if message is None or message.deleted:
            return _json({"message": "Unknown Message", "code": 10008}, 404)
        return _json(message.payload())

    async def _typing(self, request: web.Request) -> web.StreamResponse:
        headers = self._counted(f"typing {request.match_info['channel']}")
        return headers if isinstance(headers, web.Response) else web.Response(status=204, headers=headers)

    async def _gateway(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": 10, "d": {"heartbeat_interval": 40_000}})
        async for message in socket:
            match json.loads(message.data)["op"]:
                case 1:
                    await asyncio.sleep(self._latency_s)
                    await socket.send_json({"op": 11})
                case 2:
                    self.identified += 1
                    await self._introduce(socket, request.host)
                case 6:
                    self.resumed += 1
                    await socket.send_json({"op": 0, "s": self._sequence, "t": "RESUMED", "d": {}})
                    self._sockets.append(socket)
                    self.connected.set()
        if socket in self._sockets:
            self._sockets.remove(socket)
        if not self._sockets:
            self.connected.clear()
        return socket

    async def _introduce(self, socket: web.WebSocketResponse, host: str) -> None:
        guild = guild_payload(CHANNELS)
        about = {"v": 10, "user": BOT, "session_id": "s", "shard": [0, 1]}
        about |= {"guilds": [{"id": guild["id"], "unavailable": True}]}
        about |= {
            "resume_gateway_url": f"ws://{host}/gateway",
            "application": {"id": APPLICATION_ID, "flags": 0},
        }
        await socket.send_json({"op": 0, "s": 1, "t": "READY", "d": about})
        await socket.send_json({"op": 0, "s": 2, "t": "GUILD_CREATE", "d": guild})
        self._sequence = max(self._sequence, 2)
        self._sockets.append(socket)
        self.connected.set()

    def _asked(self, request: web.Request) -> Asked | None:
        return self.board.asked.get(int(request.match_info["token"].removeprefix("token")))

    def _counted(self, bucket: str) -> dict[str, str] | web.Response:
        """Count a request; the headers of its answer, or a refusal."""
        headers, refused_s = self.buckets.take(bucket, time.monotonic())
        if not refused_s:
            return headers
        body = {"message": "You are being rate limited.", "retry_after": refused_s, "global": False}
        return _json(body, 429, headers)


def _always(body: Any) -> _Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return _json(body)

    return handler


async def _payload(request: web.Request) -> dict[str, Any]:
    """What is sent, with or without files."""
    if request.content_type == "application/json":
        return dict(await request.json())
    return dict(json.loads(str((await request.post())["payload_json"])))


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """JSON without a charset in its type, which is how Discord sends it and discord.py knows it."""
    headers = {"Content-Type": "application/json"} | (headers or {})
    return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
