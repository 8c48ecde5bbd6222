"""What people wrote and what models answered, in the log: only where an operator has switched that on (LOG_CONTENT).

No other code of the bot's logs such words, so where this observer is not there, nothing has to be held back.
"""

from __future__ import annotations

import logging

from bot.inference.engine import Event, Finished, TextDelta
from bot.inference.generation import Generation
from bot.inference.observer import Unobserved

log = logging.getLogger(__name__)


class ContentLog(Unobserved):
    """Logs each answer with its question when it has ended."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}

    def happened(self, generation: Generation, event: Event) -> None:
        """See `Observer.happened`."""
        match event:
            case TextDelta(text):
                self._texts.setdefault(generation.id, []).append(text)
            case Finished():
                asked = [(one.role.value, one.content) for one in generation.request.messages]
                answer = "".join(self._texts.pop(generation.id, []))
                log.info("reply %s: asked %r, answered %r", generation.id, asked, answer)
