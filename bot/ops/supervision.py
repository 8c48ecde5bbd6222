"""The bot under a service manager: when it is ready, whether it is well, what it is doing."""

from __future__ import annotations

import asyncio
import faulthandler
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Protocol, Self

from bot.errors import BotError
from bot.ops.holding import Holding
from bot.ops.notify import Notifier

_PERIOD_S = 15.0  # of looks at the bot where no watchdog wants them oftener
STUCK_AFTER_S = 300.0  # on a CPU one step of a large model over a long prompt may take minutes
CLOSING_S = (
    120.0  # beside the answers' grace: showing their ends, closing the queue, the model's thread, Discord
)


class Work(Protocol):
    """The part of `InferenceQueue` that is looked at."""

    @property
    def waiting(self) -> int:
        """How many wait."""
        ...

    @property
    def running(self) -> int:
        """How many are answered."""
        ...

    @property
    def held(self) -> frozenset[Hashable]:
        """Answers that are over, and that the engine has not let go of."""
        ...


class Gateway(Protocol):
    """The part of `discord.Client` that is looked at."""

    async def wait_until_ready(self) -> None:
        """Return when people can use it."""
        ...

    def is_ready(self) -> bool:
        """Whether people can use it now."""
        ...


class Supervision:
    """Tells the service manager how the bot is, from the event loop: a loop that is blocked tells nothing.

    The watchdog hears nothing either when the engine holds on to an answer that ended long ago: a device that hangs
    is freed by nothing but a new process. Being cut off from Discord is no such thing, since discord.py reconnects.
    """

    def __init__(self, notifier: Notifier, *, stuck_after_s: float = STUCK_AFTER_S) -> None:
        self._notifier = notifier
        self._stuck_after_s = stuck_after_s
        self._status = ""
        self._look: Callable[[], str] | None = None  # what is going on; None while that is said elsewhere
        self._work: Work | None = None
        self._holding = Holding()
        self._beating: asyncio.Task[None] | None = None
        self._logging_in: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._notifier.is_heard:
            # systemd ends a process that hangs with SIGABRT: the log then holds where each thread was.
            with suppress(ValueError, OSError):  # stderr is no file
                faulthandler.enable()
            self._beating = asyncio.create_task(self._beat())
        self.say("loading libraries")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = [task for task in (self._logging_in, self._beating) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(error, BotError):
            self.say(str(error))
        self._notifier.close()

    def say(self, status: str) -> None:
        """Say what is being done, if it is something new."""
        if status != self._status:
            self._status = status
            self._notifier.status(status)

    def serving(self, gateway: Gateway, work: Work) -> None:
        """The services are open and the bot is logging in: it is ready once the gateway is."""

        async def wait() -> None:
            await gateway.wait_until_ready()
            self._look = look
            self.say(look())
            self._notifier.ready()

        def look() -> str:
            connected = "" if gateway.is_ready() else "reconnecting to Discord; "
            return f"{connected}{work.running} running, {work.waiting} waiting"

        self._work = work
        self.say("logging in to Discord")
        if self._notifier.is_heard:
            self._logging_in = asyncio.create_task(wait())

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Settings are read again while the block runs."""
        if self._look is None:  # before it is ready, nobody waits for a reload
            yield
            return
        self._notifier.reloading()
        try:
            yield
        finally:
            self._notifier.ready()

    def stopping(self, work: Work, *, grace_s: float) -> None:
        """The bot takes nothing new, and ends when what runs has, within `grace_s` and a margin for closing."""
        if self._logging_in is not None:
            self._logging_in.cancel()  # what leaves is not ready any more
        self._look = lambda: f"stopping: {work.running} running"
        self._notifier.stopping(within_s=grace_s + CLOSING_S)
        self.say(f"stopping: {work.running} running")

    async def _beat(self) -> None:
        period_s = min(_PERIOD_S, (self._notifier.watchdog_s or _PERIOD_S * 2) / 2)
        while True:
            if self._is_stuck():
                self.say("the model hangs: it does not let go of an answer that is over")
            else:
                if self._notifier.watchdog_s is not None:
                    self._notifier.beat()
                if self._look is not None:
                    self.say(self._look())
            await asyncio.sleep(period_s)

    def _is_stuck(self) -> bool:
        """Whether an answer that is over has been held at every look for too long."""
        if self._work is None:
            return False
        longest_s = self._holding.longest_s(self._work.held, asyncio.get_running_loop().time())
        return longest_s > self._stuck_after_s
