"""How long those who wait will still wait, from what answers and loads have taken so far.

Each model has numbers of its own; one that never answered borrows those of all models together. What nothing
was measured for is endless here and None for people: no time is better than one that was made up. Pure but for the
clock.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bot.inference.catalog import ModelKey, ModelSpec
from bot.inference.engine import Finished, FinishReason, GenerationRequest
from bot.inference.generation import Generation

LEAST_S = 1.0  # what is said of something that should have ended by now
_NEWEST = 0.2  # the weight of the newest number in a mean
_NOTICEABLE_S = 3.0  # a wait that moves by less is no news,
_NOTICEABLE_PART = 0.2  # nor by less than this part of it


@dataclass(slots=True)
class _Mean:
    """An exponential mean: the newest number counts most, and one that was odd is forgotten."""

    value: float | None = None

    def add(self, number: float) -> None:
        self.value = number if self.value is None else (1 - _NEWEST) * self.value + _NEWEST * number


@dataclass(slots=True)
class _Measured:
    """What is known of one model, or of all; `token_s` is the time from one token to the next."""

    first_token_s: _Mean = field(default_factory=_Mean)
    token_s: _Mean = field(default_factory=_Mean)
    answer_tokens: _Mean = field(default_factory=_Mean)
    load_s: _Mean = field(default_factory=_Mean)


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a model will be in memory that is not.

    Attributes:
        left_s: what that will still take; None if nobody can tell.
        under_way: whether it is being done now. If not, it begins when those who run make room.
    """

    left_s: float | None
    under_way: bool


@dataclass(frozen=True, slots=True)
class Told:
    """What somebody who waits was told, and when: a wait grows shorter by itself, which is no news."""

    position: int
    eta_s: float | None
    at_s: float

    def outdated_by(self, now: Told) -> bool:
        """Whether `now` would be news: another position, or a wait noticeably other than what is left of this."""
        if self.position != now.position:
            return True
        if self.eta_s is None or now.eta_s is None:
            return self.eta_s is not now.eta_s
        left_s = max(0.0, self.eta_s - (now.at_s - self.at_s))
        return abs(now.eta_s - left_s) >= max(_NOTICEABLE_S, _NOTICEABLE_PART * left_s)


