"""How long those who wait will still wait, from what answers and loads have taken so far.

Each model has numbers of its own; one that never answered borrows those of all models together. What nothing
was measured for is endless here and None for people: no time is better than one that was made up. Pure but for the
clock.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from bot.inference.catalog import ModelKey, ModelSpec
from bot.inference.engine import Finished, FinishReason, GenerationRequest
from bot.inference.generation import Generation

# Whether a request for a model in memory may be answered beside requests for the others: see `Engine.joins`.
Joins = Callable[[ModelSpec, Sequence[ModelSpec]], bool]

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


def together(model: ModelSpec, running: Sequence[ModelSpec]) -> bool:
    """For an engine that answers everything beside everything."""
    return True


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
        joins: Joins = together,
    ) -> list[float | None]:
        """The time until each of those who wait has its turn; None where it cannot be told.

        Slots go to the line one by one, in the order of `in_turn`, as soon as one is free and `joins` allows it. A
        load that is under way goes on beside the answers. Any other begins when those before it have ended, since
        until then there is no room for it, and counts once for all who wait for that model.

        Args:
            running: those who have a slot.
            waiting: the line, in the order of arrival.
            slots: how many may run at a time.
            arrival: when a model will be in memory; None for one that is there.
            overtaking_limit: see `schedule.next_to_start`.
            joins: whether one may be answered beside those who are being answered then.
        """
        running = list(running)
        slots_taken = _SlotsTaken(slots, joins)
        for one in running:
            slots_taken.take(self._left_s(one), one.request.model)
        current_models = slots_taken.models
        models = {one.request.model.key: one.request.model for one in waiting}
        arrivals = {key: arrival(model) for key, model in models.items()}
        starts_s: dict[Generation, float] = {}
        loaded_s, current = 0.0, None
        order = in_turn(
            waiting,
            lambda model: arrivals[model.key],
            overtaking_limit,
            joins=lambda model: joins(model, current_models),
        )
        for one in order:
            awaited = arrivals[one.request.model.key]
            if awaited is not None and one.request.model.key != current:
                begun_s = 0.0 if awaited.under_way else max(loaded_s, slots_taken.last_end_s)
                left_s = math.inf if awaited.left_s is None else awaited.left_s
                loaded_s = max(loaded_s, begun_s + left_s)
            current = one.request.model.key
            starts_s[one] = slots_taken.wait_for_turn(one.request.model, loaded_s)
            slots_taken.take(starts_s[one] + self._run_s(one.request, done_tokens=0), one.request.model)
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


class _SlotsTaken:
    """Who is being answered at a moment of the future, which only goes forward.

    Args:
        slots: how many may be at a time.
        joins: whether one may be beside others.
    """

    def __init__(self, slots: int, joins: Joins) -> None:
        self._slots = slots
        self._joins = joins
        self._now_s = 0.0
        self._numbers = itertools.count()
        self._answers: list[
            tuple[float, int, ModelSpec]
        ] = []  # a heap: when each ends, and which model it keeps busy
        self.last_end_s = 0.0

    @property
    def models(self) -> list[ModelSpec]:
        """What is being answered with, each model once."""
        return list({model.key: model for _, _, model in self._answers}.values())

    def take(self, end_s: float, model: ModelSpec) -> None:
        """Somebody is answered until `end_s`."""
        heapq.heappush(self._answers, (end_s, next(self._numbers), model))
        self.last_end_s = max(self.last_end_s, end_s)

    def wait_for_turn(self, model: ModelSpec, earliest_s: float) -> float:
        """When somebody can be answered with a model; that is now, from here on."""
        self._now_s = max(self._now_s, earliest_s)
        while self._answers and (self._answers[0][0] <= self._now_s or not self._is_free_for(model)):
            end_s, _, _ = heapq.heappop(self._answers)
            self._now_s = max(self._now_s, end_s)
        return self._now_s

    def _is_free_for(self, model: ModelSpec) -> bool:
        return len(self._answers) < self._slots and self._joins(model, self.models)


def in_turn(
    waiting: Sequence[Generation],
    arrival: Callable[[ModelSpec], Arrival | None],
    overtaking_limit: int,
    *,
    joins: Callable[[ModelSpec], bool] = lambda _: True,
) -> list[Generation]:
    """Those who wait in the order in which `schedule` will probably begin them.

    First come those whose model is in memory and who may be answered beside those who are now, up to the first who may
    not be passed any more; then the others model by model, because who is behind with the same model goes before a
    change: first the models that are in memory.

    Args:
        waiting: in the order of arrival.
        arrival: when a model will be in memory; None for one that is there.
        overtaking_limit: see `schedule.next_to_start`.
        joins: whether a request for a model in memory may be answered beside those who are being answered now.
    """
    first: list[Generation] = []
    next_ones: dict[ModelKey, list[Generation]] = {}
    later: dict[ModelKey, list[Generation]] = {}
    held_up = False
    for one in waiting:
        model, awaited = one.request.model, arrival(one.request.model)
        if held_up or awaited is not None:
            later.setdefault(model.key, []).append(one)
        elif joins(model):
            first.append(one)
            continue
        else:
            next_ones.setdefault(model.key, []).append(one)
        waits_for_others = awaited is None or not awaited.under_way
        held_up = held_up or (waits_for_others and one.overtaken >= overtaking_limit)
    return [*first, *(one for group in (*next_ones.values(), *later.values()) for one in group)]


def spoken(seconds: float) -> str:
    """A limit for people: "30 seconds", "5 minutes"."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


def _own_or_all(own: _Mean, everybody: _Mean) -> float | None:
    return everybody.value if own.value is None else own.value


def _known(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
