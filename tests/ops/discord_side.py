"""Discord's HTTP side, as far as `check` asks it; what it says can be changed at any time."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web

APPLICATION_ID, SERVER_ID = 100, 400
BOT = {
    "id": str(APPLICATION_ID),
    "username": "Punchline",
    "discriminator": "0",
    "avatar": None,
    "bot": True,
}


@dataclass
class DiscordSide:
    """What Discord answers.

    Attributes:
        status: of the login; 401 refuses the token.
        flags: the application's.
        public: whether everybody may add the bot.
        in_server: whether the bot is in the server.
        permissions: what everybody may do in it.
        denied: by the number of a text channel, what everybody is denied there.
        ahead_s: how much its clock is ahead of ours.
        hangs: whether it answers nothing.
        asked: the paths that were asked for.
    """

    status: int = 200
    flags: int = 0
    public: bool = True
    in_server: bool = True
    permissions: int = 2**50 - 1
    denied: dict[int, int] = field(default_factory=dict)
    ahead_s: float = 0.0
    hangs: bool = False
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """Any request's."""
        self.asked.append(request.path)
        if self.hangs:
            await asyncio.sleep(600)
        status, body = self._answer(request.path)
        headers = {
            "Content-Type": "application/json",
            "Date": formatdate(time.time() + self.ahead_s, usegmt=True),
        }
        return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)

    def _answer(self, path: str) -> tuple[int, Any]:
        if path == "/users/@me":
            return self.status, BOT if self.status == 200 else {"message": "401: Unauthorized", "code": 0}
        if path == "/oauth2/applications/@me":
            about: dict[str, Any] = {"id": str(APPLICATION_ID), "name": "Punchline", "icon": None}
            about |= {"description": "", "bot_public": self.public, "bot_require_code_grant": False}
            return 200, about | {"verify_key": "", "flags": self.flags, "team": None, "owner": BOT}
        server = f"/guilds/{SERVER_ID}"
        if not self.in_server or not path.startswith(server):
            return 404, {"message": "Unknown Guild", "code": 10004}
        return 200, self._of_server(path.removeprefix(server))

    def _of_server(self, what: str) -> Any:
        if what.startswith("/members/"):
            member = {"user": BOT, "roles": [], "joined_at": "2026-01-01T00:00:00+00:00"}
            return member | {"deaf": False, "mute": False, "flags": 0}
        if what == "/channels":
            return [
                {"id": str(300 + number), "type": 0, "name": f"c{number}", "position": number, "nsfw": False}
                | {"topic": None, "parent_id": None, "permission_overwrites": self._overwrites(number)}
                for number in range(3)
            ]
        everyone: dict[str, Any] = {
            "id": str(SERVER_ID),
            "name": "@everyone",
            "permissions": str(self.permissions),
        }
        everyone |= {
            "position": 0,
            "color": 0,
            "hoist": False,
            "managed": False,
            "mentionable": False,
            "flags": 0,
        }
        return {"id": str(SERVER_ID), "name": "A server", "owner_id": "1", "roles": [everyone], "emojis": []}

    def _overwrites(self, number: int) -> list[dict[str, Any]]:
        denied = self.denied.get(number, 0)
        return [{"id": str(SERVER_ID), "type": 0, "allow": "0", "deny": str(denied)}] if denied else []


@contextmanager
def serving(side: DiscordSide, monkeypatch: pytest.MonkeyPatch) -> Iterator[DiscordSide]:
    """Answer, on a thread of its own, and point discord.py there."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    ports: list[int] = []

    async def serve() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", side.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.append(runner.addresses[0][1])
        return runner

    def run() -> None:
        runner = loop.run_until_complete(serve())
        started.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(10)
    monkeypatch.setattr("discord.http.Route.BASE", f"http://127.0.0.1:{ports[0]}")
    try:
        yield side
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
