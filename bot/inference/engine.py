"""What an engine is: the request that goes in, the events that come out. No torch, no discord."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from bot.chat.messages import AnswerTokens, ChatMessage
from bot.errors import BotError
from bot.inference.catalog import ModelKey, ModelSpec, SamplingParams
from bot.inference.memory import MemoryReport


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"  # the model came to its own end
    LENGTH = "length"  # the token limit, or the context window, cut it
    CANCELLED = "cancelled"  # a person stopped it, or nobody wants it any more
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Usage:
    """The numbers of a generation so far; loading and waiting for a turn are not part of them.

    `time_to_first_token_s` and `generation_s` both count from the moment the model began with the prompt.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    time_to_first_token_s: float | None = None
    generation_s: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """Completion tokens a second, the prompt's share of the time included; None before the first."""
        if not self.completion_tokens or self.generation_s <= 0:
            return None
        return self.completion_tokens / self.generation_s


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits: `position` 1 is the next to run; `eta_s` is None while nothing was measured."""

    position: int
    eta_s: float | None


class LoadStep(StrEnum):
    """What is being done for a model that is not in memory."""

    LOADING = "loading"
    DOWNLOADING = "downloading"


@dataclass(frozen=True, slots=True)
class Loading:
    """The model is being brought into memory.

    `fraction` is how far the step is, 0 to 1; None where it cannot be told. `eta_s` is what the step will still
    take, at the speed it has had so far.
    """

    model: str
    fraction: float | None
    eta_s: float | None = None
    step: LoadStep = LoadStep.LOADING


@dataclass(frozen=True, slots=True)
class Reading:
    """The model begins with the prompt. `usage` has the prompt's tokens: from here on the request costs, also if it is
    stopped before the first word. There is nothing to show, so readers of a `Generation` do not get it. `params` is the
    sampling that is used: the request's, with the checkpoint's values for what it left open."""

    usage: Usage
    params: SamplingParams | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text, never half a character, and the numbers up to it."""

    text: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every generation.

    Attributes:
        reason: why it ended.
        usage: the numbers.
        error: there exactly when `reason` is ERROR.
        tokens: of the whole answer, with the words that it went on from; None where the engine does not know them, or
            the answer cannot go on. Not part of equality.
    """

    reason: FinishReason
    usage: Usage
    error: BotError | None = None
    tokens: AnswerTokens | None = field(default=None, compare=False, repr=False)


Event = Queued | Loading | Reading | TextDelta | Finished


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to answer, with which model, and how; `person` is who asks, so that people share (None: nobody known)."""

    model: ModelSpec
    messages: tuple[ChatMessage, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    person: int | None = None


Report = Callable[[Loading], None]


class Engine(Protocol):
    """Something that answers. `InferenceQueue` calls it for no more requests at a time than it has slots.

    An engine whose models are always there is always `ready`, and the other methods about models do nothing.
    """

    def ready(self, model: ModelSpec) -> bool:
        """Whether the model is in memory: it could answer at once."""
        ...

    def joins(self, model: ModelSpec, running: Iterable[ModelSpec]) -> bool:
        """Whether a request for a model that is in memory may be answered beside requests for these.

        No for a model that answers one request at a time, if `running` is not empty.
        """
        ...

    async def fetch(self, model: ModelSpec, report: Report) -> None:
        """Bring the model's files to this disk and learn how much memory it needs.

        Raises:
            BotError: it cannot be had.
        """
        ...

    def victims(self, model: ModelSpec) -> tuple[ModelKey, ...] | None:
        """The models that must be unloaded so that a fetched one fits; None while models in use are in the way.

        Raises:
            BotError: it can never fit.
        """
        ...

    def unload(self, models: tuple[ModelKey, ...]) -> None:
        """Take models that are not in use out of service; their memory is free before the next one is loaded."""
        ...

    def pin(self, models: Iterable[ModelSpec]) -> None:
        """Keep these models, and no others, in memory once they are loaded, whoever needs room."""
        ...

    async def load(self, model: ModelSpec, report: Report) -> None:
        """Bring a fetched model into memory, unloading others for it where needed. Cancelling the task stops it.

        Raises:
            BotError: it cannot be loaded.
        """
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Answer `request`: any number of `Loading`, one `Reading`, any number of `TextDelta`, then one `Finished`.

        Closing the iterator, or cancelling the task that reads it, stops the model within one token, and
        returns only when it has stopped.

        Raises:
            BotError: it cannot be answered, for a reason the person can read.
        """
        ...

    def memory(self) -> MemoryReport:
        """What is in memory now, under which budget."""
        ...

    async def aclose(self) -> None:
        """Let go of models, threads and connections."""
        ...
