"""Where the keys are that each token of a step looks at, for the layers of one kind.

All of it follows from what the scheduler knows: who adds how many tokens, how many were read before, and which pages of
the cache are whose. So nothing is asked back from the device, and what it needs to know goes there in one copy.

Those who add one token have a row of keys each, beside others of about the same length; a prompt, or a piece of one, is
computed by itself. A layer with a sliding window keeps a ring of as many keys as the window holds. For one token the
order of keys does not matter, so such a row is the ring as it lies there. Of a piece that overwrites a part of the
ring, the keys before it are taken out first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Rows are padded to the longest beside them by so many keys together: more of them cost more than a call of their own.
_PADDING_KEYS = 512
# On a GPU the call is what costs: an estimate, of some 30 µs for a group's and 4 ns for a key of eight heads.
_PADDING_KEYS_GPU = 8_192


@dataclass(frozen=True, slots=True)
class Request:
    """Who adds tokens in a step.

    Attributes:
        id: whose pages those of the cache are.
        first: the first of its tokens in the step.
        before: how many of its tokens were read before.
        new: how many it adds.
    """

    id: str
    first: int
    before: int
    new: int

    @property
    def tokens(self) -> slice:
        """Which of the step's tokens are its own."""
        return slice(self.first, self.first + self.new)

    @property
    def length(self) -> int:
        """How many of its tokens are read after the step."""
        return self.before + self.new


@dataclass(frozen=True, slots=True)
class Rows:
    """Those who add one token, of about the same length.

    Attributes:
        tokens: which of the step's tokens are theirs; None where all are, in their order.
        pages: where in the cache the keys of each are, as many pages for each, flat.
        longest: how many keys a row has.
        mask: what is added to the scores of each, requests x 1 x 1 x longest, so that only their own keys count; None
            where all do.
    """

    tokens: torch.Tensor | None
    pages: torch.Tensor
    longest: int
    mask: torch.Tensor | None


@dataclass(slots=True)
class Piece:
    """A prompt that is read, or the part of one that this step reads.

    Attributes:
        tokens: which of the step's tokens are its own.
        length: how many keys it looks at, its own included; its own are the last.
        pages: where in the cache they are, after the step's are there; None if they are not taken from pages.
        overwritten: where in the cache those before its own are, one by one, before the step's are there; None if they
            are taken from pages, or there are none.
        window: how many keys a token looks back at, itself included; None for all.
    """

    tokens: slice
    length: int
    pages: torch.Tensor | None = None
    overwritten: torch.Tensor | None = None
    window: int | None = None
    _mask: torch.Tensor | None = None

    @property
    def new(self) -> int:
        """How many tokens it has."""
        count: int = self.tokens.stop - self.tokens.start
        return count

    def mask(self, like: torch.Tensor) -> torch.Tensor:
        """What is added to its scores, tokens x length: made once for all layers, in the form in which it is added."""
        import torch

        if self._mask is None:
            before = self.length - self.new
            mask = torch.full((self.new, self.length), -math.inf, dtype=like.dtype, device=like.device)
            mask = mask.triu_(before + 1)
            if self.window is not None:
                mask += torch.full_like(mask, -math.inf).tril_(before - self.window)
            self._mask = mask
        return self._mask


@dataclass(frozen=True, slots=True)
class Layout:
    """A step, for the layers of one kind.

    Attributes:
        rows, pieces: who is computed how.
        stale: where in the cache the rest of each page is that is begun in this step, token by token; None if none is.
            Somebody else's keys may stand there. Rows are padded with it, and a mask is added to the scores: NaN stays
            NaN.
    """

    rows: tuple[Rows, ...]
    pieces: tuple[Piece, ...]
    stale: torch.Tensor | None = None

    @property
    def whole(self) -> Rows | None:
        """The rows that are all of the step, if some are."""
        return self.rows[0] if self.rows and self.rows[0].tokens is None else None


class Step:
    """Who adds how many tokens; how that is laid out is found by the first layer of each kind.

    Args:
        requests: in their order in the step: whose, how many tokens were read before, and how many are added.

    Attributes:
        requests: the same, each as a `Request`.
    """

    def __init__(self, requests: Sequence[tuple[str, int, int]]) -> None:
        self.requests = list[Request]()
        first = 0
        for id_, before, new in requests:
            self.requests.append(Request(id_, first, before, new))
            first += new
        self._layouts: dict[int, Layout] = {}

    def layout(self, allocator: Any, like: torch.Tensor) -> Layout:
        """For the layers whose keys this part of the cache holds.

        Args:
            allocator: transformers', of all layers of one kind.
            like: a tensor on the device, with the type of the scores.
        """
        found = self._layouts.get(allocator.index)
        if found is None:
            found = _Plan(allocator, self.requests).sent(like)
            self._layouts[allocator.index] = found
        return found


