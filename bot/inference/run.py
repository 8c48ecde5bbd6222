"""One generation on the engine's thread: a streamer and a stopping criterion for transformers' `generate`."""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bot.chat.messages import AnswerTokens
from bot.inference.device import is_out_of_memory
from bot.inference.device_failure import chain_of, is_device_failure
from bot.inference.engine import Event, Finished, FinishReason, GenerationRequest, Reading, TextDelta, Usage
from bot.inference.loader import LoadedModel
from bot.inference.prompt_ids import prompt_ids
from bot.inference.sampler import end_token_id
from bot.inference.threads import Emit

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_SMALL_PREFILL_TOKENS = 256  # at a time, when memory is short


class DeviceMemoryExhausted(Exception):
    """The device had no memory left in the middle of a generation. Never reaches a person."""


class DeviceHasFailed(Exception):
    """The device computes nothing any more, in this process; see `device_failure.py`. Never reaches a person."""


class LogitsNotFinite(Exception):
    """A model's logits are NaN or infinite: its arithmetic overflowed. Never reaches a person."""


class Run:
    """One answer, which may be taken up again where it was broken off.

    transformers' own text streamer hands text over by words and hangs its reader if `generate` raises; this
    one hands over every token at once, and `in_thread` brings exceptions to the reader.

    Raises:
        PromptTooLong: the messages leave no room for an answer.
        EncodingStopped: `stopped` was set before the prompt was encoded.
    """

    def __init__(
        self, loaded: LoadedModel, request: GenerationRequest, stopped: threading.Event | None = None
    ) -> None:
        self._loaded = loaded
        self._params = request.params
        self._prompt_ids, self._limit = prompt_ids(loaded, request, stopped)
        self._ids: list[int] = []  # the answer so far
        self._text = loaded.answer_text(request.messages, request.model)
        self._first_token_s: float | None = None
        self._begun_s = time.perf_counter()
        self._broken: torch.Tensor | None = None  # whether a logit was no number, on the device

    def run(self, emit: Emit[Event], stopped: threading.Event, *, sparing: bool = False) -> None:
        """Generate; the last thing emitted is `Finished`. Called again, it goes on after the last token.

        Args:
            emit: takes the events.
            stopped: when it is set, the model stops within a token.
            sparing: read the prompt in small pieces, which takes longer and less memory.

        Raises:
            DeviceMemoryExhausted: there is not the memory; nothing that was emitted is lost.
            DeviceHasFailed: nothing can be computed any more.
            LogitsNotFinite: the model computed what is no number.
        """
        import torch

        if not self._ids:
            torch.manual_seed(self._params.seed if self._params.seed is not None else secrets.randbits(63))
            self._begun_s = time.perf_counter()
            emit(Reading(self._usage(), self._params))
        self._emit, self._stopped = emit, stopped
        model: Any = self._loaded.model  # its class is chosen by the checkpoint
        with torch.inference_mode(), _failures_told():
            read = torch.tensor([[*self._prompt_ids, *self._ids]], device=model.device)
            model.generate(
                inputs=read,
                attention_mask=torch.ones_like(read),
                streamer=self,
                logits_processor=[self._checked],
                stopping_criteria=[self._should_stop],
                prefill_chunk_size=_SMALL_PREFILL_TOKENS if sparing else None,
                **self._options(),
            )
            is_broken = self._is_broken()
        if is_broken:
            raise LogitsNotFinite
        reason = self._reason()
        if rest := self._text.flush(cut=reason is not FinishReason.STOP):
            emit(TextDelta(rest, self._usage()))
        tokens = AnswerTokens(self._loaded.vocabulary, (*self._text.said, *self._ids))
        emit(Finished(reason, self._usage(), tokens=tokens if reason is FinishReason.LENGTH else None))

    def put(self, token_ids: torch.Tensor) -> None:
        """Streamer: what the model reads comes first and is skipped, then every token as it is drawn."""
        if token_ids.dim() > 1:
            return
        if not self._loaded.eos_token_ids and self._is_broken():
            return  # where a model has an end, that is what was drawn, and nobody sees it
        new = token_ids.tolist()
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._begun_s
        self._ids.extend(new)
        if text := self._text.feed(new):
            self._emit(TextDelta(text, self._usage()))

    def end(self) -> None:
        """Streamer: nothing to do, `run` goes on after `generate` anyway."""

    def _should_stop(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        import torch

        ended = torch.full((input_ids.shape[0],), self._stopped.is_set(), device=input_ids.device)
        return ended if self._broken is None else ended | self._broken[:, 0]

    def _checked(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits processor, before temperature and the like: where a logit is no number, an end is all that can be
        drawn, and that is remembered on the device, so that no step waits for it. See `draw_and_check`."""
        import torch

        largest = scores.amax(dim=-1, keepdim=True)
        broken = largest.isfinite().logical_not()
        self._broken = broken if self._broken is None else self._broken | broken
        # Only differences count for the softmax, and those are at most 0: a low temperature makes none infinite.
        scores = (scores - largest).masked_fill(broken, -math.inf)
        end = end_token_id(self._loaded.eos_token_ids, scores.shape[-1])
        scores[:, end] = torch.where(broken[:, 0], 0.0, scores[:, end])
        return scores

    def _is_broken(self) -> bool:
        return self._broken is not None and bool(self._broken.any())

    def _options(self) -> dict[str, Any]:
        params = self._params
        done = len(self._ids)
        options: dict[str, Any] = {
            "max_new_tokens": self._limit - done,
            "min_new_tokens": max(0, min(params.min_new_tokens, self._limit) - done) or None,
            "repetition_penalty": params.repetition_penalty,
            "eos_token_id": list(self._loaded.eos_token_ids),
            "pad_token_id": self._loaded.tokenizer.pad_token_id,
            "do_sample": not params.is_greedy,
        }
        if not params.is_greedy:
            options |= {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
        return options

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self._prompt_ids),
            completion_tokens=len(self._ids),
            time_to_first_token_s=self._first_token_s,
            generation_s=time.perf_counter() - self._begun_s,
        )

    def _reason(self) -> FinishReason:
        if self._ids and self._ids[-1] in self._loaded.eos_token_ids:
            return FinishReason.STOP
        return FinishReason.CANCELLED if self._stopped.is_set() else FinishReason.LENGTH


def let_go_of_frames(error: BaseException) -> None:
    """Have an error, and those that it came of, hold nothing of where they were raised: tensors above all."""
    for one in chain_of(error):
        traceback.clear_frames(one.__traceback__)
        one.__traceback__ = None


@contextmanager
def _failures_told() -> Iterator[None]:
    """One exception for all the ways in which PyTorch says that memory is short, one for those of a failed device."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            told: Exception = DeviceMemoryExhausted()
        elif is_device_failure(error):
            log.exception("the device has failed")
            told = DeviceHasFailed()
        else:
            raise
        let_go_of_frames(error)  # they hold tensors, and the memory is needed
    else:
        return
    raise told
