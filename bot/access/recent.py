"""Who asked within the last minute, and who has requests under way: in memory, since neither outlives a start."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from bot.access.quotas import MINUTE_S
from bot.inference.generation import Generation
from bot.storage.usage import Scope


class Admission:
    """Somebody was let in: a request that is under way from now until its generation has ended, or the block is left.

    Attributes:
        scopes: whose use it is.
        generation: what answers; set by who submits.
    """

    def __init__(self, recent: Recent, scopes: tuple[Scope, ...]) -> None:
        self.scopes = scopes
        self.generation: Generation | None = None
        self._recent = recent

    @property
    def is_under_way(self) -> bool:
        """Whether its generation waits or runs, or is still to come."""
        return self.generation is None or self.generation.finished is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recent.leave(self)


class Recent:
    """Counts requests by whose they are."""

    def __init__(self) -> None:
        self._asked_s: defaultdict[Scope, deque[float]] = defaultdict(deque)
        self._held: defaultdict[Scope, set[Admission]] = defaultdict(set)
        self._swept_s = 0.0

    def asked_s(self, scope: Scope) -> Iterable[float]:
        """When requests were made that count for a scope, those of the last minute at least."""
        return tuple(self._asked_s.get(scope, ()))

    def under_way(self, scope: Scope) -> int:
        """How many requests of a scope wait or run."""
        return sum(one.is_under_way for one in self._held.get(scope, ()))

    def count(self, scopes: tuple[Scope, ...], now_s: float) -> None:
        """Count a request toward the per-minute limit, even if it fails later."""
        self._sweep(now_s)
        for scope in scopes:
            self._asked_s[scope].append(now_s)

    def enter(self, scopes: tuple[Scope, ...]) -> Admission:
        """A request is under way from now on."""
        admission = Admission(self, scopes)
        for scope in scopes:
            self._held[scope].add(admission)
        return admission

    def leave(self, admission: Admission) -> None:
        """The request is over."""
        for scope in admission.scopes:
            self._held[scope].discard(admission)
            if not self._held[scope]:
                del self._held[scope]

    def _sweep(self, now_s: float) -> None:
        """Forget what is older than a minute, once in a while; a clock that was set back begins anew."""
        if self._swept_s <= now_s < self._swept_s + MINUTE_S:
            return
        self._swept_s = now_s
        for scope, asked in list(self._asked_s.items()):
            left = deque(at_s for at_s in asked if at_s <= now_s < at_s + MINUTE_S)
            if left:
                self._asked_s[scope] = left
            else:
                del self._asked_s[scope]
