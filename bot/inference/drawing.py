"""Drawing the next tokens of a step, on the device: from rows of numbers of a fixed size, with nothing read back.

What each row needs (temperature, top-k, top-p, its random number, …) is one tensor, which is copied there once a step.
The ids that a repetition penalty counts stay on the device: a request's are copied when it comes, and each token is
added where it is drawn. Building them anew for each step took 6.4 ms for sixteen requests of 500 tokens.

Nothing here depends on a value on the device, so a CUDA graph can hold it (`graphs.py`). What the host decides is in
`Step`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NEVER = float("-inf")


class Number(IntEnum):
    """The rows of the table, a float32 for each request. `SLOT` and `PLACE` say where its ids are, and how many."""

    TEMPERATURE = 0
    TOP_P = 1
    TOP_K = 2
    CHANCE = 3
    PENALTY = 4
    SLOT = 5
    PLACE = 6
    IS_SHORT = 7


DEFAULTS = {Number.TEMPERATURE: 1.0, Number.TOP_P: 1.0, Number.TOP_K: 1.0, Number.PENALTY: 1.0}


@dataclass(frozen=True, slots=True)
class Step:
    """What a step does, as far as the host decides it.

    Attributes:
        width: how many of the likeliest tokens are looked at; 0 where every row takes the likeliest.
        seen_width: how many ids of each row are penalized; 0 for none.
        any_short: whether somebody's answer may not end yet.
    """

    width: int
    seen_width: int
    any_short: bool


class SeenIds:
    """The ids that are in the prompts and answers of requests with a repetition penalty, on the device.

    Each has a slot, a row that is filled up with one of its own ids; one that stands there twice is penalized once.
    Behind the slots is a row for everybody else.

    Args:
        requests: how many have a slot at most.
        capacity: how many ids of each.
    """

    def __init__(self, requests: int, capacity: int) -> None:
        self._requests = requests
        self._capacity = capacity
        self._slots: dict[str, int] = {}
        self._known: list[tuple[int, int]] = [
            (0, 0)
        ] * requests  # of each slot: the length of the text, how many ids
        self._table: torch.Tensor | None = None

    @property
    def capacity(self) -> int:
        """How many ids a slot has."""
        return self._capacity

    @property
    def nobody(self) -> int:
        """The slot of those without a penalty."""
        return self._requests

    def keep_only(self, names: Container[str]) -> None:
        """Forget all others."""
        for gone in [one for one in self._slots if one not in names]:
            del self._slots[gone]

    def slot_of(
        self, name: str, ids: Iterable[int], length: int, device: torch.device, needed: Iterable[str] = ()
    ) -> tuple[int, int]:
        """The slot of a request that has seen `ids` in a text of this length, and how many ids there are in it. They
        are copied there unless what is there is of that length: each step adds what it draws. Without any, it is
        nobody's.

        `needed` are the requests of this step, whose slots are not given away.
        """
        import torch

        if self._table is None or self._table.device != device:
            self._table = torch.zeros(self._requests + 1, self._capacity, dtype=torch.int64, device=device)
            self._slots.clear()
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = self._free(set(needed))
        elif self._known[slot][0] == length and self._known[slot][1] < self._capacity:
            return slot, self._known[slot][1]
        all_ids = list(ids)[: self._capacity - 1]
        if not all_ids:
            del self._slots[name]
            return self.nobody, 0
        self._table[slot].fill_(all_ids[0])
        self._table[slot, : len(all_ids)].copy_(torch.tensor(all_ids), non_blocking=True)
        self._known[slot] = (length, len(all_ids))
        return slot, len(all_ids)

    def drawn(self, slot: int, length: int) -> None:
        """A step is about to add an id to a slot, whose text has this length without it."""
        self._known[slot] = (length + 1, self._known[slot][1] + 1)

    def penalize(self, scores: torch.Tensor, numbers: torch.Tensor, width: int) -> None:
        """Make what was there already less likely, as transformers does: divide what is above 0, multiply what is
        below."""
        import torch

        assert self._table is not None  # noqa: S101  somebody has a slot
        ids = self._table[:, :width].index_select(0, numbers[Number.SLOT].long())
        penalty = numbers[Number.PENALTY].unsqueeze(-1)
        were = scores.gather(1, ids)
        scores.scatter_(1, ids, torch.where(were < 0, were * penalty, were / penalty))

    def add(self, tokens: torch.Tensor, numbers: torch.Tensor) -> None:
        """What was drawn is seen from now on."""
        assert self._table is not None  # noqa: S101  somebody has a slot
        self._table.index_put_((numbers[Number.SLOT].long(), numbers[Number.PLACE].long()), tokens)

    def _free(self, needed: set[str]) -> int:
        taken = set(self._slots.values())
        for slot in range(self._requests):
            if slot not in taken:
                return slot
        gone = next(name for name in self._slots if name not in needed)
        return self._slots.pop(gone)


def draw_rows(
    scores: torch.Tensor, numbers: torch.Tensor, step: Step, ends: torch.Tensor, seen: SeenIds | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token for each row, and say in which rows nothing can be drawn.

    That is where a logit is NaN or plus infinity, or all are minus infinity: the model's arithmetic has overflowed. The
    largest logit of such a row is not finite, and it is looked for anyway.

    Args:
        scores: logits, float32, rows x vocabulary; changed in place.
        numbers: float32, `Number` x rows.
        step: what is to be done.
        ends: the ids that end an answer; the first stands for "nothing can be drawn".
        seen: what is penalized.

    Returns:
        The ids, one for each row. And whether nothing can be drawn, for each row.
    """
    import torch

    if seen is not None and step.seen_width:
        seen.penalize(scores, numbers, step.seen_width)
    if step.any_short and ends.numel():
        is_short = numbers[Number.IS_SHORT].unsqueeze(-1) > 0
        scores.index_copy_(1, ends, scores.index_select(1, ends).masked_fill(is_short, NEVER))
    if step.width:
        drawn, largest = _sampled(scores, numbers, step.width)
    else:
        largest, drawn = scores.max(dim=-1)
    broken = largest.isfinite().logical_not()
    end = ends[:1] if ends.numel() else torch.zeros_like(drawn[:1])
    drawn = torch.where(broken, end, drawn)
    if seen is not None and step.seen_width:
        seen.add(drawn, numbers)
    return drawn, broken


