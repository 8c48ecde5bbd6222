"""What is said: the messages a model reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

UNKNOWN_AUTHOR = 0  # no id of Discord's


class Role(StrEnum):
    """Who says a message; the values are the ones chat templates know."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """The token ids that a model's words were made of.

    Attributes:
        vocabulary: fingerprint of the vocabulary that the ids are from; in another one they mean something else.
        ids: of the whole answer, thoughts included.
    """

    vocabulary: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation.

    Attributes:
        author_id: Discord id of the user who wrote a question, or part of a system message. None means the user who
            asks now; `UNKNOWN_AUTHOR` means it was not stored. Not part of equality.
        tokens: of a model's words, where they are known: an answer goes on from these. Not part of equality.
    """

    role: Role
    content: str
    author_id: int | None = field(default=None, compare=False)
    tokens: AnswerTokens | None = field(default=None, compare=False, repr=False)
