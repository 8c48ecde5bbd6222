"""In which order the prompts of a batch are read: a short one is not kept waiting by the pieces of a long one.

A step reads a limited number of tokens. transformers' scheduler gives them to those who are being answered first, and
then to prompts in the order of arrival, so that a question of one line waits until a document before it is read. Here
the prompt with the least left comes first. `OVERTAKING_LIMIT` bounds it as it does in the queue: when so many who came
later have been begun before a prompt was read, nobody else is begun until it is. That also holds for one that waits for
room in the cache: transformers would pass it by for as long as smaller ones come.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bot.inference.schedule import OVERTAKING_LIMIT

NAME = "shortest_first"

_P = TypeVar("_P")
_numbers = itertools.count()


def shortest_first(
    prompts: Sequence[_P],
    *,
    left: Callable[[_P], int],
    begun: Callable[[_P], bool],
    overtaken: Callable[[_P], int],
    limit: int = OVERTAKING_LIMIT,
) -> list[_P]:
    """Who may be read in the next step, in this order and as far as there is room. Pure.

    Args:
        prompts: those that are not read yet, in the order of arrival.
        left: how many tokens of one are still to be read.
        begun: whether a part of it is read.
        overtaken: how many who came later were begun before it was read.
        limit: how often one may be overtaken.
    """
    passed = [overtaken(one) for one in prompts]
    chosen = []
    for place in sorted(range(len(prompts)), key=lambda place: (passed[place] < limit, left(prompts[place]))):
        if not begun(prompts[place]):
            if any(count >= limit for count in passed[:place]):
                continue
            passed[:place] = [count + 1 for count in passed[:place]]
        chosen.append(prompts[place])
    return chosen


def register() -> None:
    """Tell transformers of a scheduler with this order, under `NAME`."""
    from transformers.generation.continuous_batching.requests import RequestStatus
    from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler

    class ShortestFirst(FIFOScheduler):  # type: ignore[misc, unused-ignore]
        """transformers' own, with another order of prompts."""

        def reset(self) -> None:
            super().reset()
            self._arrivals: dict[str, int] = {}  # kept by whoever loses its memory and begins anew
            self._overtaken: Counter[str] = Counter()

        def add_waiting_request(self, state: Any) -> None:
            self._arrivals.setdefault(state.request_id, next(_numbers))
            super().add_waiting_request(state)

        def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:
            for gone in self._arrivals.keys() - self.active_requests.keys() - self.waiting_requests.keys():
                del self._arrivals[gone], self._overtaken[gone]
            # It lets nobody in between memory running short and somebody's last token. Where all who had the memory
            # were cancelled instead, no last token comes.
            if not self.active_requests:
                self.block_new_requests = False
            return super().schedule_batch(token_budget, cache_budget)

        def _process_candidates(self, candidates: list[Any], *args: Any) -> Any:
            answered = [one for one in candidates if one.status == RequestStatus.DECODING]
            prompts = [one for one in candidates if one.status != RequestStatus.DECODING]
            prompts.sort(key=lambda one: self._arrivals[one.request_id])
            waiting = set(self.waiting_requests)
            ordered = shortest_first(
                prompts,
                left=lambda one: len(one.remaining_prefill_tokens),
                begun=lambda one: one.request_id not in waiting,
                overtaken=lambda one: self._overtaken[one.request_id],
            )
            scheduled = super()._process_candidates([*answered, *ordered], *args)
            for place, one in enumerate(prompts):
                if one.request_id in waiting and one.request_id not in self.waiting_requests:
                    unread = (other.request_id for other in prompts[:place] if other.remaining_prefill_tokens)
                    self._overtaken.update(unread)
            return scheduled

    SCHEDULER_MAPPING[NAME] = ShortestFirst
