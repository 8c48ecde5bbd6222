"""What happened, counted for Prometheus. What can be looked at any time is read when Prometheus asks (`readings.py`).

Labels take few values, whoever uses the bot: aliases of the catalogue, names of commands and of errors; never a person,
a server or a channel. All of it lives in a registry of its own.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector

from bot import __version__
from bot.errors import BotError, NotAllowed, QueueFull, ShuttingDown
from bot.inference.catalog import ModelSpec
from bot.inference.engine import Event, Finished, Reading, TextDelta, Usage
from bot.inference.generation import Generation
from bot.inference.observer import LoadEnding

_LIBRARIES = ("discord.py", "torch", "transformers", "bitsandbytes")
REFUSALS = (QueueFull, ShuttingDown, NotAllowed)  # the bot does as it was told: no errors

_WAITS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1_800)
_ANSWERS_S = (0.5, 1, 2, 4, 8, 15, 30, 60, 120, 180, 300, 600)
_LOADS_S = (1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1_800)
_SPEEDS = (1, 2, 4, 6, 8, 10, 15, 20, 30, 40, 60, 80, 120, 200)
_GAPS_S = (0.5, 1, 1.5, 2, 3, 5, 8, 13, 20, 40)
_LAGS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_CALLS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 15, 30)


class Metrics:
    """The numbers, and the `Observer` that they come from.

    Args:
        clock: seconds that only go forward; the queue's own.

    Attributes:
        registry: where they are read from.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = registry = CollectorRegistry()
        self._clock = clock

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(name, says, labels, namespace="punchline", registry=registry)

        def histogram(name: str, says: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, says, labels, namespace="punchline", registry=registry, buckets=buckets)

        ProcessCollector(registry=registry)
        Info("build", "Versions.", namespace="punchline", registry=registry).info(_versions())

        self._requests = counter(
            "requests", "Requests for an answer that have ended.", "model", "command", "ending"
        )
        self._refusals = counter("refusals", "Commands that were refused, by the reason's name.", "kind")
        self._errors = counter("errors", "Errors that people were told of, by name.", "where", "kind")
        self._tokens = counter("tokens", "Tokens that models read and wrote.", "model", "kind")
        self._loads = counter("loads", "Loads of models.", "model", "ending")
        self._wait_s = histogram(
            "wait_seconds", "From the asking to the turn, or to giving up.", _WAITS_S, "model"
        )
        self._first_token_s = histogram(
            "first_token_seconds", "From the asking to the first token, with all waits.", _WAITS_S, "model"
        )
        self._generation_s = histogram(
            "generation_seconds", "From the turn to the end of the answer.", _ANSWERS_S, "model"
        )
        self._speed = histogram(
            "answer_tokens_per_second",
            "Tokens a second of one answer, reading included.",
            _SPEEDS,
            "model",
        )
        self._load_s = histogram("load_seconds", "Loads of models that succeeded.", _LOADS_S, "model")
        self._gap_s = histogram(
            "reply_gap_seconds",
            "From one thing that a reply showed to the next, by what the next was.",
            _GAPS_S,
            "purpose",
        )
        self.lag_s = histogram("event_loop_lag_seconds", "How late the event loop was.", _LAGS_S)
        self.discord_requests = counter("discord_requests", "Requests to Discord.", "kind", "status")
        self.discord_request_s = histogram(
            "discord_request_seconds", "Requests to Discord that were answered.", _CALLS_S, "kind"
        )
        self.rate_limits = counter("discord_rate_limits", "Requests that Discord refused with 429.", "scope")
        self.disconnects = counter("gateway_disconnects", "Times that the connection to Discord was lost.")
        self.reconnects = counter("gateway_reconnects", "Times that it was there again.", "how")

    def happened(self, generation: Generation, event: Event) -> None:
        """See `Observer.happened`."""
        alias = generation.request.model.alias
        match event:
            case Reading():
                self._count_tokens(alias, generation.usage, event.usage)
            case TextDelta():
                if not generation.usage.completion_tokens:
                    self._first_token_s.labels(alias).observe(self._clock() - generation.asked_s)
                self._count_tokens(alias, generation.usage, event.usage)
            case Finished():
                self._count_tokens(alias, generation.usage, event.usage)
                self._end(generation, event)

    def loaded(self, model: ModelSpec, took_s: float, ending: LoadEnding) -> None:
        """See `Observer.loaded`."""
        self._loads.labels(model.alias, ending.value).inc()
        if ending is LoadEnding.LOADED:
            self._load_s.labels(model.alias).observe(took_s)

    def sent(self, purpose: str, since_s: float) -> None:
        """See `Observer.sent`."""
        self._gap_s.labels(purpose).observe(since_s)

    def failed(self, error: BaseException) -> None:
        """See `Observer.failed`."""
        if isinstance(error, REFUSALS):
            self._refusals.labels(type(error).__name__).inc()
        else:
            self._errors.labels("command", kind_of(error)).inc()

    def _count_tokens(self, alias: str, before: Usage, now: Usage) -> None:
        """Those that are new since the event before: an answer that is cut off has had its tokens too."""
        if (read := now.prompt_tokens - before.prompt_tokens) > 0:
            self._tokens.labels(alias, "prompt").inc(read)
        if (wrote := now.completion_tokens - before.completion_tokens) > 0:
            self._tokens.labels(alias, "completion").inc(wrote)

    def _end(self, generation: Generation, finished: Finished) -> None:
        alias, now_s = generation.request.model.alias, self._clock()
        self._requests.labels(alias, generation.trace.command, finished.reason.value).inc()
        if finished.error is not None:
            self._errors.labels("answer", kind_of(finished.error)).inc()
        begun_s = now_s if generation.begun_s is None else generation.begun_s
        self._wait_s.labels(alias).observe(begun_s - generation.asked_s)
        if generation.begun_s is not None:
            self._generation_s.labels(alias).observe(now_s - begun_s)
        if (speed := finished.usage.tokens_per_second) is not None:
            self._speed.labels(alias).observe(speed)


def kind_of(error: BaseException) -> str:
    """The name of an error of ours, or of the library that it comes from: what libraries raise is no list we know."""
    if isinstance(error, BotError):
        return type(error).__name__
    return f"unexpected ({type(error).__module__.partition('.')[0]})"


def _versions() -> dict[str, str]:
    found = {"version": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):  # it may be installed in some other way
            found[name.replace(".", "_")] = version(name)
    return found
