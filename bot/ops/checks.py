"""Running checks: all at once, each in its time, and whatever goes wrong in one is its finding."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bot.errors import BotError
from bot.ops.findings import Finding, Verdict

log = logging.getLogger(__name__)

PATIENCE_S = 15.0
_DETAIL_LENGTH = 200
_TELLING = (ImportError, OSError, RuntimeError)  # their messages name libraries and files, and no secrets

_Result = TypeVar("_Result")


class NotChecked(Exception):
    """A check could not be made, for a reason that another check tells the fix of."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at.

    Attributes:
        id, subject: those of its finding.
        look: looks, and says what was found; may raise `NotChecked`, which is a warning, or anything else, which is
            a failure.
        asks: whom it asks over the network; nobody if empty. It is left out offline.
        patience_s: how long it may take.
        if_late: what to do if it takes longer.
    """

    id: str
    subject: str
    look: Callable[[], Awaitable[str | tuple[Verdict, str]]]
    asks: str = ""
    patience_s: float = PATIENCE_S
    if_late: str = "try again"

    async def finding(self, *, offline: bool = False) -> Finding:
        """Look, and say what was found, whatever happens."""
        return Finding(self.id, *(await self._looked(offline=offline)))

    async def _looked(self, *, offline: bool) -> tuple[Verdict, str, str]:
        verdict, text = Verdict.FAILED, ""
        if offline and self.asks:
            text = f"NOT CHECKED, because of --offline: leave it out, and {self.asks} is asked"
            return Verdict.WARNING, self.subject, text
        try:
            async with asyncio.timeout(self.patience_s):
                found = await self.look()
            verdict, text = (Verdict.OK, found) if isinstance(found, str) else found
        except NotChecked as why:
            verdict, text = Verdict.WARNING, f"not checked: {why}"
        except BotError as error:
            text = str(error)
        except TimeoutError:
            text = f"no answer within {self.patience_s:.0f} s: {self.if_late}"
        except Exception as error:
            log.debug("%s could not be checked", self.id, exc_info=error)
            detail = str(error)[:_DETAIL_LENGTH] if isinstance(error, _TELLING) else ""
            text = f"could not be checked ({type(error).__name__}{': ' if detail else ''}{detail})"
        return verdict, self.subject, " ".join(text.split())


async def run_checks(checks: Sequence[Check], *, offline: bool = False) -> AsyncGenerator[Finding, None]:
    """Run all of them at once; their findings come in the order of the checks, each as soon as it can."""
    tasks = [asyncio.create_task(check.finding(offline=offline)) for check in checks]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Once(Generic[_Result]):
    """Something that several checks need, done when the first of them asks; the others wait for the same.

    Args:
        work: does it.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, _Result]]) -> None:
        self._work = work
        self._task: asyncio.Task[_Result] | None = None

    async def __call__(self) -> _Result:
        """What came of it; raises what it raised."""
        if self._task is None:
            self._task = asyncio.create_task(self._work(), context=contextvars.copy_context())
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._task)  # whoever is out of time does not take it from the others

    async def aclose(self) -> None:
        """End it, if it is still going on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