class Estimates:
    """Learns from every answer and every load, and tells what those who wait may expect.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._all = _Measured()
        self._by_key: dict[ModelKey, _Measured] = {}

    def answered(self, model: ModelSpec, finished: Finished) -> None:
        """Learn from an answer that was not broken off."""
        usage = finished.usage
        if finished.reason not in (FinishReason.STOP, FinishReason.LENGTH) or not usage.completion_tokens:
            return
        first_s = usage.time_to_first_token_s
        for measured in self._both(model):
            measured.answer_tokens.add(usage.completion_tokens)
            if first_s is not None:
                measured.first_token_s.add(first_s)
                if usage.completion_tokens > 1:
                    after_s = max(0.0, usage.generation_s - first_s)
                    measured.token_s.add(after_s / (usage.completion_tokens - 1))

    def loaded(self, model: ModelSpec, took_s: float) -> None:
        """Learn from a load."""
        for measured in self._both(model):
            measured.load_s.add(took_s)

    def load_s(self, model: ModelSpec) -> float | None:
        """What a load of this very model takes; None if there was none yet."""
        return self._of(model).load_s.value

    def likely_load_s(self, model: ModelSpec) -> float | None:
        """The same, or what loads take here where this model was never loaded."""
        own_s = self.load_s(model)
        return self._all.load_s.value if own_s is None else own_s

    def run_s(self, request: GenerationRequest) -> float | None:
        """What the whole answer will take; None if nothing was measured that tells."""
        return _known(self._run_s(request, done_tokens=0))

    def left_s(self, generation: Generation) -> float | None:
        """What an answer that has its turn will still take, from the tokens it has, or the time it had."""
        return _known(self._left_s(generation))

    def waits_s(
        self,
        running: Iterable[Generation],
        waiting: Sequence[Generation],
        slots: int,
        arrival: Callable[[ModelSpec], Arrival | None],
        overtaking_limit: int,
    ) -> list[float | None]:
        """The time until each of those who wait has its turn; None where it cannot be told.

        Slots go to the line one by one, in the order of `in_turn`. A load that is under way goes on beside the
        answers. Any other begins when those before it have ended, since until then there is no room for it, and
        counts once for all who wait for that model.

        Args:
            running: those who have a slot.
            waiting: the line, in the order of arrival.
            slots: how many may run at a time.
            arrival: when a model will be in memory; None for one that is there.
            overtaking_limit: see `schedule.next_to_start`.
        """
        free_s = [self._left_s(one) for one in running]
        free_s += [0.0] * (slots - len(free_s))
        heapq.heapify(free_s)
        models = {one.request.model.key: one.request.model for one in waiting}
        arrivals = {key: arrival(model) for key, model in models.items()}
        starts_s: dict[Generation, float] = {}
        loaded_s, current = 0.0, None
        for one in in_turn(waiting, lambda model: arrivals[model.key], overtaking_limit):
            awaited = arrivals[one.request.model.key]
            if awaited is not None and one.request.model.key != current:
                begun_s = 0.0 if awaited.under_way else max(loaded_s, *free_s)
                left_s = math.inf if awaited.left_s is None else awaited.left_s
                loaded_s = max(loaded_s, begun_s + left_s)
            current = one.request.model.key
            starts_s[one] = max(free_s[0], loaded_s)
            heapq.heapreplace(free_s, starts_s[one] + self._run_s(one.request, done_tokens=0))
        return [_known(starts_s[one]) for one in waiting]

    def _left_s(self, generation: Generation) -> float:
        if generation.finished is not None:
            return LEAST_S  # its reader has left, and the model stops within a token
        done_tokens = generation.usage.completion_tokens
        left_s = self._run_s(generation.request, done_tokens)
        if not done_tokens and generation.begun_s is not None:
            left_s -= self.clock() - generation.begun_s
        return max(LEAST_S, left_s)

    def _run_s(self, request: GenerationRequest, done_tokens: int) -> float:
        """The time from the token after `done_tokens` to the end; endless where nothing tells."""
        own = self._of(request.model)
        first_s = _own_or_all(own.first_token_s, self._all.first_token_s)
        token_s = _own_or_all(own.token_s, self._all.token_s)
        usual_tokens = _own_or_all(own.answer_tokens, self._all.answer_tokens)
        if first_s is None or token_s is None or usual_tokens is None:
            return math.inf
        params = request.params
        tokens = min(max(usual_tokens, params.min_new_tokens), params.max_new_tokens)
        if done_tokens:
            return max(0.0, tokens - done_tokens) * token_s
        return first_s + max(0.0, tokens - 1) * token_s

    def _of(self, model: ModelSpec) -> _Measured:
        return self._by_key.get(model.key, _NOTHING)

    def _both(self, model: ModelSpec) -> tuple[_Measured, _Measured]:
        return self._all, self._by_key.setdefault(model.key, _Measured())


_NOTHING = _Measured()


def in_turn(
    waiting: Sequence[Generation], arrival: Callable[[ModelSpec], Arrival | None], overtaking_limit: int
) -> list[Generation]:
    """Those who wait in the order in which `schedule` will probably begin them.

    First come those whose model is in memory, up to the first who may not be passed any more; then the others
    model by model, because who is behind with the same model goes before a change.
    """
    first: list[Generation] = []
    later: dict[ModelKey, list[Generation]] = {}
    held_up = False
    for one in waiting:
        awaited = arrival(one.request.model)
        if awaited is None and not held_up:
            first.append(one)
            continue
        later.setdefault(one.request.model.key, []).append(one)
        if awaited is not None and not awaited.under_way and one.overtaken >= overtaking_limit:
            held_up = True
    return [*first, *(one for group in later.values() for one in group)]


def spoken(seconds: float) -> str:
    """A limit for people: "30 seconds", "5 minutes"."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _own_or_all(own: _Mean, everybody: _Mean) -> float | None:
    return everybody.value if own.value is None else own.value


def _known(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
