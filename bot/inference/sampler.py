"""How the next tokens of a whole batch are drawn, each request by its own sampling and its own seed.

transformers' batching manager draws for all requests from one generator and knows no repetition penalty for each. Here
is a logits processor for it that draws by itself: it leaves one token possible in each row, which the manager takes.

Only the likeliest `top_k` are looked at: sorting a vocabulary for top-p, as `generate` does, takes longer than a layer.
The steps and their order are those of `generate`: repetition penalty, shortest length, temperature, top-k, top-p.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bot.inference.catalog import SamplingParams

if TYPE_CHECKING:
    import torch

_NEVER = float("-inf")


@dataclass(slots=True)
class Draw:
    """What drawing for one request needs to remember.

    Attributes:
        params: its sampling.
        chance: its own randomness, one number for each token: the same seed gives the same numbers in any batch.
        seen: the ids that are in its prompt or answer, for the repetition penalty.
        length: how many tokens those were.
        prompt_length: how many of them are the prompt's.
        valid_tokens: None while every logit was a number. Then how many tokens were drawn before one was not, counted
            as the batch counts its output: since the request was last added.
    """

    params: SamplingParams
    chance: random.Random
    seen: set[int] = field(default_factory=set)
    length: int = 0
    prompt_length: int = 0
    valid_tokens: int | None = None

    @classmethod
    def begin(cls, params: SamplingParams, prompt_ids: list[int]) -> Draw:
        """For a request with this prompt."""
        seen = set(prompt_ids) if params.repetition_penalty != 1.0 else set()
        length = len(prompt_ids)
        return cls(params, random.Random(params.seed), seen, length, length)  # noqa: S311  for jokes, not secrets

    def follow(self, ids: list[int], length: int) -> None:
        """Take in what was drawn: `ids` are the newest tokens, `length` is of prompt and answer together."""
        if self.params.repetition_penalty != 1.0 and length > self.length:
            self.seen.update(ids[self.length - length :])
        self.length = length

    @property
    def too_short(self) -> bool:
        """Whether the answer may not end yet."""
        return self.length - self.prompt_length < self.params.min_new_tokens


def draw(scores: torch.Tensor, draws: list[Draw], eos_token_ids: tuple[int, ...]) -> torch.Tensor:
    """Draw a token for each row.

    Args:
        scores: logits, float32, rows x vocabulary; changed in place.
        draws: of each row.
        eos_token_ids: what may not be drawn by an answer that is too short.

    Returns:
        The ids, one for each row.
    """
    return draw_and_check(scores, draws, eos_token_ids)[0]


def draw_and_check(
    scores: torch.Tensor, draws: list[Draw], eos_token_ids: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token for each row, and say in which rows nothing can be drawn.

    That is where a logit is NaN or plus infinity, or all are minus infinity: the model's arithmetic has overflowed. The
    largest logit of such a row is not finite, and it is looked for anyway. Nothing is copied to the host.

    Returns:
        The ids, one for each row; `end_token_id` where nothing can be drawn. And whether that is so, for each row.
    """
    import torch

    device = scores.device
    vocabulary = scores.shape[-1]
    _penalize(scores, draws)
    ends = [token for token in eos_token_ids if token < vocabulary]
    for row, one in enumerate(draws):
        if one.too_short:
            scores[row, ends] = _NEVER
    end = end_token_id(eos_token_ids, vocabulary)
    params = [one.params for one in draws]
    if all(one.is_greedy for one in params):
        largest, drawn = scores.max(dim=-1)
        broken = largest.isfinite().logical_not()
        return drawn.masked_fill(broken, end), broken
    limits = [1 if one.is_greedy else min(one.top_k or vocabulary, vocabulary) for one in params]
    likeliest, ids = scores.topk(max(limits), dim=-1)
    largest = likeliest[:, :1]
    table = torch.tensor(
        [
            [
                1.0 if one.params.is_greedy else one.params.temperature,
                one.params.top_p,
                limit,
                one.chance.random(),
            ]
            for one, limit in zip(draws, limits, strict=True)
        ],
        dtype=torch.float32,
        device=device,
    )
    temperature, top_p, top_k, chance = (table[:, column : column + 1] for column in range(4))
    places = torch.arange(likeliest.shape[-1], device=device)
    # Only differences count for the softmax, and those are at most 0: dividing them never overflows.
    shares = ((likeliest - largest) / temperature).masked_fill(places >= top_k, _NEVER).softmax(dim=-1)
    before = shares.cumsum(dim=-1) - shares
    possible = shares.masked_fill(before >= top_p, 0.0)
    up_to = possible.cumsum(dim=-1)
    # `chance` is less than 1, but in float32 it, or its product with the sum, may be rounded up to all of it. That is
    # behind every token; the last one that is possible is meant. What is impossible stands at the end of the row.
    last = (possible > 0).sum(dim=-1, keepdim=True) - 1
    place = torch.minimum((up_to <= chance * up_to[:, -1:]).sum(dim=-1, keepdim=True), last)
    broken = largest.squeeze(-1).isfinite().logical_not()
    # In a broken row nothing is possible, and the last place that is stands before the first.
    drawn = ids.gather(-1, place.clamp(min=0)).squeeze(-1)
    return drawn.masked_fill(broken, end), broken


