"""What a reply has kept of it, so that a crash loses nothing that people have seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bot.inference.engine import Finished


class Keep(Protocol):
    """Keeps a reply; told of it in this order, and never fails."""

    async def begun(self, message_ids: Sequence[int]) -> None:
        """People see the reply, in these messages so far; told again of each that is new."""
        ...

    async def ended(self, finished: Finished, text: str) -> None:
        """How it ended, and all that the model wrote; told before people see that."""
        ...


class KeepNothing:
    """Keeps nothing."""

    async def begun(self, message_ids: Sequence[int]) -> None:
        """See `Keep.begun`."""

    async def ended(self, finished: Finished, text: str) -> None:
        """See `Keep.ended`."""


NOTHING = KeepNothing()
