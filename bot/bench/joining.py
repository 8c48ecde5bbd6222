"""What it costs to join: fifteen are being answered, and one more asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from statistics import mean, median
from typing import Any

from bot.bench.work import Timeline
from bot.chat.prompt import ask_messages
from bot.errors import BotError
from bot.inference.catalog import ModelSpec
from bot.inference.engine import Engine, Finished, GenerationRequest, TextDelta

RUNNING = 15
_ROUNDS = 3
_BEFORE_TOKENS = 12  # of each who runs: their speed before somebody joins
_ANSWER_TOKENS = 64  # of who joins
_RESERVE_TOKENS = 48  # which those who run may have while somebody's prompt is read
_STALL_S = 300.0  # a round may take as long as it takes on this machine, as long as tokens come

# The questions, by the words that follow them. None begins like another one, or the cache would have read it already.
_SHORT, _LONG = 0, 950


@dataclass(frozen=True, slots=True)
class Joining:
    """One who joins.

    Attributes:
        prompt_tokens: what it brings to be read.
        step_s: from one token of the others to the next, before.
        alone_s: its first token when nobody else is there.
        first_token_s: its first token.
        loss_reading: the part of their speed that the others lose from the step in which it asks to its first token.
        loss: the same, to the end of its answer.
    """

    prompt_tokens: int
    step_s: float
    alone_s: float
    first_token_s: float
    loss_reading: float
    loss: float

    @property
    def bound_s(self) -> float:
        """What its first token may take: two steps of the others, and what it takes alone."""
        return 2 * self.step_s + self.alone_s

    def as_json(self) -> dict[str, Any]:
        """By names."""
        return asdict(self) | {"bound_s": self.bound_s}


async def joining(engine: Engine, spec: ModelSpec) -> list[Joining]:
    """Measure at the engine, with a short question and a long one; each is the median of some rounds.

    Raises:
        BotError: no token came for `_STALL_S`, or those who run ended before the last one had joined.
    """
    try:
        return [await _median(_Round(engine, spec, words)) for words in (_SHORT, _LONG)]
    except TimeoutError:
        raise BotError(f"No token came for {_STALL_S:.0f} s while one joined {RUNNING}.") from None


def spoken(rows: Sequence[Joining]) -> str:
    """A line for each."""
    return "\n".join(
        f"joining {RUNNING}: {one.prompt_tokens} tokens to read, first token after {one.first_token_s:.2f} s (bound "
        f"{one.bound_s:.2f} s: two steps of {one.step_s:.3f} s, {one.alone_s:.2f} s alone); the others lose "
        f"{one.loss_reading:.0%} of their speed until then, {one.loss:.0%} until it is answered"
        for one in rows
    )


async def _median(rounds: _Round) -> Joining:
    alone = [await rounds.ask(_ANSWER_TOKENS) for _ in range(_ROUNDS)]
    alone_s = median(one.timeline.first_token_s for one in alone[1:])
    joined = await rounds.joined(_ROUNDS)
    names = ("step_s", "first_token_s", "loss_reading", "loss")
    values = {name: median(getattr(one, name) for one in joined) for name in names}
    return replace(joined[0], alone_s=alone_s, **values)


@dataclass(slots=True)
class _Asked:
    timeline: Timeline
    prompt_tokens: int = 0


class _Round:
    """Requests with questions of one length."""

    def __init__(self, engine: Engine, spec: ModelSpec, words: int) -> None:
        self._engine = engine
        self._spec = spec
        self._words = words
        self._asked = words  # a number for each question, and another one for each length
        self._grown = asyncio.Event()  # set with every token

    async def joined(self, rounds: int) -> list[Joining]:
        """Have some join, one after the other, while the same fifteen run."""
        tokens = rounds * (_BEFORE_TOKENS + _ANSWER_TOKENS + _RESERVE_TOKENS)
        others = [_Asked(Timeline(time.perf_counter())) for _ in range(RUNNING)]
        tasks = [asyncio.create_task(self._answer(one, 0, tokens)) for one in others]
        try:
            return [await self._one(others) for _ in range(rounds)]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, others: Sequence[_Asked]) -> Joining:
        lines = [one.timeline for one in others]
        begun = [one.count for one in lines]
        while any(one.count < n + _BEFORE_TOKENS for one, n in zip(lines, begun, strict=True)):
            _require_running(lines)
            self._grown.clear()
            async with asyncio.timeout(_STALL_S):
                await self._grown.wait()
        asked_s = time.perf_counter()
        newcomer = await self.ask(_ANSWER_TOKENS)
        _require_running(lines)
        first_s, end_s = newcomer.timeline.tokens[0][0], newcomer.timeline.tokens[-1][0]
        before = mean(_rate(one, one.since_s(n + 2), asked_s) for one, n in zip(lines, begun, strict=True))
        return Joining(
            newcomer.prompt_tokens,
            1 / before,
            0.0,
            newcomer.timeline.first_token_s,
            1 - mean(_rate(one, asked_s, first_s) for one in lines) / before,
            1 - mean(_rate(one, asked_s, end_s) for one in lines) / before,
        )

    async def ask(self, tokens: int) -> _Asked:
        """One question, to its end."""
        asked = _Asked(Timeline(time.perf_counter()))
        await self._answer(asked, self._words, tokens)
        return asked

    async def _answer(self, asked: _Asked, words: int, tokens: int) -> None:
        self._asked += 1
        question = f"{self._asked} times: tell me a story." + " word" * words
        fixed = {"max_new_tokens": tokens, "min_new_tokens": tokens, "seed": self._asked}
        sampling = self._spec.sampling.model_copy(update=fixed)
        request = GenerationRequest(self._spec, ask_messages(question), sampling)
        now_s = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(_STALL_S) as stall, aclosing(self._engine.generate(request)) as events:
                async for event in events:
                    stall.reschedule(now_s() + _STALL_S)
                    if isinstance(event, TextDelta | Finished):
                        asked.prompt_tokens = event.usage.prompt_tokens
                        asked.timeline.note(time.perf_counter(), event.usage.completion_tokens)
                        self._grown.set()
        finally:
            asked.timeline.ended = True
            self._grown.set()


def _require_running(timelines: Sequence[Timeline]) -> None:
    if any(one.ended for one in timelines):
        raise BotError(f"One of the {RUNNING} answers ended before the last one had joined.")


def _rate(timeline: Timeline, from_s: float, to_s: float) -> float:
    """Tokens a second in whole steps: from the last one that was there at `from_s` to the one nearest to `to_s`."""
    begun = max((one for one in timeline.tokens if one[0] <= from_s), key=lambda one: one[0])
    ended = min((one for one in timeline.tokens if one[0] > begun[0]), key=lambda one: abs(one[0] - to_s))
    return (ended[1] - begun[1]) / (ended[0] - begun[0])
