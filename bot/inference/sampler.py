"""How the next tokens of a whole batch are drawn, each request by its own sampling and its own seed.

transformers' batching manager draws for all requests from one generator and knows no repetition penalty for each. Here
is a list of logits processors for it that draws by itself (`drawing.py`), and what takes the place of its own drawing.

Only the likeliest `top_k` are looked at: sorting a vocabulary for top-p, as `generate` does, takes longer than a layer.
The steps and their order are those of `generate`: repetition penalty, shortest length, temperature, top-k, top-p.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from bot.inference.catalog import SamplingParams
from bot.inference.drawing import DEFAULTS, Number, SeenIds, Step, draw_rows

if TYPE_CHECKING:
    import torch

_NUMBERS = len(Number)
# How many of the likeliest are looked at, at the least: of equal ones at the end of a `top_k` the same are taken then,
# whoever else is in the batch.
_LEAST_WIDTH = 64


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
        number: the newest of its random numbers, and how long the text was for which it was taken. A step that fails
            leaves it to the next one: an answer that is taken up goes on as it would have.
    """

    params: SamplingParams
    chance: random.Random
    seen: set[int] = field(default_factory=set)
    length: int = 0
    prompt_length: int = 0
    valid_tokens: int | None = None
    number: tuple[int, float] | None = None

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

    @property
    def is_penalized(self) -> bool:
        """Whether tokens are less likely for having been there."""
        return self.params.repetition_penalty != 1.0 and bool(self.seen)

    def next_number(self) -> float:
        """Its random number for the next token."""
        if self.number is None or self.number[0] != self.length:
            self.number = (self.length, self.chance.random())
        return self.number[1]


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
    """The same, and in which rows nothing can be drawn; see `draw_rows`.

    Returns:
        The ids, one for each row; `end_token_id` where nothing can be drawn. And whether that is so, for each row.
    """
    import torch

    vocabulary = scores.shape[-1]
    seen = SeenIds(len(draws), max(len(one.seen) for one in draws) + 2)
    for one in draws:
        one.number = None  # each call is another token's
    rows = {str(row): one for row, one in enumerate(draws)}
    numbers, step = _prepared(rows, seen, vocabulary, scores.device)
    ends = torch.tensor(_ends(eos_token_ids, vocabulary), dtype=torch.int64, device=scores.device)
    return draw_rows(scores, numbers.to(scores.device), step, ends, seen)


def _prepared(
    rows: dict[str, Draw], seen: SeenIds, vocabulary: int, device: torch.device
) -> tuple[torch.Tensor, Step]:
    """The numbers of a step, on the host, and what it does."""
    import torch

    table: list[list[float]] = []
    widths, seen_widths, any_short, is_sampled = [0], [0], False, False
    for name, one in rows.items():
        params, is_greedy = one.params, one.params.is_greedy
        top_k = 1 if is_greedy else min(params.top_k or vocabulary, vocabulary)
        slot, place = seen.nobody, 0
        if one.is_penalized:
            known = (id_ for id_ in one.seen if id_ < vocabulary)
            slot, place = seen.slot_of(name, known, one.length, device, rows)
            if slot != seen.nobody:
                seen.drawn(slot, one.length)
            seen_widths.append(place)
        widths.append(top_k)
        is_sampled = is_sampled or not is_greedy
        any_short = any_short or one.too_short
        table.append(
            [
                1.0 if is_greedy else params.temperature,
                params.top_p,
                top_k,
                0.0 if is_greedy else one.next_number(),
                params.repetition_penalty if place else 1.0,
                slot,
                place,
                one.too_short,
            ]
        )
    width = min(max(_LEAST_WIDTH, *widths), vocabulary) if is_sampled else 0
    step = Step(width, max(seen_widths), any_short)
    return torch.tensor(table, dtype=torch.float32).t().contiguous(), step


def _fixed(
    numbers: torch.Tensor, step: Step, seen: SeenIds, rows: int, vocabulary: int
) -> tuple[torch.Tensor, Step]:
    """The same for so many rows, in one of few forms: those behind the requests draw what nobody hears.

    Looking at more tokens, or at more of the seen ids, draws the same. Only of equally likely tokens at the end of a
    `top_k` above 64 others may be taken.
    """
    import torch

    padding = torch.tensor([[DEFAULTS.get(number, 0.0)] for number in Number])
    padding[Number.SLOT] = seen.nobody
    width = min(1 << (step.width - 1).bit_length(), vocabulary) if step.width else 0
    seen_width = seen.capacity if step.seen_width else 0
    padded = torch.cat((numbers, padding.expand(-1, rows - numbers.shape[1])), dim=1)
    return padded, Step(width, seen_width, any_short=True)


def _ends(eos_token_ids: tuple[int, ...], vocabulary: int) -> list[int]:
    return [token for token in eos_token_ids if token < vocabulary]


def end_token_id(eos_token_ids: tuple[int, ...], vocabulary: int) -> int:
    """The token that stands for "nothing can be drawn": it ends an answer wherever the model has an end at all."""
    return next((token for token in eos_token_ids if token < vocabulary), 0)


