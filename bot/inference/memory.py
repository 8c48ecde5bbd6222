"""What memory holds, in numbers: the words that the pool, `/gpu` and `check` share. No torch, no policy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model needs while it answers.

    `cache_bytes` is the KV cache for the whole context window; `working_bytes` what a forward pass takes beside.
    `loading_bytes` is what a load takes beside the weights, before there is a cache.
    """

    weights_bytes: int
    cache_bytes: int
    working_bytes: int = 0
    loading_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it, once the model is loaded."""
        return self.weights_bytes + self.cache_bytes + self.working_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that it takes, while it is loaded or while it answers."""
        return max(self.total_bytes, self.weights_bytes + self.loading_bytes)


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory; `idle_s` is None while it is in use."""

    alias: str
    footprint: Footprint
    pinned: bool
    idle_s: float | None


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What is resident now, under which budget."""

    budget_bytes: int
    residents: tuple[Resident, ...] = ()

    @property
    def reserved_bytes(self) -> int:
        """What the residents may take together."""
        return sum(resident.footprint.total_bytes for resident in self.residents)


def gigabytes(count: int) -> str:
    """A size for people: "0.3 GB", "26 GB"."""
    size = count / 1e9
    return f"{size:.1f} GB" if size < 10 else f"{size:.0f} GB"
