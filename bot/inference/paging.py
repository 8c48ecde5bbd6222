"""How much memory the cache of a batch takes, as transformers' batching allocates it. Pure arithmetic.

The cache is cut into blocks: the pages of all layers with the same kind of attention, for so many tokens. There are
whole blocks for every layer, those with a sliding window too; how much of them a text uses is another matter. Where
there are several kinds, memory goes from one to the other in sectors, which are whole blocks of each; and two sectors
beside the others take what padding writes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_ALIGNMENT_BYTES = 128  # of a sector
_NUMBER_BYTES, _PLACE_BYTES = 4, 8  # of a token's number; of a place in the cache
_ROWS_OF_NUMBERS = (
    15  # tokens, positions, lengths and the like, and eight for drawing: for each token of a step
)
_ROW_ALIGNMENT = 32  # in numbers


@dataclass(frozen=True, slots=True)
class Paging:
    """The cache of one batch.

    Attributes:
        group_layers: for each kind of attention how many layers have it.
        page_bytes: what one layer keeps of the tokens of a page.
        page_tokens: how many those are.
        step_tokens: how many tokens one step reads at most.
    """

    group_layers: tuple[int, ...]
    page_bytes: int
    page_tokens: int
    step_tokens: int

    def cache_bytes(self, tokens: int) -> int:
        """The cache for so many tokens."""
        return (self._sectors(tokens) + 2) * self._sector_bytes

    def tables_bytes(self, tokens: int) -> int:
        """What stands beside it for as long: for each kind of attention where in the cache each token is, and numbers
        for each token of a step."""
        kinds, read = len(self.group_layers), self._readable_tokens(tokens) + self.step_tokens
        places = kinds * (read + self.step_tokens) * _PLACE_BYTES
        row = math.ceil((self.step_tokens + 1) / _ROW_ALIGNMENT) * _ROW_ALIGNMENT
        return places + (_ROWS_OF_NUMBERS * row + self.step_tokens + 1) * _NUMBER_BYTES

    @property
    def _sector_bytes(self) -> int:
        return math.lcm(*(layers * self.page_bytes for layers in self.group_layers), _ALIGNMENT_BYTES)

    def _sectors(self, tokens: int) -> int:
        blocks = math.ceil(tokens / self.page_tokens) + 1
        return math.ceil(blocks * sum(self.group_layers) * self.page_bytes / self._sector_bytes)

    def _readable_tokens(self, tokens: int) -> int:
        """Of the kind with the fewest layers, if all of the cache were its own."""
        block_bytes = min(self.group_layers) * self.page_bytes
        return self._sectors(tokens) * self._sector_bytes // block_bytes * self.page_tokens
