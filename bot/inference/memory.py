"""What memory holds, in numbers: the words that the pool, `/gpu` and `check` share. No torch, no policy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a model needs while it answers.

    `cache_bytes` is the KV cache for the whole context window; `working_bytes` what a forward pass takes beside.
    """

    weights_bytes: int
    cache_bytes: int
    working_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.cache_bytes + self.working_bytes


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
