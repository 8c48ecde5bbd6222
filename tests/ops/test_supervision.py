"""What a service manager hears of a bot that starts, works, hangs and ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.chat.messages import ChatMessage, Role
from bot.errors import BotError
from bot.inference.catalog import SamplingParams, load_catalog
from bot.inference.engine import GenerationRequest
from bot.inference.queue import InferenceQueue
from bot.inference.scripted import ScriptedEngine
from bot.ops.notify import Notifier
from bot.ops.supervision import Supervision

BEATS_S = 0.05


class Gateway:
    """Discord's connection, as a test wants it."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def wait_until_ready(self) -> None:
        await self.opened.wait()

    def is_ready(self) -> bool:
        return self.opened.is_set()


class Manager:
    """The service manager's end."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.setblocking(False)

    def notifier(self) -> Notifier:
        return Notifier(self._socket.getsockname(), BEATS_S * 2)

    async def hears(self, *wanted: str, within_s: float = 10.0) -> list[str]:
        """What is told until all of this was, in this order."""
        told: list[str] = []
        left = list(wanted)
        async with asyncio.timeout(within_s):
            while left:
                datagram = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
                told += datagram.decode().splitlines()
                while left and left[0] in told:
                    left.pop(0)
        return told

    def heard(self) -> list[str]:
        """What was told since."""
        told: list[str] = []
        while True:
            try:
                told += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def request() -> GenerationRequest:
    return GenerationRequest(load_catalog()["smol"], (ChatMessage(Role.USER, "Hi"),), SamplingParams())


async def test_it_is_ready_when_discord_is_and_not_before(manager: Manager) -> None:
    gateway = Gateway()
    async with InferenceQueue(ScriptedEngine()) as queue, Supervision(manager.notifier()) as supervision:
        supervision.serving(gateway, queue)
        before = await manager.hears("WATCHDOG=1", "STATUS=logging in to Discord")
        before += await manager.hears("WATCHDOG=1")
        assert "READY=1" not in before
        gateway.opened.set()
        await manager.hears("STATUS=0 running, 0 waiting", "READY=1")


async def test_what_it_does_is_said_when_it_changes(manager: Manager) -> None:
    gateway, gate = Gateway(), asyncio.Event()
    engine = ScriptedEngine(script=("One", gate.wait, " two."))
    async with InferenceQueue(engine) as queue, Supervision(manager.notifier()) as supervision:
        gateway.opened.set()
        supervision.serving(gateway, queue)
        await manager.hears("READY=1")
        async with queue.submit(request()) as generation:
            await manager.hears("STATUS=1 running, 0 waiting")
            gateway.opened.clear()
            await manager.hears("STATUS=reconnecting to Discord; 1 running, 0 waiting")
            again = await manager.hears("WATCHDOG=1") + await manager.hears("WATCHDOG=1")
            assert [line for line in again if line.startswith("STATUS=")] == []
            gate.set()
            async for _ in generation:
                pass


async def test_a_model_that_holds_on_to_an_answer_that_is_over_stops_the_beats(manager: Manager) -> None:
    gateway, held = Gateway(), asyncio.Event()

    async def hang() -> None:
        while not held.is_set():  # as a device that hangs: being cancelled changes nothing
            try:
                await held.wait()
            except asyncio.CancelledError:
                continue

    engine = ScriptedEngine(script=("One", hang))
    supervision = Supervision(manager.notifier(), stuck_after_s=3 * BEATS_S)
    async with InferenceQueue(engine) as queue, supervision:
        gateway.opened.set()
        supervision.serving(gateway, queue)
        try:
            async with queue.submit(request()) as generation:
                await anext(generation)
                await manager.hears("READY=1", "STATUS=1 running, 0 waiting")
                for _ in range(8):  # an answer that runs is no hang, however long
                    await manager.hears("WATCHDOG=1", within_s=2)
            await manager.hears("STATUS=the model hangs: it does not let go of an answer that is over")
            with pytest.raises(TimeoutError):
                await manager.hears("WATCHDOG=1", within_s=5 * BEATS_S)
        finally:
            held.set()
        await manager.hears("WATCHDOG=1", "STATUS=0 running, 0 waiting")


async def test_leaving_is_said_with_the_time_it_may_take_and_beats_go_on_meanwhile(manager: Manager) -> None:
    gateway = Gateway()
    async with InferenceQueue(ScriptedEngine()) as queue, Supervision(manager.notifier()) as supervision:
        supervision.serving(gateway, queue)
        supervision.stopping(queue, grace_s=20)
        gateway.opened.set()
        told = await manager.hears(
            "STOPPING=1", "EXTEND_TIMEOUT_USEC=140000000", "STATUS=stopping: 0 running"
        )
        told += await manager.hears("WATCHDOG=1") + await manager.hears("WATCHDOG=1")
        assert "READY=1" not in told


async def test_a_reload_is_said_once_the_bot_is_ready_and_not_before(manager: Manager) -> None:
    gateway = Gateway()
    async with InferenceQueue(ScriptedEngine()) as queue, Supervision(manager.notifier()) as supervision:
        supervision.serving(gateway, queue)
        with supervision.reloading():
            pass
        gateway.opened.set()
        told = await manager.hears("READY=1")
        assert "RELOADING=1" not in told
        with supervision.reloading():
            await manager.hears("RELOADING=1")
        assert "READY=1" in await manager.hears("READY=1")


async def test_why_it_could_not_start_is_the_last_thing_said(manager: Manager) -> None:
    with pytest.raises(BotError):
        async with Supervision(manager.notifier()):
            raise BotError("Discord cannot be reached (OSError): check the network.")
    assert manager.heard()[-1] == "STATUS=Discord cannot be reached (OSError): check the network."


async def test_without_a_manager_no_task_is_left_running() -> None:
    before = asyncio.all_tasks()
    async with InferenceQueue(ScriptedEngine()) as queue, Supervision(Notifier()) as supervision:
        supervision.serving(Gateway(), queue)
        assert asyncio.all_tasks() == before
