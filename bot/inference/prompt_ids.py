"""From messages to what a model reads, with room left for an answer."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

from bot.chat.messages import ChatMessage
from bot.chat.prompt import shortened
from bot.errors import PromptTooLong
from bot.inference.catalog import ModelSpec
from bot.inference.engine import GenerationRequest
from bot.inference.loader import LoadedModel

_MIN_ANSWER_TOKENS = 16  # a prompt that leaves less than this is refused
_ROUNDS = 2  # how often oldest exchanges are dropped by arithmetic, before all but the last one are


class EncodingStopped(Exception):
    """Nobody waits for the ids any more. Never reaches a person."""


def prompt_ids(
    loaded: LoadedModel, request: GenerationRequest, stopped: Event | None = None
) -> tuple[list[int], int]:
    """The prompt's ids, and how many tokens the answer may have. Blocks; for a thread.

    A conversation that leaves no room for an answer is read without its oldest exchanges. How many have to go is
    counted from the tokens of each message: the whole is encoded once before that and, as a rule, once after it.

    Args:
        loaded: the model.
        request: what is asked.
        stopped: looked at between the steps; when it is set, nothing more is encoded.

    Raises:
        PromptTooLong: its last question alone leaves no room.
        EncodingStopped: `stopped` was set.
    """
    wanted = min(request.params.max_new_tokens, loaded.context_tokens // 4)
    encoder = _Encoder(loaded, request.model, stopped)
    ids = encoder.encode(request.messages)
    if (most := loaded.context_tokens - wanted) < len(ids):
        ids = _fitting(encoder, request.messages, ids, most)
    room = loaded.context_tokens - len(ids)
    if room < _MIN_ANSWER_TOKENS:
        raise PromptTooLong(
            f"That is too long for {request.model.alias}: {len(ids)} tokens, and it can read "
            f"{loaded.context_tokens - _MIN_ANSWER_TOKENS}. Please shorten it.",
            len(ids),
        )
    return ids, min(request.params.max_new_tokens, room)


def _fitting(encoder: _Encoder, messages: Sequence[ChatMessage], ids: list[int], most: int) -> list[int]:
    """The ids of the newest exchanges that fit; the last one alone where not even that does."""
    for rounds_left in reversed(range(_ROUNDS + 1)):
        contents = [encoder.tokens(one) for one in messages]
        # What the template adds is shared out among the messages: its own words are few.
        around = max(0, len(ids) - sum(contents)) / len(messages)
        sizes = [tokens + round(around) for tokens in contents]
        allowed = sum(sizes) - (len(ids) - most) if rounds_left else 0
        fewer = shortened(messages, sizes, allowed)
        if len(fewer) == len(messages):
            break
        messages, ids = fewer, encoder.encode(fewer)
        if len(ids) <= most:
            break
    return ids


class _Encoder:
    """Encodes with a model's tokenizer, each message by itself at most once, until it is stopped."""

    def __init__(self, loaded: LoadedModel, spec: ModelSpec, stopped: Event | None) -> None:
        self._loaded = loaded
        self._spec = spec
        self._stopped = stopped
        self._tokens: dict[str, int] = {}

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """The ids of a conversation, as the model reads it."""
        self._go_on()
        return self._loaded.encode(messages, self._spec)

    def tokens(self, message: ChatMessage) -> int:
        """How many tokens the words of a message are."""
        if (known := self._tokens.get(message.content)) is None:
            self._go_on()
            known = self._tokens[message.content] = self._loaded.count(message.content)
        return known

    def _go_on(self) -> None:
        if self._stopped is not None and self._stopped.is_set():
            raise EncodingStopped
