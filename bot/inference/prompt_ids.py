"""From messages to what a model reads, with room left for an answer."""

from __future__ import annotations

from bot.chat.prompt import shorter
from bot.errors import PromptTooLong
from bot.inference.engine import GenerationRequest
from bot.inference.loader import LoadedModel

_MIN_ANSWER_TOKENS = 16  # a prompt that leaves less than this is refused


def prompt_ids(loaded: LoadedModel, request: GenerationRequest) -> tuple[list[int], int]:
    """The prompt's ids, and how many tokens the answer may have.

    A conversation that leaves no room for an answer is read without its oldest parts.

    Raises:
        PromptTooLong: its last question alone leaves none.
    """
    wanted = min(request.params.max_new_tokens, loaded.context_tokens // 4)
    messages = request.messages
    ids = loaded.encode(messages, request.model)
    while len(ids) + wanted > loaded.context_tokens and (fewer := shorter(messages)) is not None:
        messages = fewer
        ids = loaded.encode(messages, request.model)
    room = loaded.context_tokens - len(ids)
    if room < _MIN_ANSWER_TOKENS:
        raise PromptTooLong(
            f"That is too long for {request.model.alias}: {len(ids)} tokens, and it can read "
            f"{loaded.context_tokens - _MIN_ANSWER_TOKENS}. Please shorten it."
        )
    return ids, min(request.params.max_new_tokens, room)
