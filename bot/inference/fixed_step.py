"""Steps in which everybody adds one token, in tensors that stay where they are: what a CUDA graph repeats.

What differs between two such steps of the same shape is numbers on the device: ids, positions, places in the cache,
lengths, and what drawing needs. Masks follow from the lengths there. Shapes are few: rows and pages are padded to
powers of two. A row of nobody looks at the first page of the cache, which is 0 and stays so, and writes where nobody
looks; both are transformers', for padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bot.inference.layout import Layout, Places, Request, Rows, mask_of

if TYPE_CHECKING:
    import torch

_LEAST_PAGES = 8
# Padding is copied and looked at as keys are: an estimate, of 4 ns for a key of eight heads in each layer, and half a
# millisecond of the host's that a graph saves there. So many keys of a large model take 0.13 GB.
_MOST_PADDING_KEYS = 32_768
_NOWHERE = 0  # the page that nobody writes to


@dataclass(frozen=True, slots=True)
class Shape:
    """What two steps have in common of which one can be repeated for the other.

    Attributes:
        rows: how many add a token, those included that are nobody.
        pages: how many of the cache each row looks at, in layers without a window.
    """

    rows: int
    pages: int


def shape_of(requests: Sequence[Request], page_tokens: int, most_rows: int) -> Shape | None:
    """The shape of a step; None for one that is better taken as it is: not everybody adds one token, or most of what it
    would look at is padding."""
    if any(one.new != 1 for one in requests):
        return None
    rows = min(_power_of_two(len(requests)), most_rows)
    longest = max(one.length for one in requests)
    pages = max(_LEAST_PAGES, _power_of_two(-(-longest // page_tokens)))
    padding = rows * pages * page_tokens - sum(one.length for one in requests)
    return Shape(rows, pages) if padding <= _MOST_PADDING_KEYS else None


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


class _Table:
    """Where the keys of a step's rows are, for the layers of one kind, and of how many numbers it is made."""

    def __init__(self, allocator: Any, shape: Shape) -> None:
        self._allocator = allocator
        self._page_tokens: int = allocator.tokens_per_page
        window: int | None = getattr(allocator, "sliding_window", None)
        most = shape.pages if window is None else -(-window // self._page_tokens)
        self._rows, self._pages = shape.rows, min(shape.pages, most)
        self.sizes = [self._rows * self._pages, self._rows, self._rows * (self._page_tokens - 1)]

    def numbers(self, requests: Sequence[Request]) -> list[int]:
        """Pages, lengths, and places that somebody else's keys may stand in, of the size that they always have."""
        places = Places(self._allocator)
        pages, lengths, stale = list[int](), list[int](), list[int]()
        for one in requests:
            mine = places.pages(one, places.keys(one))
            pages += mine + [_NOWHERE] * (self._pages - len(mine))
            lengths.append(places.keys(one))
            stale += places.begun(one)
        filled: list[int] = []
        # A row of nobody has one key: with none, its scores would be no numbers.
        for found, size, padding in zip(
            (pages, lengths, stale), self.sizes, (_NOWHERE, 1, self._allocator.write_trash_index), strict=True
        ):
            filled += found + [padding] * (size - len(found))
        return filled

    def layout(self, numbers: torch.Tensor, like: torch.Tensor) -> Layout:
        """As the attention takes it, from those numbers on the device."""
        pages, lengths, stale = numbers.split(self.sizes)
        longest = self._pages * self._page_tokens
        return Layout((Rows(None, pages, longest, mask_of(lengths, longest, like)),), (), stale)


class FixedTables:
    """The page tables of all kinds of layers, for steps of one shape, in one tensor on the device.

    Args:
        cache: transformers' paged cache.
        shape: of the steps.
        device: where the tensor is.
    """

    def __init__(self, cache: Any, shape: Shape, device: torch.device) -> None:
        import torch

        self.shape = shape
        self._tables = {one.index: _Table(one, shape) for one in cache.cache_allocators.values()}
        sizes = [sum(one.sizes) for one in self._tables.values()]
        self._numbers = torch.zeros(sum(sizes), dtype=torch.int64, device=device)
        self._parts = dict(zip(self._tables, self._numbers.split(sizes), strict=True))

    def fill(self, requests: Sequence[Request]) -> None:
        """Write a step down, without waiting for the device."""
        import torch

        numbers = [number for one in self._tables.values() for number in one.numbers(requests)]
        host = torch.tensor(numbers, dtype=torch.int64, pin_memory=self._numbers.is_cuda)
        self._numbers.copy_(host, non_blocking=True)

    def step(self) -> FixedStep:
        """To be made anew for each pass through the model: a mask that is kept would not follow the lengths."""
        return FixedStep(self._tables, self._parts)


class FixedStep:
    """What `Step` is, for a step that was written down."""

    def __init__(self, tables: dict[int, _Table], parts: dict[int, torch.Tensor]) -> None:
        self._tables = tables
        self._parts = parts
        self._layouts: dict[int, Layout] = {}

    def layout(self, allocator: Any, like: torch.Tensor) -> Layout:
        """See `Step.layout`."""
        found = self._layouts.get(allocator.index)
        if found is None:
            found = self._tables[allocator.index].layout(self._parts[allocator.index], like)
            self._layouts[allocator.index] = found
        return found