class Places:
    """Where in the cache the keys of each request are, for the layers of one kind."""

    def __init__(self, allocator: Any) -> None:
        self._blocks: dict[str, list[int]] = allocator.block_table
        self._page_tokens: int = allocator.tokens_per_page
        self._stride: int = (
            allocator.block_physical_stride
        )  # in tokens, from one block of a layer to its next
        self._window: int | None = getattr(allocator, "sliding_window", None)

    def keys(self, one: Request) -> int:
        """How many keys its last token looks at."""
        return one.length if self._window is None else min(one.length, self._window)

    def begun(self, one: Request) -> Iterator[int]:
        """The places behind its last key, if that is in a page of which nothing was its own before this step."""
        in_page = (self.keys(one) - 1) % self._page_tokens + 1
        page = (self.keys(one) - 1) // self._page_tokens
        if one.before <= page * self._page_tokens:
            first = self._blocks[one.id][page] * self._stride
            yield from range(first + in_page, first + self._page_tokens)

    def pages(self, one: Request, tokens: int) -> list[int]:
        """Where its first tokens are, by pages; for a layer with a window, the first of the ring."""
        pages = -(-tokens // self._page_tokens)
        step = self._stride // self._page_tokens
        return [block * step for block in self._blocks[one.id][:pages]]


class _Plan(Places):
    """A layout that the device does not know of yet: its tensors are parts of one list of numbers, sent at once."""

    def __init__(self, allocator: Any, requests: list[Request]) -> None:
        super().__init__(allocator)
        self._requests = requests
        self._numbers: list[int] = []

    def sent(self, like: torch.Tensor) -> Layout:
        groups = self._groups(_PADDING_KEYS_GPU if on_gpu(like) else _PADDING_KEYS)
        planned = [(group, self._longest(group, _page_step(like, self._page_tokens))) for group in groups]
        parts = [
            (
                self._put([one.first for one in group]),
                self._put(self._row_pages(group, longest)),
                self._put([self.keys(one) for one in group]),
            )
            for group, longest in planned
        ]
        pieces = [self._piece(one) for one in self._requests if one.new > 1]
        stale = self._put([place for one in self._requests for place in self.begun(one)])
        numbers = _on_device(self._numbers, like.device)
        rows = list[Rows]()
        for (group, longest), (tokens, row_pages, lengths) in zip(planned, parts, strict=True):
            mask = None
            if any(self.keys(one) < longest for one in group):
                mask = mask_of(numbers[lengths], longest, like)
            rows.append(
                Rows(
                    tokens=None if len(group) == len(self._requests) else numbers[tokens],
                    pages=numbers[row_pages],
                    longest=longest,
                    mask=mask,
                )
            )
        for piece, pages, overwritten in pieces:
            piece.pages = None if pages is None else numbers[pages]
            piece.overwritten = None if overwritten is None else numbers[overwritten]
        is_stale = stale.start < stale.stop
        return Layout(
            tuple(rows), tuple(piece for piece, _, _ in pieces), numbers[stale] if is_stale else None
        )

    def _put(self, numbers: list[int]) -> slice:
        begins = len(self._numbers)
        self._numbers += numbers
        return slice(begins, len(self._numbers))

    def _row_pages(self, group: list[Request], longest: int) -> list[int]:
        """As many for each. A row is padded with its own last page: another one may hold somebody's NaN."""
        most = -(-longest // self._page_tokens)
        found = list[int]()
        for one in group:
            pages = self.pages(one, self.keys(one))
            found += pages + pages[-1:] * (most - len(pages))
        return found

    def _longest(self, group: list[Request], step: int) -> int:
        """How many keys a row has. A mask is as long as whole pages on a GPU: its kernel would copy another into such a
        form for each layer, and lengths that change less often are fewer shapes. Without a mask nothing is padded."""
        lengths = {self.keys(one) for one in group}
        longest = max(lengths)
        return longest if len(lengths) == 1 else -(-longest // step) * step

    def _piece(self, one: Request) -> tuple[Piece, slice | None, slice | None]:
        window = self._window
        if window is None or one.length <= window:
            pages = self._put(self.pages(one, one.length)) if one.before else None
            return Piece(one.tokens, one.length), pages, None
        kept = min(one.before, window - 1)
        overwritten = None
        if kept:
            ring = (position % window for position in range(one.before - kept, one.before))
            places = (divmod(place, self._page_tokens) for place in ring)
            blocks = self._blocks[one.id]
            overwritten = self._put([blocks[page] * self._stride + token for page, token in places])
        return Piece(one.tokens, kept + one.new, window=window), None, overwritten

    def _groups(self, padding_keys: int) -> list[list[Request]]:
        """Those who add one token by length, the longest first: who would need too much padding begins another group.

        In a group they stand as in the step.
        """
        groups = list[list[Request]]()
        padding = 0
        for one in sorted((one for one in self._requests if one.new == 1), key=self.keys, reverse=True):
            missing = self.keys(groups[-1][0]) - self.keys(one) if groups else 0
            padding += missing
            if groups and padding <= padding_keys:
                groups[-1].append(one)
            else:
                groups.append([one])
                padding = 0
        return [sorted(group, key=lambda one: one.first) for group in groups]


def on_gpu(like: torch.Tensor) -> bool:
    """Whether this is on a GPU, where other things cost and other kernels compute."""
    return like.is_cuda


def _page_step(like: torch.Tensor, page_tokens: int) -> int:
    """Of how many keys a padded row's length is a multiple: on a CPU each key costs, and its kernel takes any mask."""
    return page_tokens if on_gpu(like) else 1


def mask_of(lengths: torch.Tensor, longest: int, like: torch.Tensor) -> torch.Tensor:
    """What is added to the scores of rows, so that keys that are nobody's do not count."""
    import torch

    padding = torch.arange(longest, device=like.device) >= lengths.unsqueeze(1)
    mask = torch.zeros(padding.shape, dtype=like.dtype, device=like.device).masked_fill_(padding, -math.inf)
    return mask[:, None, None, :]


def _on_device(numbers: list[int], device: torch.device) -> torch.Tensor:
    """Without waiting for the device: from memory that it reads by itself."""
    import torch

    if device.type != "cuda":
        return torch.tensor(numbers, dtype=torch.int64, device=device)
    return torch.tensor(numbers, dtype=torch.int64, pin_memory=True).to(device, non_blocking=True)
