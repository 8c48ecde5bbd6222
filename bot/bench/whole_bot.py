"""The whole bot, from a command at the gateway to edits over HTTP: discord.py, queue, engine, database, against a
stand-in for Discord in a process of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from bot.app import open_services
from bot.bench import discord_payloads, discord_standin
from bot.bench.lag import LagMeter
from bot.bench.work import Result, Timeline, Work, arrivals_s, result
from bot.client import PunchlineBot
from bot.inference.engine import Event, GenerationRequest, TextDelta
from bot.inference.local import LocalEngine
from bot.settings import NO_LIMITS, Settings

_LAG_PERIOD_S = 0.02  # oftener, waking the loop costs the model some percent
_ROUND_TIMEOUT_S = 900.0
_numbers = itertools.count(1)


class Metered:
    """An engine that notes when each question's tokens were there."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self.timelines: dict[str, Timeline] = {}
        self.ended = asyncio.Event()  # set when an answer has

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """As the engine does."""
        timeline = self.timelines.setdefault(request.messages[-1].content, Timeline(time.perf_counter()))
        try:
            async with aclosing(self.engine.generate(request)) as events:
                async for event in events:
                    if isinstance(event, TextDelta):
                        timeline.tokens.append((time.perf_counter(), event.usage.completion_tokens))
                    yield event
        finally:
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
        """Have so many people ask, and wait for all answers."""
        round_number = next(_numbers)
        questions = [f"{self._work.question(user)} ({round_number})" for user in range(users)]
        lag = LagMeter(_LAG_PERIOD_S)
        meter = asyncio.create_task(lag.run())
        began_s = time.perf_counter()
        times = arrivals_s(users, arrivals, within_s)
        for user, (question, at_s) in enumerate(zip(questions, times, strict=True)):
            await asyncio.sleep(max(0.0, began_s + at_s - time.perf_counter()))
            self._metered.timelines[question] = Timeline(time.perf_counter())
            payload = discord_payloads.command_payload(
                next(_numbers), "ask", user % 8, prompt=question, model=self._alias
            )
            self._bot._connection.parse_interaction_create(payload)  # type: ignore[arg-type]  # as the gateway would
        async with asyncio.timeout(_ROUND_TIMEOUT_S):
            while any(self._open(question) for question in questions):
                self._metered.ended.clear()
                await self._metered.ended.wait()
        meter.cancel()
        return result(system, arrivals, [self._metered.timelines[one] for one in questions], lag.lags_s)

    def _open(self, question: str) -> bool:
        tokens = self._metered.timelines[question].tokens
        return not tokens or tokens[-1][1] < self._work.tokens


@asynccontextmanager
async def running(settings: Settings, engine: LocalEngine, work: Work, alias: str) -> AsyncIterator[WholeBot]:
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
