"""One answer of a batch as it grows; it can be taken up again where it was broken off."""

from __future__ import annotations

import threading
import time

from bot.chat.messages import AnswerTokens
from bot.inference.engine import Event, Finished, FinishReason, GenerationRequest, Reading, TextDelta, Usage
from bot.inference.loader import LoadedModel
from bot.inference.prompt_ids import prompt_ids
from bot.inference.sampler import Draw


class Answer:
    """What was read, drawn and shown for one request. Made on a thread: a long prompt takes a while to encode.

    Args:
        loaded: the model.
        request: what is answered.
        stopped: nobody wants it any more once this is set.

    Attributes:
        draw: how its tokens are drawn.
        finished: how it ended, once it has.

    Raises:
        PromptTooLong: the messages leave no room for an answer.
        EncodingStopped: `stopped` was set before the prompt was encoded.
    """

    def __init__(
        self, loaded: LoadedModel, request: GenerationRequest, stopped: threading.Event | None = None
    ) -> None:
        self._begun_s = time.perf_counter()
        self._prompt_ids, self._limit = prompt_ids(loaded, request, stopped)
        self.draw = Draw.begin(request.params.seeded(), self._prompt_ids)
        self.finished: Finished | None = None
        self._eos = loaded.eos_token_ids
        self._text = loaded.answer_text(request.messages, request.model)
        self._vocabulary = loaded.vocabulary
        self._ids: list[int] = []
        self._before = 0  # how many of them were there when it was last taken up
        self._first_token_s: float | None = None

    @property
    def reading(self) -> Reading:
        """What the model is about to read."""
        return Reading(self._usage(), self.draw.params)

    @property
    def longest_tokens(self) -> int:
        """How long prompt and answer may become together."""
        return len(self._prompt_ids) + self._limit

    def take_up(self) -> tuple[list[int], int]:
        """The ids to be read, and how many more may be drawn: at first those of the prompt, later also its own."""
        self._before = len(self._ids)
        self.draw.valid_tokens = None
        return [*self._prompt_ids, *self._ids], self._limit - len(self._ids)

    def grow(self, drawn: list[int], *, ended: bool) -> list[Event]:
        """What is new, given all ids that were drawn since it was taken up."""
        new = drawn[len(self._ids) - self._before :]
        if self._first_token_s is None and new:
            self._first_token_s = time.perf_counter() - self._begun_s
        self._ids += new
        text = self._text.feed(new)
        is_cut = ended and not (self._ids and self._ids[-1] in self._eos)
        if ended:
            text += self._text.flush(cut=is_cut)
        usage = self._usage()
        events: list[Event] = [TextDelta(text, usage)] if text else []
        if ended:
            tokens = AnswerTokens(self._vocabulary, (*self._text.said, *self._ids)) if is_cut else None
            reason = FinishReason.LENGTH if is_cut else FinishReason.STOP
            self.finished = Finished(reason, usage, tokens=tokens)
            events.append(self.finished)
        return events

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self._prompt_ids),
            completion_tokens=len(self._ids),
            time_to_first_token_s=self._first_token_s,
            generation_s=time.perf_counter() - self._begun_s,
        )
