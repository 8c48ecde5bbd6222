"""What the simulated Discord holds: messages, and who asked for them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bot.bench.discord_payloads import BOT

_REPLY_BUTTON = re.compile(r"reply:(?P<press>\w+):(?P<reply>[0-9a-f]+)")


@dataclass
class Message:
    """A message of the bot's.

    Attributes:
        id: Discord's.
        channel: the number of the channel.
        asked: the number of what it answers; None for one that answers nothing.
        content, components, embeds: what is seen.
        ephemeral: whether only one person sees it.
        deleted: whether somebody deleted it.
        life: which of the bot's processes touched it last.
        changed_s: when that was, on the event loop's clock.
        once_ended: whether it ever showed how an answer ended.
    """

    id: int
    channel: int
    asked: int | None = None
    content: str = ""
    components: list[dict[str, Any]] = field(default_factory=list)
    embeds: list[dict[str, Any]] = field(default_factory=list)
    ephemeral: bool = False
    deleted: bool = False
    life: int = 0
    changed_s: float = 0.0
    once_ended: bool = False

    @property
    def buttons(self) -> dict[str, str]:
        """The ids of the reply's buttons that are under it, by what they do."""
        ids = [one.get("custom_id", "") for row in self.components for one in row.get("components", ())]
        found = [
            (match["press"], custom_id) for custom_id in ids if (match := _REPLY_BUTTON.match(custom_id))
        ]
        return dict(found)

    @property
    def reply_id(self) -> str | None:
        """The reply that it is the last message of."""
        first = next(iter(self.buttons.values()), "")
        return first.rpartition(":")[2] or None

    @property
    def is_thinking(self) -> bool:
        """Whether Discord shows "thinking…"."""
        return not (self.content or self.embeds or self.components)

    @property
    def is_growing(self) -> bool:
        """Whether people wait for more."""
        return "stop" in self.buttons

    @property
    def has_ended(self) -> bool:
        """Whether it shows how an answer ended."""
        return self.reply_id is not None and not self.is_growing

    def edit(self, payload: dict[str, Any], life: int, now_s: float) -> None:
        """Take in what the bot wants it to be."""
        self.content = payload.get("content", self.content) or ""
        self.components = payload.get("components", self.components) or []
        self.embeds = payload.get("embeds", self.embeds) or []
        self.life, self.changed_s = life, now_s
        self.once_ended |= self.has_ended

    def payload(self) -> dict[str, Any]:
        """As Discord tells of it."""
        empty: dict[str, Any] = {"attachments": [], "mentions": [], "mention_roles": [], "flags": 0}
        return empty | {
            "id": str(self.id),
            "channel_id": str(self.channel),
            "author": BOT,
            "content": self.content,
            "embeds": [],
            "components": self.components,
            "timestamp": "2026-01-01T00:00:00+00:00",
            "edited_timestamp": None,
            "tts": False,
            "mention_everyone": False,
            "pinned": False,
            "type": 0,
        }


@dataclass
class Asked:
    """A command, a press, or a message to the bot.

    Attributes:
        number: a token and an id are made of it.
        person: who.
        channel: the number of the channel.
        what: in words, for the report.
        sent_s: when, on the event loop's clock.
        life: which of the bot's processes got it.
        is_message: whether it is a message, which nobody acknowledges.
        acknowledged_s: when the bot said that it has it.
        then: told what the bot says, where it answers at once.
    """

    number: int
    person: int
    channel: int
    what: str
    sent_s: float
    life: int
    is_message: bool = False
    acknowledged_s: float | None = None
    then: Callable[[str], None] | None = None

    @property
    def token(self) -> str:
        """The interaction's."""
        return f"token{self.number}"


class Board:
    """All messages, and all that was asked."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.asked: dict[int, Asked] = {}
        self._original: dict[int, int] = {}  # the message that an interaction is answered by
        self._by_nonce: dict[str, Message] = {}
        self._ids = itertools.count(1_000_000)

    def new(self, channel: int, asked: int | None = None, nonce: str | None = None) -> Message:
        """A message that is being made."""
        message = Message(next(self._ids), channel, asked)
        self.messages[message.id] = message
        if nonce is not None:
            self._by_nonce[nonce] = message
        return message

    def by_nonce(self, nonce: str | None) -> Message | None:
        """The message that was made with this number, which makes no second one."""
        return None if nonce is None else self._by_nonce.get(nonce)

    def answer(self, asked: Asked) -> Message:
        """The message that an interaction is answered by, made if it is not there."""
        if asked.number not in self._original:
            self._original[asked.number] = self.new(asked.channel, asked.number).id
        return self.messages[self._original[asked.number]]

    def answered(self, asked: Asked) -> Message | None:
        """The same, if it is there."""
        return self.messages.get(self._original.get(asked.number, 0))

    def visible(self) -> list[Message]:
        """What everybody sees."""
        return [one for one in self.messages.values() if not one.deleted and not one.ephemeral]