def end_token_id(eos_token_ids: tuple[int, ...], vocabulary: int) -> int:
    """The token that stands for "nothing can be drawn": it ends an answer wherever the model has an end at all."""
    return next((token for token in eos_token_ids if token < vocabulary), 0)


def _penalize(scores: torch.Tensor, draws: list[Draw]) -> None:
    """Make what was there already less likely, as transformers does: divide what is above 0, multiply what is below."""
    import torch

    rows, columns, penalties = list[int](), list[int](), list[float]()
    for row, one in enumerate(draws):
        if one.seen:
            rows += [row] * len(one.seen)
            columns += one.seen
            penalties += [one.params.repetition_penalty] * len(one.seen)
    if not rows:
        return
    where = (torch.tensor(rows, device=scores.device), torch.tensor(columns, device=scores.device))
    penalty = torch.tensor(penalties, dtype=scores.dtype, device=scores.device)
    were = scores[where]
    scores[where] = torch.where(were < 0, were * penalty, were / penalty)


def processors(
    draws: dict[str, Draw], eos_token_ids: tuple[int, ...]
) -> tuple[Any, Callable[[list[Any]], bool]]:
    """transformers' list of processors with ours alone in it.

    Args:
        draws: of each request by its id; whoever adds a request puts its own there first, and takes it out after.
        eos_token_ids: what ends an answer.

    Returns:
        The list, and a function for the outputs of each step, to be called with them on the batch's thread after the
        step: it sets `Draw.valid_tokens` of requests whose logits were no numbers, and says whether there are any.
    """
    import torch
    from transformers import LogitsProcessorList
    from transformers.generation.continuous_batching.cb_logits_processors import (
        ContinuousBatchingLogitsProcessor,
        ContinuousBatchingLogitsProcessorList,
    )

    class Sampler(ContinuousBatchingLogitsProcessor):  # type: ignore[misc, unused-ignore]
        """Draws. What it needs of the requests it is told before each step; the tensor for arguments is not used."""

        supported_kwargs: dict[str, type] = {}  # noqa: RUF012  the base class has it so
        ignored_kwargs: tuple[str, ...] = ()

        def __init__(self) -> None:
            self._rows: list[Draw] = []
            self._row_of: dict[str, int] = {}
            self._broken: torch.Tensor | None = None  # of the newest step, for each row

        def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
            int32_tensor.zero_()

        def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> torch.Tensor:
            self._rows = []
            self._row_of = {}
            self._broken = None
            for one in requests_with_new_token:
                state = one.state
                row = draws.get(state.request_id) or Draw.begin(SamplingParams(), [])  # it was just cancelled
                length = len(state.initial_tokens) + len(state.generated_tokens)
                newest = state.generated_tokens
                if len(newest) < length - row.length:  # it lost its memory, and reads again what it had said
                    newest = state.initial_tokens + newest
                row.follow(newest, length)
                self._row_of[state.request_id] = len(self._rows)
                self._rows.append(row)
            return torch.zeros(len(self._rows), dtype=torch.int32)

        def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
            # Rows behind these belong to prompts that are read only in part yet, and are not looked at.
            drawn = scores[: len(self._rows)]
            if self._rows:
                tokens, self._broken = draw_and_check(drawn, self._rows, eos_token_ids)
                drawn.fill_(_NEVER).scatter_(1, tokens.unsqueeze(-1), 0.0)
            return scores

        def check(self, outputs: list[Any]) -> bool:
            """Mark requests whose logits were no numbers; whether there are any.

            A broken row draws an end, so this reads from the device only when an answer has ended; after every step
            for a model without an end. The step's tokens have just been read: nothing is left to wait for.
            """
            if self._broken is None or not (
                not eos_token_ids or any(one.is_finished() and one.error is None for one in outputs)
            ):
                return False
            broken = self._broken.tolist()
            for output in outputs:
                row = self._row_of.get(output.request_id)
                if row is not None and broken[row] and self._rows[row].valid_tokens is None:
                    self._rows[row].valid_tokens = len(output.generated_tokens) - 1
            return any(broken)

    sampler = Sampler()
    made = ContinuousBatchingLogitsProcessorList(LogitsProcessorList())
    made.logits_processor = LogitsProcessorList([sampler])
    made.tensors_required = 1
    made.do_processing = True
    return made, sampler.check
