"""The demo page: a channel of the simulated Discord in a local browser, where anybody can type `/joke`.

simcord's preview draws the channel and carries clicks and commands to the bot. A driver beside it moves
simulated time on with real time and publishes the channel whenever it changed, so a reply is seen to grow.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from datetime import UTC, datetime
from typing import Any

from simcord import SetupError
from simcord.preview import Preview

from bot.app import open_engine
from bot.demo.world import World, open_world
from bot.errors import BotError, DeviceFailed
from bot.inference.device_failure import DeviceFailure
from bot.inference.engine import Engine
from bot.settings import Settings

log = logging.getLogger(__name__)

_TICK_S = 0.25  # the page asks for news every 0.5 s: a shorter tick shows nothing sooner
_WELCOME = (
    "Welcome! Type `/joke` below, fill in a topic if you like, and press Send. The reply grows while the model "
    "talks, and **Stop** ends it. For `model`, type a letter or two to see the choices: without a GPU take `smol`."
)
# The page is made for people who test bots; a visitor needs the channel and the box to type into.
_PLAIN_STYLE = """
.messages-sidebar, #messages-toggle, #refresh, #capture-open, #inspector-toggle, #back-activity,
#view-action-output { display: none !important }
.preview-workspace { grid-template-columns: minmax(0, 1fr) !important }
"""


async def serve(settings: Settings, port: int) -> int:
    """Serve the page with the real engine until Ctrl-C, SIGTERM or the page's own end of session."""
    failure = DeviceFailure()
    async with open_engine(settings, failure=failure) as engine:
        return await serve_with(settings, port, engine, failure=failure)


async def serve_with(
    settings: Settings,
    port: int,
    engine: Engine,
    ready: asyncio.Future[str] | None = None,
    failure: DeviceFailure | None = None,
) -> int:
    """Serve the page with `engine`; `ready` is given its address.

    Raises:
        DeviceFailed: the device has failed, as the page says.
    """
    stop = asyncio.Event()
    failure = failure or DeviceFailure()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with open_world(settings, engine) as world:
        await _furnish(world)
        preview = world.env.preview(world.channel, viewers=[world.visitor], layout="channel", port=port)
        turn = asyncio.Lock()
        _in_plain_style(preview)
        _take_turns(preview, turn)
        try:
            await preview.__aenter__()
        except SetupError as error:
            raise BotError(
                f"The demo page cannot be served on port {port}: {error}. Try another --port."
            ) from None
        try:
            sys.stdout.write(f"Open {preview.url} in a browser on this machine. Ctrl-C ends the demo.\n")
            sys.stdout.flush()
            if ready is not None:
                ready.set_result(preview.url)
            await _drive(world, preview, turn, stop, failure)
        finally:
            await preview.close()
    if failure.has_happened:
        raise DeviceFailed("The GPU has failed: start the demo anew.")
    return 0


async def _furnish(world: World) -> None:
    env = world.env
    bot_user = env.backend.bot_user
    bot_user.name = "Punchline"
    await env.advance_time(max(0.0, (datetime.now(UTC) - env.now()).total_seconds()))
    guide = world.channel.guild
    assert guide is not None  # noqa: S101  it is a channel of a server
    await guide.add_member(env.create_user("guide")).send(world.channel, _WELCOME)


async def _drive(
    world: World, preview: Preview, turn: asyncio.Lock, stop: asyncio.Event, failure: DeviceFailure
) -> None:
    """Keep simulated time level with real time, and the page with the channel; after a failure until that is seen."""
    published: list[Any] = []
    closed = asyncio.create_task(preview.wait_closed())
    stopped = asyncio.create_task(stop.wait())
    try:
        while not (closed.done() or stopped.done() or (failure.has_happened and not world.is_answering)):
            await asyncio.wait((closed, stopped), timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED)
            async with turn:
                if closed.done():
                    break
                try:
                    await world.catch_up()
                    standing = [
                        (m.id, m.content, repr(m.components), [e.to_dict() for e in m.embeds])
                        for m in world.messages()
                    ]
                    if standing != published:
                        await preview.refresh()
                        published = standing
                except TimeoutError:
                    log.warning("the simulated Discord fell behind; going on")
    finally:
        for task in (closed, stopped):
            task.cancel()


def _take_turns(preview: Preview, turn: asyncio.Lock) -> None:
    """Let the visitor's actions and the driver's ticks not meet.

    simcord refuses two operations at once, and an action that was drawn from an older publication than the
    newest. With a driver that publishes several times a second a visitor would run into both all the time, and
    the page does not try again. So an action waits for the tick to end, and is taken as meant for what is
    published then; what it acts on is still checked. There is no public way to say this: simcord is pinned.
    """
    act = preview._action

    async def in_turn(context_id: Any, body: Any) -> dict[str, Any]:
        async with turn:
            if isinstance(body, dict) and isinstance(body.get("published_revision"), int):
                body = {**body, "published_revision": preview._get_page(context_id).revision}
            return await act(context_id, body)

    preview._action = in_turn  # type: ignore[method-assign]


def _in_plain_style(preview: Preview) -> None:
    """Hide the page's tools for testers; before the server starts, which is when it looks its files up."""
    static = preview._server._static

    async def plain(request: Any) -> Any:
        response = await static(request)
        if request.path == "/preview.css":
            response.text += _PLAIN_STYLE
        return response

    preview._server._static = plain  # type: ignore[method-assign]
