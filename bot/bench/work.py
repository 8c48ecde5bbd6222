"""What is measured: the same questions for everybody, and the numbers that come out. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, median
from typing import Any

from bot.chat.messages import ChatMessage
from bot.chat.prompt import ask_messages
from bot.inference.catalog import SamplingParams


@dataclass(frozen=True, slots=True)
class Work:
    """The questions, all answered with as many tokens.

    Attributes:
        tokens: of each answer.
        sampling: the model's own, with a fixed length and seed.
    """

    tokens: int
    sampling: SamplingParams

    @classmethod
    def of(cls, sampling: SamplingParams, tokens: int) -> Work:
        """With a model's own sampling."""
        fixed = {"max_new_tokens": tokens, "min_new_tokens": tokens, "seed": 1}
        # All of it is set: what the checkpoint recommends is not used, for it is not what the others are told.
        return cls(tokens, sampling.model_copy(update=sampling.model_dump() | fixed))

    def question(self, user: int) -> str:
        """What this user asks."""
        return f"Tell me a story about the number {user}."

    def messages(self, user: int) -> tuple[ChatMessage, ...]:
        """The same as a model reads it."""
        return ask_messages(self.question(user))


def arrivals_s(users: int, kind: str, within_s: float) -> list[float]:
    """When each user asks: all at once, or as a Poisson process does that brings them all in about `within_s`."""
    if kind == "once":
        return [0.0] * users
    drawn = random.Random(users)  # noqa: S311  the same in every run
    now_s, times = 0.0, []
    for _ in range(users):
        times.append(now_s)
        now_s += drawn.expovariate(users / within_s)
    return times


@dataclass(slots=True)
class Timeline:
    """When one answer's tokens were there, in seconds of one clock: (when, how many by then).

    Several tokens may come together, and one without text, such as a special token, with the next or with the end.
    `ended` says that no more will come, whatever the reason.
    """

    asked_s: float
    tokens: list[tuple[float, int]] = field(default_factory=list)
    ended: bool = False

    def note(self, now_s: float, count: int) -> None:
        """So many tokens are there now."""
        if count > self.count:
            self.tokens.append((now_s, count))

    def since_s(self, count: int) -> float:
        """When so many tokens were there, which they must be."""
        return next(at_s for at_s, there in self.tokens if there >= count)

    @property
    def count(self) -> int:
        """How many tokens are there."""
        return self.tokens[-1][1] if self.tokens else 0

    @property
    def first_token_s(self) -> float:
        """From the question to the first token."""
        return self.tokens[0][0] - self.asked_s

    @property
    def gaps_s(self) -> list[float]:
        """Between one token and the next; tokens that came together share theirs."""
        pairs = zip(self.tokens, self.tokens[1:], strict=False)
        return [(b[0] - a[0]) / max(1, b[1] - a[1]) for a, b in pairs]

    @property
    def tokens_per_second(self) -> float:
        """What this user saw."""
        return self.tokens[-1][1] / (self.tokens[-1][0] - self.asked_s)


@dataclass(frozen=True, slots=True)
class Result:
    """One row. What a system does not show is None."""

    system: str
    users: int
    arrivals: str
    tokens_per_second: float
    tokens_per_second_per_user: float
    first_token_median_s: float | None = None
    first_token_p95_s: float | None = None
    between_tokens_p95_s: float | None = None
    loop_lag_p99_s: float | None = None
    loop_lag_worst_s: float | None = None
    roofline_share: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The row by the names of its columns."""
        return asdict(self)


def result(system: str, arrivals: str, timelines: Sequence[Timeline], lags_s: Sequence[float] = ()) -> Result:
    """What timelines of one round come to."""
    began_s = min(one.asked_s for one in timelines)
    ended_s = max(one.tokens[-1][0] for one in timelines)
    firsts = sorted(one.first_token_s for one in timelines)
    gaps = sorted(gap for one in timelines for gap in one.gaps_s)
    return Result(
        system,
        len(timelines),
        arrivals,
        sum(one.tokens[-1][1] for one in timelines) / (ended_s - began_s),
        mean(one.tokens_per_second for one in timelines),
        median(firsts),
        at(firsts, 0.95),
        at(gaps, 0.95) if gaps else None,
        at(sorted(lags_s), 0.99) if lags_s else None,
        max(lags_s) if lags_s else None,
    )


def at(ordered: Sequence[float], share: float) -> float:
    """The value that this share of the ordered ones does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
