"""What is being answered right now: an id for each command, press or mention, which its log lines carry.

It lives in a context variable, so whoever logs need not be told. The queue hands it on to the task that has the model
answer (`InferenceQueue` starts tasks from its own context). What is done for several people, such as loading a model,
has none.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Trace:
    """One thing that somebody asked the bot for.

    Attributes:
        id: in each line of the log that is about it.
        command: what they used: a command's name, `mention`, or `button` and which. Never their words.
        words: what they wrote, so that the log can strike it out of errors that quote it.
    """

    id: str
    command: str
    words: tuple[str, ...] = field(default=(), repr=False)

    def reading(self, texts: Iterable[str]) -> Trace:
        """The same, for a part of the work that is given these texts too."""
        return replace(self, words=(*self.words, *texts))


NOTHING = Trace("", "unknown")
_current: ContextVar[Trace] = ContextVar("trace", default=NOTHING)


def begin(command: str, words: Iterable[str] = ()) -> Trace:
    """Begin one, for the rest of this task and what it starts."""
    trace = Trace(secrets.token_hex(4), command, tuple(words))
    resume(trace)
    return trace


def resume(trace: Trace) -> None:
    """Go on with one in another context."""
    _current.set(trace)


def current() -> Trace:
    """The one that is being worked on; `NOTHING` where that is nobody's request."""
    return _current.get()


def words_in(options: Any) -> list[str]:
    """The texts among a command's options, as Discord sends them; options of a subcommand lie inside of its own."""
    found: list[str] = []
    for option in options or ():
        if isinstance(value := option.get("value"), str):
            found.append(value)
        found += words_in(option.get("options"))
    return found