class Sampler(Protocol):
    """What `sampler_of` makes.

    Attributes:
        rows: how many rows the next step has, those behind its requests included; 0 for as many as requests. To be set
            before its inputs are prepared. What differs between two such steps with the same `step` and as many rows is
            in tensors that stay where they are: what was recorded of one draws for the other.
        step: what the prepared step does.
    """

    rows: int

    @property
    def step(self) -> Step:
        """See above."""
        ...

    def write(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
        """What was drawn is the step's output. Takes the place of the manager's own drawing."""
        ...

    def check(self, outputs: list[Any]) -> bool:
        """Mark requests whose logits were no numbers, in `Draw.valid_tokens`; whether there are any. To be called with
        the outputs of each step, on the batch's thread, after the step."""
        ...


def _with_new_token(requests_in_batch: list[Any], draws: dict[str, Draw]) -> dict[str, Draw]:
    """The requests of a step that get a token, by their ids, each brought up to the text that it has now."""
    rows: dict[str, Draw] = {}
    for one in requests_in_batch:
        if not one.has_new_token:
            continue
        state = one.state
        row = draws.get(state.request_id) or Draw.begin(SamplingParams(), [])  # it was just cancelled
        length = len(state.initial_tokens) + len(state.generated_tokens)
        newest = state.generated_tokens
        if len(newest) < length - row.length:  # it lost its memory, and reads again what it had said
            newest = state.initial_tokens + newest
        row.follow(newest, length)
        rows[state.request_id] = row
    return rows


def sampler_of(  # noqa: C901  a class with all its methods, which needs transformers
    draws: dict[str, Draw],
    eos_token_ids: tuple[int, ...],
    *,
    requests: int,
    context_tokens: int,
    vocabulary: int,
    device: torch.device,
) -> Sampler:
    """transformers' list of logits processors, which draws in their place.

    Args:
        draws: of each request by its id; whoever adds a request puts its own there first, and takes it out after.
        eos_token_ids: what ends an answer.
        requests: how many are in a step at most.
        context_tokens: how long a text becomes at most.
        vocabulary: how many logits a row has.
        device: where they are; a step is written down in RAM before, and copied there at once.
    """
    import torch
    from transformers import LogitsProcessorList
    from transformers.generation.continuous_batching.cb_logits_processors import (
        ContinuousBatchingLogitsProcessorList,
    )

    class Drawing(ContinuousBatchingLogitsProcessorList):  # type: ignore[misc, unused-ignore]
        """Draws. Its numbers are in the manager's one tensor of inputs, which stays where it is on the device."""

        def __init__(self) -> None:
            super().__init__(LogitsProcessorList())
            self.tensors_required = _NUMBERS
            self.do_processing = True
            self._seen = SeenIds(requests, context_tokens + 1)
            self._step = Step(0, 0, False)
            self.rows = 0
            self._rows: list[Draw] = []
            self._count = 0  # of rows, those behind the requests included
            self._row_of: dict[str, int] = {}
            self._ends: torch.Tensor | None = None
            self._tokens: torch.Tensor | None = None
            self._broken: torch.Tensor | None = None  # of the newest step, for each row
            self._fixed_broken: torch.Tensor | None = None  # the same, in a place that stays

        @property
        def step(self) -> Step:
            return self._step

        def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
            values = [[DEFAULTS.get(number, 0.0)] for number in Number]
            int32_tensor.copy_(torch.tensor(values, dtype=torch.float32).view(torch.int32))

        def prepare_tensor_args(
            self, requests_in_batch: list[Any], arg_storage: torch.Tensor
        ) -> torch.Tensor:
            rows = _with_new_token(requests_in_batch, draws)
            self._rows = list(rows.values())
            self._row_of = {name: number for number, name in enumerate(rows)}
            self._count = self.rows or len(rows)
            self._broken = None
            self._seen.keep_only(draws)
            if rows:
                numbers, self._step = _prepared(rows, self._seen, vocabulary, device)
                if self.rows:
                    numbers, self._step = _fixed(numbers, self._step, self._seen, self.rows, vocabulary)
                    if self._fixed_broken is None:
                        self._fixed_broken = torch.zeros(requests, dtype=torch.bool, device=device)
                    self._find_ends(vocabulary, device)
                    self._broken = self._fixed_broken
                if arg_storage.is_cuda:
                    numbers = numbers.pin_memory()  # else the copy waits for all that was queued before
                arg_storage[:, : numbers.shape[1]].copy_(numbers.view(torch.int32), non_blocking=True)
            return arg_storage

        def __call__(
            self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
        ) -> torch.Tensor:
            # Rows behind these belong to prompts that are read only in part yet, and are not looked at.
            count = self._count
            if count:
                ends = self._find_ends(scores.shape[-1], scores.device)
                numbers = logits_processor_args.view(torch.float32)[:, :count]
                self._tokens, broken = draw_rows(scores[:count], numbers, self._step, ends, self._seen)
                if self.rows and self._fixed_broken is not None:
                    self._fixed_broken[:count].copy_(broken)
                else:
                    self._broken = broken
            return scores

        def _find_ends(self, vocabulary: int, device: torch.device) -> torch.Tensor:
            if self._ends is None or self._ends.device != device:
                ids = _ends(eos_token_ids, vocabulary)
                self._ends = torch.tensor(ids, dtype=torch.int64, device=device)
            return self._ends

        def write(self, scores: torch.Tensor, output_ids: torch.Tensor) -> None:
            if self._rows and self._tokens is not None:
                output_ids[0, : self._count].copy_(self._tokens)
                self._tokens = None  # where a step is recorded, it would keep a part of that memory

        def check(self, outputs: list[Any]) -> bool:
            # A broken row draws an end, so this reads from the device only when an answer has ended; after every step
            # for a model without an end. The step's tokens have just been read: nothing is left to wait for.
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

    made: Sampler = Drawing()
    return made