def _sampled(scores: torch.Tensor, numbers: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's token, and its largest logit."""
    import torch

    temperature, top_p, top_k, chance = (numbers[row].unsqueeze(-1) for row in range(4))
    likeliest, ids = _likeliest(scores, width)
    largest = likeliest[:, :1]
    places = torch.arange(width, device=scores.device)
    # Only differences count for the softmax, and those are at most 0: dividing them never overflows.
    shares = ((likeliest - largest) / temperature).masked_fill(places >= top_k, NEVER).softmax(dim=-1)
    before = shares.cumsum(dim=-1) - shares
    possible = shares.masked_fill(before >= top_p, 0.0)
    up_to = possible.cumsum(dim=-1)
    # `chance` is less than 1, but in float32 it, or its product with the sum, may be rounded up to all of it. That is
    # behind every token; the last one that is possible is meant. What is impossible stands at the end of the row.
    last = (possible > 0).sum(dim=-1, keepdim=True) - 1
    place = torch.minimum((up_to <= chance * up_to[:, -1:]).sum(dim=-1, keepdim=True), last)
    # In a broken row nothing is possible, and the last place that is stands before the first.
    return ids.gather(-1, place.clamp(min=0)).squeeze(-1), largest.squeeze(-1)


def _likeliest(scores: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest logits of each row and their ids, of equal ones the smallest id first.

    In bfloat16 many are equal, and `topk` orders those as its width has it: others in the batch would decide who draws
    what, and what somebody without sampling is told.
    """
    if width == scores.shape[-1]:
        largest = scores.sort(dim=-1, descending=True, stable=True)
        return largest.values, largest.indices
    ids = scores.topk(width, dim=-1, sorted=False).indices.sort(dim=-1).values
    largest = scores.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return largest.values, ids.gather(-1, largest.indices)
