"""How to await what does not come from Discord."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol


class Wait(Protocol):
    """How to await what does not come from Discord. A simulated Discord, whose clock stands still, needs to
    be told of such waits; the real one does not."""

    def __call__(self, awaitable: Awaitable[Any], *, reason: str) -> Awaitable[Any]:
        """`awaitable`, announced."""
        ...


def just_wait(awaitable: Awaitable[Any], *, reason: str) -> Awaitable[Any]:
    """How to wait in the real Discord."""
    return awaitable
