"""Who looks on while requests are answered: for numbers, never in the way. No library, no policy."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # a generation is given its observer
    from bot.inference.catalog import ModelSpec
    from bot.inference.engine import Event
    from bot.inference.generation import Generation


class LoadEnding(StrEnum):
    """How a load ended."""

    LOADED = "loaded"
    FAILED = "failed"
    ABANDONED = "abandoned"  # nobody waited for the model any more


class Observer(Protocol):
    """Hears what happens, on the event loop. Nothing here may raise or wait."""

    def happened(self, generation: Generation, event: Event) -> None:
        """Called with each event of each generation, in order and once, before the generation takes it in: its
        `usage` is still that of the event before. The last one is `Finished`."""
        ...

    def loaded(self, model: ModelSpec, took_s: float, ending: LoadEnding) -> None:
        """A model was loaded, or was to be; fetching its files is not part of the time."""
        ...

    def sent(self, purpose: str, since_s: float) -> None:
        """A request that shows a reply is being sent.

        Args:
            purpose: what it is worth sending for; one of a few words.
            since_s: the time since whoever reads the reply saw something new.
        """
        ...

    def failed(self, error: BaseException) -> None:
        """A command, a press or a mention ended in an error that was no answer's; a `BotError` is one that people can
        read."""
        ...


class Unobserved:
    """Nobody looks on."""

    def happened(self, generation: Generation, event: Event) -> None:
        """Nothing."""

    def loaded(self, model: ModelSpec, took_s: float, ending: LoadEnding) -> None:
        """Nothing."""

    def sent(self, purpose: str, since_s: float) -> None:
        """Nothing."""

    def failed(self, error: BaseException) -> None:
        """Nothing."""


class Several:
    """Observers who look on together."""

    def __init__(self, *observers: Observer) -> None:
        self._all = observers

    def happened(self, generation: Generation, event: Event) -> None:
        """See `Observer.happened`."""
        for one in self._all:
            one.happened(generation, event)

    def loaded(self, model: ModelSpec, took_s: float, ending: LoadEnding) -> None:
        """See `Observer.loaded`."""
        for one in self._all:
            one.loaded(model, took_s, ending)

    def sent(self, purpose: str, since_s: float) -> None:
        """See `Observer.sent`."""
        for one in self._all:
            one.sent(purpose, since_s)

    def failed(self, error: BaseException) -> None:
        """See `Observer.failed`."""
        for one in self._all:
            one.failed(error)


UNOBSERVED = Unobserved()
