"""A reply that grows while the model talks.

One loop and no other task: wait for the next event or for the time of the next edit, whichever is first.
The first words are shown at once; after that about one edit a second, each with everything there is; the end
is always shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import discord

from bot.inference.engine import Event, Finished, FinishReason, Loading, Queued, TextDelta
from bot.inference.generation import Generation
from bot.replies.pages import split_pages
from bot.replies.surface import InteractionSurface
from bot.replies.views import StopView

log = logging.getLogger(__name__)

_END_ATTEMPTS = 3  # discord.py has tried each of them several times already
_SILENCE = "*(The model had nothing to say.)*"


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


@dataclass(slots=True)
class _Shown:
    """What the person is to see now."""

    text: str = ""
    status: str = ""
    finished: Finished | None = None
    due: bool = False  # something changed since the last edit

    def apply(self, event: Event) -> None:
        match event:
            case Queued(position, eta_s):
                self.status = queued_line(position, eta_s)
            case Loading():
                self.status = loading_line(event)
            case TextDelta(text, _):
                self.text += text
                if self.has_words:
                    self.status = ""
            case Finished():
                self.finished = event
        self.due = True

    @property
    def has_words(self) -> bool:
        return bool(self.text.strip())

    @property
    def waits_for_edit(self) -> bool:
        return self.due and (self.has_words or bool(self.status))


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
        self._shown = _Shown()
        self._began_words = False
        self._next_edit_s = 0.0
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
            await self._show_end(finished, generation)
        except (discord.NotFound, discord.Forbidden) as error:
            log.info("reply of generation %s is gone (%s): stopped", generation.id, error.code)
            generation.cancel()
            return generation.finished or generation.ending(FinishReason.CANCELLED)
        finally:
            view.stop()
        return finished

    async def _next(self, generation: Generation) -> None:
        """Take in the next event and all that are there already, or give up when an edit is due."""
        until_edit_s = max(0.0, self._next_edit_s - _now_s()) if self._shown.waits_for_edit else None
        try:
            event = await self._wait(_within(generation, until_edit_s), reason="the model's next words")
        except TimeoutError:
            return
        while event is not None:
            self._shown.apply(event)
            event = generation.next_nowait()

    def _may_edit(self) -> bool:
        if not self._shown.waits_for_edit:
            return False
        first_words = self._shown.has_words and not self._began_words
        return first_words or _now_s() >= self._next_edit_s

    async def _edit(self, view: StopView) -> None:
        self._shown.due = False
        self._began_words = self._shown.has_words
        pages = split_pages(self._shown.text.lstrip()) if self._shown.has_words else [self._shown.status]
        try:
            await self._show(pages, view)
        except (discord.NotFound, discord.Forbidden):
            raise
        except (discord.HTTPException, TimeoutError, OSError) as error:
            # Discord has a bad moment; the next edit carries everything.
            log.warning("an edit failed (%s); going on", _short(error))
        self._next_edit_s = _now_s() + self._interval_s

    async def _show_end(self, finished: Finished, generation: Generation) -> None:
        text = self._shown.text.strip()
        if not text and finished.reason in (FinishReason.STOP, FinishReason.LENGTH):
            text = _SILENCE
        pages = split_pages(text)
        notes = ending_lines(finished, generation.request.model.alias)
        pages[-1] = f"{pages[-1].rstrip()}\n{notes}".lstrip()
        for attempt in range(_END_ATTEMPTS):
            try:
                await self._show(pages, None)
                return
            except (discord.NotFound, discord.Forbidden):
                raise
            except (discord.HTTPException, TimeoutError, OSError) as error:
                log.warning("the end of generation %s was not shown (%s)", generation.id, _short(error))
                if attempt < _END_ATTEMPTS - 1:
                    await self._wait(asyncio.sleep(self._interval_s), reason="a moment for Discord")

    async def _show(self, pages: list[str], view: StopView | None) -> None:
        """Bring Discord's pages to these; the view goes under the last one, and nothing is sent twice."""
        last = len(pages) - 1
        for number, content in enumerate(pages):
            was = self._pages[number] if number < len(self._pages) else None
            was_last = number == len(self._pages) - 1
            if content != was or (was_last and number != last) or (number == last and view is None):
                await self._surface.show(number, content, view if number == last else None)
                self._pages[number : number + 1] = [content]


def queued_line(position: int, eta_s: float | None) -> str:
    """What somebody who waits reads."""
    about = f" · about {spoken_eta(eta_s)}" if eta_s is not None else ""
    ahead = "You are next" if position == 1 else f"{position - 1} ahead of you"
    return f"-# ⏳ {ahead}{about}"


def loading_line(loading: Loading) -> str:
    """What somebody reads whose model is not in memory yet."""
    parts = [f"-# ⏳ {loading.step.capitalize()} {loading.model}"]
    if loading.fraction is not None and loading.fraction < 1:
        parts.append(f"{loading.fraction:.0%}")
    if loading.eta_s is not None:
        parts.append(f"about {spoken_eta(loading.eta_s)}")
    return " · ".join(parts)


def spoken_eta(seconds: float) -> str:
    """A wait for people: "9 s", "12 min"."""
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{round(seconds / 60)} min"


def ending_lines(finished: Finished, model: str) -> str:
    """What stands under an answer: why it ended if that is not plain, and the numbers, in small print."""
    parts = [model]
    usage = finished.usage
    if usage.completion_tokens:
        parts.append(f"{usage.completion_tokens} tokens")
        if usage.tokens_per_second is not None:
            parts.append(f"{usage.tokens_per_second:.1f} tokens/s")
        parts.append(f"{usage.generation_s:.1f} s")
    match finished.reason:
        case FinishReason.CANCELLED:
            parts.insert(0, "⏹ stopped")
        case FinishReason.LENGTH:
            parts.insert(0, "✂ cut at the token limit")
    lines = [f"-# {' · '.join(parts)}"]
    if finished.error is not None:
        lines.insert(0, f"⚠️ {finished.error}")
    return "\n".join(lines)


async def _within(generation: Generation, seconds: float | None) -> Event:
    async with asyncio.timeout(seconds):
        return await anext(generation)


def _short(error: Exception) -> str:
    """An error for the log: Discord's text can hold what people wrote."""
    return f"{type(error).__name__} {getattr(error, 'status', '')}".strip()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
