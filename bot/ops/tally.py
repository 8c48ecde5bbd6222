"""What happened in the newest minute and hour, for an operator's glance; whoever wants more has Prometheus."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

from bot.inference.catalog import ModelSpec
from bot.inference.engine import Event, Finished, TextDelta
from bot.inference.generation import Generation
from bot.inference.observer import LoadEnding
from bot.ops.metrics import REFUSALS, kind_of

_MINUTE_S, _HOUR_S = 60.0, 3_600.0
_STEPS = 60  # a span is forgotten in so many steps


class Tally:
    """An `Observer` that counts, and forgets what is older than a minute (tokens) or an hour (the rest).

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens = _Recently(_MINUTE_S, clock)
        self._answers = _Recently(_HOUR_S, clock)
        self._errors = _Recently(_HOUR_S, clock)
        self._refusals = _Recently(_HOUR_S, clock)

    @property
    def tokens_per_second(self) -> float:
        """All that models wrote within the newest minute, by its seconds."""
        return self._tokens.totals().total() / _MINUTE_S

    @property
    def answers(self) -> int:
        """How many answers have ended within the newest hour, in whatever way."""
        return self._answers.totals().total()

    @property
    def refusals(self) -> int:
        """How many commands were refused within the newest hour, because of a limit or a rule."""
        return self._refusals.totals().total()

    @property
    def errors(self) -> Counter[str]:
        """The errors within the newest hour, by name."""
        return self._errors.totals()

    def happened(self, generation: Generation, event: Event) -> None:
        """See `Observer.happened`."""
        if isinstance(event, TextDelta | Finished):
            new = event.usage.completion_tokens - generation.usage.completion_tokens
            if new > 0:
                self._tokens.add("", new)
        if isinstance(event, Finished):
            self._answers.add("")
            if event.error is not None:
                self._errors.add(kind_of(event.error))

    def loaded(self, model: ModelSpec, took_s: float, ending: LoadEnding) -> None:
        """See `Observer.loaded`."""

    def sent(self, purpose: str, since_s: float) -> None:
        """See `Observer.sent`."""

    def failed(self, error: BaseException) -> None:
        """See `Observer.failed`."""
        (self._refusals if isinstance(error, REFUSALS) else self._errors).add(kind_of(error))


class _Recently:
    """Counts by name over a span of time that ends now."""

    def __init__(self, span_s: float, clock: Callable[[], float]) -> None:
        self._step_s = span_s / _STEPS
        self._clock = clock
        self._steps: deque[tuple[int, Counter[str]]] = deque()

    def add(self, name: str, count: int = 1) -> None:
        step = self._now()
        if not self._steps or self._steps[-1][0] != step:
            self._steps.append((step, Counter()))
        self._steps[-1][1][name] += count

    def totals(self) -> Counter[str]:
        self._now()
        return sum((counts for _, counts in self._steps), Counter[str]())

    def _now(self) -> int:
        """The step that is now; those that are over the span are forgotten."""
        step = int(self._clock() / self._step_s)
        while self._steps and self._steps[0][0] <= step - _STEPS:
            self._steps.popleft()
        return step
