"""The one error tree. A `BotError`'s message is a sentence fit for the person who reads it.

Anything else that escapes is a bug: the person gets `Unexpected` with a reference number, and the log has
the traceback under the same number.
"""

from __future__ import annotations

import re
from typing import ClassVar

# An absolute path of two parts or more, with `~` or a drive before it or not. One part alone is a slash command;
# behind a colon or a word it is a part of an address or of "and/or".
_PATH = re.compile(
    r"""(?<![\w:/\\.~-])(?:~|[A-Za-z]:)?(?:[/\\][^\s'"`<>|,;()/\\]+){2,}[/\\]?(?<![.:])""",
)


class BotError(Exception):
    """Something went wrong in a way we can explain; `str(error)` is the explanation and the fix, for operators.

    Args:
        message: the explanation, which may name the operator's folders.
        for_people: the same for anybody, where the message is not for everybody.

    Attributes:
        to_operators: whether only people who run the bot meet such errors, who read them as they are.
    """

    to_operators: ClassVar[bool] = False

    def __init__(self, message: str = "", *, for_people: str | None = None) -> None:
        super().__init__(message)
        self._for_people = for_people

    @property
    def for_people(self) -> str:
        """What anybody may read of it: no folder of the operator's."""
        if self.to_operators:
            return str(self)
        return without_paths(str(self)) if self._for_people is None else self._for_people

    @property
    def is_more_for_operators(self) -> bool:
        """Whether the message says more than `for_people`: then it belongs into the log."""
        return self.for_people != str(self)


def without_paths(text: str) -> str:
    """The text with "…" for each absolute path."""
    return _PATH.sub("…", text)


class UsageError(BotError):
    """The command line, or a command typed into the demo, was not understood."""


class SettingsError(BotError):
    """A setting is missing or malformed. Names the variable and the fix, never the value of a secret."""

    to_operators = True


class CatalogError(BotError):
    """`models.toml` cannot be used. Names the file, the line and the fix."""

    to_operators = True


class StorageError(BotError):
    """The database cannot be used, or could not keep something."""


class NotAllowed(BotError):
    """A person may not do that here."""


class AccessRefused(NotAllowed):
    """A rule says that a person may not ask."""


class PlaceClosed(AccessRefused):
    """Nobody is answered at a place: the bot is silent there, but for commands, whose answers one person sees."""


class Drained(AccessRefused):
    """An operator has the bot take nobody new, until they say otherwise."""


class LimitReached(AccessRefused):
    """A person, or a server, has had what is theirs for now. Says when there is more, or what to do."""


class UnknownModel(BotError):
    """Nobody offers a model under that alias."""


class ModelUnavailable(BotError):
    """A model's files cannot be fetched or loaded."""


class ConversationRefused(BotError):
    """A model's chat template raised on a conversation."""


class OutOfMemory(BotError):
    """Memory ran out in the middle of an answer, and trying again did not help."""


class DeviceFailed(BotError):
    """The GPU has failed for good: nothing is answered until another process has taken this one's place."""


class DeviceKeepsFailing(BotError):
    """The GPU has failed again and again: starting the bot anew does not help."""

    to_operators = True


class ModelComputesNonsense(BotError):
    """A model's numbers overflow in the precision that it runs in, so that no next token can be drawn."""


class HubUnreachable(ModelUnavailable):
    """A model is not here, and the Hub does not answer."""


class InspectionTimeout(BotError):
    """A look at a model or at the device took longer than anybody would wait."""


class PromptTooLong(BotError):
    """The messages alone fill the model's context window.

    Attributes:
        tokens: how many they are: counting them has cost time, and is charged like reading them.
    """

    def __init__(self, message: str, tokens: int = 0) -> None:
        super().__init__(message)
        self.tokens = tokens


class QueueFull(BotError):
    """No place is left to wait in; said at once, so that nobody waits for nothing."""


class QueueTimeout(BotError):
    """The request waited for its turn for too long."""


class GenerationTimeout(BotError):
    """The model was given its time and did not finish."""


class ReplyForgotten(BotError):
    """A button is under an answer that is not kept any more."""


class ShuttingDown(BotError):
    """The bot is about to restart and takes no new work."""


class Unexpected(BotError):
    """A bug, or a fault below us. Carries the reference number under which the log has the traceback.

    Args:
        doing: what was being done, as in "while answering".
        reference: the number that the log line carries too.
    """

    def __init__(self, doing: str, reference: str) -> None:
        super().__init__(
            f"Something went wrong {doing}. Please try again; if it stays, tell the bot's operator: {reference}."
        )
        self.reference = reference
