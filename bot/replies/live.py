"""A reply that grows while the model talks.

One loop and no other task: wait for the next event or for the time of the next edit, whichever is first.
The first words are shown at once; after that about one edit a second, each with everything there is; the end
is always shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import discord

from bot.inference.engine import Event, Finished, FinishReason
from bot.inference.generation import Generation
from bot.replies.budget import Budget
from bot.replies.shown import Contents, Shown
from bot.replies.surface import InteractionSurface
from bot.replies.views import StopView

log = logging.getLogger(__name__)

_END_ATTEMPTS = 3  # discord.py has tried each of them several times already


class Wait(Protocol):
    """How to await what does not come from Discord. A simulated Discord, whose clock stands still, needs to
    be told of such waits; the real one does not."""

    def __call__(self, awaitable: Awaitable[Any], *, reason: str) -> Awaitable[Any]:
        """`awaitable`, announced."""
        ...


def just_wait(awaitable: Awaitable[Any], *, reason: str) -> Awaitable[Any]:
    """How to wait in the real Discord."""
    return awaitable


LiveReplies = Callable[[discord.Interaction[Any]], "LiveReply"]


class LiveReply:
    """The growing reply to one interaction.

    Args:
        interaction: the command; acknowledged here if it was not yet.
        edit_interval_s: the least time between two edits.
        wait: how to await the model, see `Wait`.
    """

    def __init__(
        self, interaction: discord.Interaction[Any], *, edit_interval_s: float = 1.0, wait: Wait = just_wait
    ) -> None:
        self._surface = InteractionSurface(interaction)
        self._interval_s = edit_interval_s
        self._wait = wait
        self._shown = Shown()
        self._began_words = False
        self._next_edit_s = 0.0
        self._budget = Budget()  # an interaction's replies have a bucket of their own
        self._pages: list[str] = []  # as they stand in Discord

    async def follow(self, generation: Generation) -> Finished:
        """Show the generation until it ends, and return how it did.

        A message that was deleted, or a channel that was closed to the bot, ends the generation quietly.
        """
        view = StopView(generation, self._surface.asker)
        try:
            await self._surface.acknowledge()
            while (finished := self._shown.finished) is None:
                await self._next(generation)
                if self._may_edit() and not self._shown.finished:
                    await self._edit(view)
            await self._show_end(finished, generation, view)
        except (discord.NotFound, discord.Forbidden) as error:
            log.info("reply of generation %s is gone (%s): stopped", generation.id, error.code)
            generation.cancel()
            return generation.finished or generation.ending(FinishReason.CANCELLED)
        finally:
            view.stop()
        return finished

    async def _next(self, generation: Generation) -> None:
        """Take in the next event and all that are there already, or give up when an edit is due."""
        until_edit_s = self._until_edit_s() if self._waits_for_edit else None
        try:
            event = await self._wait(_within(generation, until_edit_s), reason="the model's next words")
        except TimeoutError:
            return
        while event is not None:
            self._shown.apply(event)
            event = generation.next_nowait()

    @property
    def _waits_for_edit(self) -> bool:
        return self._shown.due and self._shown.has_something

    def _may_edit(self) -> bool:
        if not self._waits_for_edit:
            return False
        return self._until_edit_s() <= 0

    def _until_edit_s(self) -> float:
        """How long until the next edit: first words go at once, if the bucket takes another one."""
        first_words = self._shown.has_words and not self._began_words
        pause_s = 0.0 if first_words else self._next_edit_s - _now_s()
        return max(0.0, pause_s, self._budget.wait_s(_now_s()))

    async def _edit(self, view: StopView) -> None:
        self._began_words = self._shown.has_words
        try:
            await self._show(self._shown.now(), view)
        except (discord.NotFound, discord.Forbidden):
            raise
        except (discord.HTTPException, TimeoutError, OSError) as error:
            # Discord has a bad moment; the next edit carries everything.
            log.warning("an edit failed (%s); going on", _short(error))
        self._next_edit_s = _now_s() + self._interval_s

    async def _show_end(self, finished: Finished, generation: Generation, view: StopView) -> None:
        contents = self._shown.end(finished, generation.request.model.alias, view.stopped_by)
        for attempt in range(_END_ATTEMPTS):
            try:
                await self._show(contents, None)
                return
            except (discord.NotFound, discord.Forbidden):
                raise
            except (discord.HTTPException, TimeoutError, OSError) as error:
                log.warning("the end of generation %s was not shown (%s)", generation.id, _short(error))
                if attempt < _END_ATTEMPTS - 1:
                    await self._wait(asyncio.sleep(self._interval_s), reason="a moment for Discord")

    async def _show(self, contents: Contents, view: StopView | None) -> None:
        """Bring Discord's pages to these; the view goes under the last one, and nothing is sent twice."""
        last = len(contents.pages) - 1
        for number, content in enumerate(contents.pages):
            was = self._pages[number] if number < len(self._pages) else None
            was_last = number == len(self._pages) - 1
            if content != was or (was_last and number != last) or (number == last and view is None):
                file = contents.file if number == last else None
                self._budget.spend(_now_s())
                await self._surface.show(number, content, view if number == last else None, file)
                self._pages[number : number + 1] = [content]


async def _within(generation: Generation, seconds: float | None) -> Event:
    async with asyncio.timeout(seconds):
        return await anext(generation)


def _short(error: Exception) -> str:
    """An error for the log: Discord's text can hold what people wrote."""
    return f"{type(error).__name__} {getattr(error, 'status', '')}".strip()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
