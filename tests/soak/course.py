"""The course of a soak: lives that are killed, a long one in which nothing may pile up, and an end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak import checks
from tests.soak.discord_side import DiscordSide
from tests.soak.faults import Faults
from tests.soak.ledger import Ledger
from tests.soak.people import People
from tests.soak.process import BotProcess, Readings

_KILLED_SHARE = 0.6  # of the time, for lives that are killed
_WARM_S = 45.0  # until everything that is kept is there
_CALM_S = 150.0  # more than waiting and answering together may take
_SETTLE_S = 30.0
_DROP_EVERY_S = 25.0
_LAST_BUSY_S = 6.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how hard.

    Attributes:
        minutes: how long people are busy, starts of the bot included.
        kills: how often the bot is killed.
        seed: what all chance comes from.
        rate: what people do in a second.
        faults: how many faults; 1 for some percent of all requests.
    """

    minutes: float = 5.0
    kills: int = 3
    seed: int = 0
    rate: float = 1.5
    faults: float = 1.0


@dataclass
class Outcome:
    """What was seen.

    Attributes:
        faults: what should not be; empty if all is well.
        figures: what to print.
    """

    faults: list[str] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)


class Soak:
    """Runs the plan.

    Args:
        plan: what is to be done.
        folder: an empty folder for everything that the bot writes.
        cache_dir: where the embedded model is.
        say: told how far it is.
    """

    def __init__(self, plan: Plan, folder: Path, cache_dir: Path, say: Callable[[str], None] = print) -> None:
        self._plan = plan
        self._say = say
        self._chance = random.Random(plan.seed)
        self._faults = Faults(random.Random(plan.seed + 1), plan.faults)
        self._discord = DiscordSide(self._faults)
        self._ledger = Ledger()
        self._people = People(self._discord, self._ledger, random.Random(plan.seed + 2), plan.rate)
        self._folder, self._cache_dir = folder, cache_dir
        self._killed_s: dict[int, float] = {}
        self._lost_s: list[float] = []
        self._outcome = Outcome()

    async def run(self) -> Outcome:
        """Do it all.

        Raises:
            TimeoutError: something hangs.
            RuntimeError: the bot did not start.
        """
        whole_s = self._plan.minutes * 60
        async with asyncio.timeout(whole_s + 120 + 20 * self._plan.kills + 2 * _CALM_S), self._discord:
            self._bot = BotProcess(self._folder, self._cache_dir, self._discord.address)
            try:
                await self._killed_lives(whole_s * _KILLED_SHARE if self._plan.kills else 0.0)
                await self._long_life(whole_s * (1 - _KILLED_SHARE if self._plan.kills else 1.0))
                await self._end_in_good_order()
            finally:
                await self._bot.close()
        self._outcome.faults += checks.said_wrongly(self._bot.log)
        self._outcome.faults += checks.forgotten_files(self._bot.temporary)
        self._figures()
        return self._outcome

    async def _start(self) -> None:
        self._discord.life += 1
        self._discord.connected.clear()
        await self._bot.start(self._discord.connected)

    async def _killed_lives(self, seconds: float) -> None:
        """One life after the other, each killed at a random moment."""
        each_s = seconds / max(1, self._plan.kills)
        for number in range(self._plan.kills):
            began_s = _now_s()
            await self._start()
            left_s = max(3.0, each_s - (_now_s() - began_s))
            async with self._dropping():
                await self._people.busy(self._chance.uniform(0.3, 2 * left_s - 0.3))
            await self._bot.kill()
            self._killed_s[self._discord.life] = _now_s()
            self._lost_s.append(_now_s())
            self._compare(f"kill {number + 1}")

    def _compare(self, when: str) -> None:
        """Whether all that was confirmed is in the database."""
        self._ledger.ended()
        found = self._ledger.differences(self._bot.database, self._discord.board)
        self._outcome.faults += [f"after {when}: {one}" for one in found]
        growing = sum(one.is_growing for one in self._discord.board.visible())
        self._say(f"{when}: {growing} replies were growing, {len(found)} things lost")

    async def _long_life(self, seconds: float) -> None:
        """The same work twice, the first time to fill what is kept; nothing may pile up the second time."""
        await self._start()
        warm_s = min(_WARM_S, seconds / 2)
        await self._people.busy(warm_s)
        before = await self._calm("warm")
        async with self._dropping():
            await self._people.busy(max(0.0, seconds - warm_s))
        after = await self._calm("done")
        async with contextlib.AsyncExitStack() as patience:
            patience.push(_expired)
            await patience.enter_async_context(asyncio.timeout(_SETTLE_S))
            while list(self._left_over(before, after)):
                await asyncio.sleep(1.0)
                after = await self._bot.readings()
        self._outcome.faults += self._left_over(before, after)
        self._outcome.faults += self._ledger.unshown(self._bot.database)
        self._outcome.figures |= {"held before": before, "held after": after}
        until_s = _now_s() - 5.0
        self._outcome.faults += checks.unheard(self._discord.board.asked.values(), self._lost_s, until_s)

    def _left_over(self, before: Readings, after: Readings) -> list[str]:
        # Each list that can be leafed through or chosen from has a task that ends it, after some minutes.
        lists = sum(self._people.done[name] for name in ("queue", "model list"))
        return list(checks.left_over(before, after, lists=lists))

    async def _calm(self, when: str) -> Readings:
        """Wait until everything that was asked has ended, and no model is in memory; what the bot holds then."""
        until_s = _now_s() + _CALM_S
        while True:
            readings = await self._bot.readings()
            waiting = list(checks.unended(self._discord.board, self._killed_s))
            if not waiting and not (readings.running or readings.waiting or readings.models):
                break
            if _now_s() > until_s:
                self._outcome.faults += [f"{when}: {one}" for one in waiting] or [
                    f"{when}: not calm, {readings}"
                ]
                break
            await asyncio.sleep(0.5)
        self._say(f"{when}: {readings}")
        return readings

    async def _end_in_good_order(self) -> None:
        """Told to stop in the middle of it, it brings everything to its end."""
        self._faults.scale = 0.0  # an end that Discord does not take is shown at the next start only
        await self._people.busy(_LAST_BUSY_S)
        code = await self._bot.stop()
        if code != 0:
            self._outcome.faults.append(f"told to stop, it ended with code {code}")
        self._outcome.faults += [
            f"stopped: {one}" for one in checks.unended(self._discord.board, self._killed_s)
        ]
        self._compare("stop")

    @asynccontextmanager
    async def _dropping(self) -> AsyncIterator[None]:
        """Connections are dropped now and then while the block runs."""

        async def drop() -> None:
            while True:
                await asyncio.sleep(self._chance.expovariate(1 / _DROP_EVERY_S))
                self._lost_s.append(_now_s())
                await self._discord.drop(anew=self._chance.random() < 0.5)

        task = asyncio.create_task(drop())
        try:
            yield
        finally:
            task.cancel()

    def _figures(self) -> None:
        board, discord = self._discord.board, self._discord
        ended = sum(message.once_ended for message in board.messages.values())
        self._outcome.figures |= {
            "done by people": dict(self._people.done.most_common()),
            "messages": f"{len(board.messages)}, {ended} of them ended an answer",
            "processes": f"{discord.life}, {len(self._killed_s)} of them killed",
            "gateway": f"{discord.identified} connections begun, {discord.resumed} resumed",
            "faults": {str(fault): count for fault, count in self._faults.count.items()},
            "refused with 429": discord.buckets.refused,
            "acknowledged too late": discord.late,
            "confirmed decisions": self._ledger.confirmed,
            "comparisons with the database": self._ledger.compared,
        }


def _expired(kind: type[BaseException] | None, *_: object) -> bool:
    """What has not settled by now is a finding, not an error."""
    return kind is TimeoutError


def _now_s() -> float:
    return asyncio.get_running_loop().time()
