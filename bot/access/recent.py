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
    """Somebody was let in: a request that counts from now until its generation has ended, or the block is left.

    Attributes:
        scopes: whose use it is.
        generation: what answers; set by who submits. Without one the request was refused, and is not counted as asked.
    """

    def __init__(self, recent: Recent, scopes: tuple[Scope, ...], at_s: float) -> None:
        self.scopes = scopes
        self.generation: Generation | None = None
        self._recent = recent
        self._at_s = at_s

    @property
    def is_under_way(self) -> bool:
        """Whether its generation waits or runs, or is still to come."""
        return self.generation is None or self.generation.finished is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recent.leave(self, self._at_s)


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

    def enter(self, scopes: tuple[Scope, ...], now_s: float) -> Admission:
        """Count a request from now on."""
        self._sweep(now_s)
        admission = Admission(self, scopes, now_s)
        for scope in scopes:
            self._asked_s[scope].append(now_s)
            self._held[scope].add(admission)
        return admission

    def leave(self, admission: Admission, at_s: float) -> None:
        """The request is over. One that came to nothing was not asked."""
        for scope in admission.scopes:
            self._held[scope].discard(admission)
            if not self._held[scope]:
                del self._held[scope]
            if admission.generation is None and at_s in (asked := self._asked_s[scope]):
                asked.remove(at_s)

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
