"""The whole bot, from a command at the gateway to edits over HTTP: discord.py, queue, engine, database, against a
stand-in for Discord in a process of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from bot.app import open_services
from bot.bench import discord_payloads, discord_standin
from bot.bench.work import Result, Timeline, Work, arrivals_s, result
from bot.client import PunchlineBot
from bot.errors import BotError
from bot.inference.engine import Engine, Event, Finished, GenerationRequest, TextDelta
from bot.ops.heartbeat import Heartbeat
from bot.settings import NO_LIMITS, Settings

_LAG_PERIOD_S = 0.02  # oftener, waking the loop costs the model some percent
# A round may take as long as it takes on this machine, as long as tokens come.
STALL_S = 300.0
_numbers = itertools.count(1)


class Metered:
    """An engine that notes when each question's tokens were there."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.timelines: dict[str, Timeline] = {}
        self.ended = asyncio.Event()  # set when an answer has, well or not

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """As the engine does."""
        timeline = self.timelines.setdefault(request.messages[-1].content, Timeline(time.perf_counter()))
        try:
            async with aclosing(self.engine.generate(request)) as events:
                async for event in events:
                    if isinstance(event, TextDelta | Finished):
                        timeline.note(time.perf_counter(), event.usage.completion_tokens)
                    yield event
        finally:
            timeline.ended = True
            self.ended.set()


class WholeBot:
    """A running bot that can be asked by many at once."""

    def __init__(self, bot: PunchlineBot, metered: Metered, work: Work, alias: str) -> None:
        self._bot = bot
        self._metered = metered
        self._work = work
        self._alias = alias

    async def ask(
        self, users: int, arrivals: str, *, system: str = "punchline", within_s: float = 4.0
    ) -> Result:
        """Have so many people ask, and wait for all answers.

        Raises:
            BotError: an answer ended without all of its tokens, or none came for `STALL_S`.
        """
        round_number = next(_numbers)
        questions = [f"{self._work.question(user)} ({round_number})" for user in range(users)]
        lags_s: list[float] = []
        async with Heartbeat(lags_s.append, _LAG_PERIOD_S):
            await self._asked_by_all(questions, arrivals_s(users, arrivals, within_s))
        timelines = [self._metered.timelines[one] for one in questions]
        if cut := [one.count for one in timelines if one.count < self._work.tokens]:
            raise BotError(
                f"{len(cut)} of {users} answers ended after {min(cut)} of {self._work.tokens} tokens: the log says why "
                "if they failed; else their context is full, so give a smaller --tokens."
            )
        return result(system, arrivals, timelines, lags_s)

    async def _asked_by_all(self, questions: Sequence[str], times_s: Sequence[float]) -> None:
        """Ask each question at its time, and return when all answers are there."""
        began_s = time.perf_counter()
        for user, (question, at_s) in enumerate(zip(questions, times_s, strict=True)):
            await asyncio.sleep(max(0.0, began_s + at_s - time.perf_counter()))
            self._metered.timelines[question] = Timeline(time.perf_counter())
            payload = discord_payloads.command_payload(
                next(_numbers), "ask", user % 8, prompt=question, model=self._alias
            )
            self._bot._connection.parse_interaction_create(payload)  # type: ignore[arg-type]  # as the gateway would
        timelines = [self._metered.timelines[question] for question in questions]
        while not all(one.ended for one in timelines):
            before = sum(one.count for one in timelines)
            self._metered.ended.clear()
            try:
                async with asyncio.timeout(STALL_S):
                    await self._metered.ended.wait()
            except TimeoutError:
                if sum(one.count for one in timelines) == before:
                    raise BotError(
                        f"No token came for {STALL_S:.0f} s. The log says what the bot was doing; fewer --users need "
                        "less time for each token."
                    ) from None


@asynccontextmanager
async def running(settings: Settings, engine: Engine, work: Work, alias: str) -> AsyncIterator[WholeBot]:
    """The bot around an engine, logged in at a stand-in with a latency of 50 ms."""
    metered = Metered(engine)
    with discord_standin.running(0.05):
        async with open_services(settings.model_copy(update=NO_LIMITS), metered) as services:
            spec = services.chooser._catalog[alias]
            services.chooser._catalog._specs[alias] = spec.model_copy(update={"sampling": work.sampling})
            bot = PunchlineBot(services=services, data_dir=settings.data_dir)
            await bot.login("a.b.c")
            try:
                yield WholeBot(bot, metered, work, alias)
            finally:
                await services.inference.drain(0)
                await bot.close()
