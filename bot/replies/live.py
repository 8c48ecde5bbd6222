"""A reply that grows while the model talks.

One loop and no other task: take in what the model says until something may be sent, send that one thing, and again. The
first words are shown at once; after that about one edit a second, each with everything there is; the end is always
shown. What may be sent when is `Traffic`'s business, which all replies share.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import discord

from bot.errors import GenerationTimeout
from bot.inference.engine import Finished, FinishReason
from bot.inference.generation import Generation
from bot.replies.buttons import Buttons, buttons_at_end, buttons_meanwhile, view_of
from bot.replies.keep import NOTHING, Keep
from bot.replies.refusal import blocks_words, is_final, is_gone, retry_after_s, take_refusal
from bot.replies.shown import Shown
from bot.replies.surface import TROUBLE, Surface
from bot.replies.traffic import Claim, Traffic, Worth
from bot.replies.wait import Wait, just_wait

log = logging.getLogger(__name__)

# A reply whose model has said nothing for so long shows that it reads, with a Stop button. The first words of a short
# question take about 1 s on two CPU cores (docs/performance.md), so that these cost no further request.
READING_AFTER_S = 1.5
_TICK_S = 10.0  # how often a wait that gets shorter is shown anew
_LONGEST_PAUSE_S = 30.0  # between two tries where Discord takes nothing for now, as in slow mode
_END_ATTEMPTS = 3  # discord.py has tried each of them several times already
_RULES = "this server's rules"  # stopped an answer whose words AutoMod does not take
_OVER = "Discord lets a command that you installed for yourself be answered for 15 minutes only, and they are over."


@dataclass(frozen=True, slots=True)
class _Step:
    """One request: a page as it should stand."""

    page: int
    content: str
    buttons: Buttons
    file: str | None


class LiveReply:
    """The growing reply on one surface.

    Args:
        surface: where.
        reply_id: what the buttons know the reply by.
        traffic: who may send when; shared by all replies.
        shown: what is seen before the first event.
        edit_interval_s: the least time between two edits.
        wait: how to await the model, see `Wait`.
        looking: held by the reply that works out what to show; shared by all replies.

    Attributes:
        shown: what is seen.
        end_shown: whether people see how it ended, or there is no place left to show it.
    """

    def __init__(
        self,
        surface: Surface,
        reply_id: str,
        *,
        traffic: Traffic,
        shown: Shown | None = None,
        edit_interval_s: float = 1.0,
        wait: Wait = just_wait,
        looking: asyncio.Lock | None = None,
    ) -> None:
        self.shown = shown or Shown()
        self.end_shown = False
        self._surface = surface
        self._reply_id = reply_id
        self._traffic = traffic
        self._interval_s = edit_interval_s
        self._wait = wait
        self._looking = looking or asyncio.Lock()
        self._stopped_by: str | None = None
        self._generation: Generation | None = None
        self._standing: list[tuple[str, Buttons]] = []  # the pages in Discord, and what is under them
        self._step: _Step | None = None
        self._claim: Claim | None = None
        self._moved = False
        self._quiet_since_s: float | None = None  # since when the model has had the request and said nothing
        self._began_words = False
        self._next_edit_s = 0.0
        self._last_sent_s: float | None = None
        self._failures = 0
        self._pause_s = edit_interval_s  # after the next failure; doubled with each
        self._end_from_s = 0.0  # before which the end is not tried, after a failure
        self._is_refused = False

    def stop(self, name: str) -> None:
        """Stop the model because somebody of this name wants it; the reply then says so."""
        if self._generation is not None and self._generation.finished is None:
            self._stopped_by = name
            self._generation.cancel()

    async def follow(self, generation: Generation, keep: Keep = NOTHING) -> Finished:
        """Show the generation until it ends, and return how it did.

        A message that was deleted, or a channel that was closed to the bot, ends the generation quietly.

        Args:
            generation: what to show.
            keep: what keeps it.

        Raises:
            discord.HTTPException: the command could not be acknowledged, though it is still there.
        """
        self._generation = generation
        try:
            await self._acknowledge()
            if self._surface.message_ids:
                await keep.begun(self._surface.message_ids)
            while (wait_s := await self._look_in_turn()) is not None:
                if wait_s > 0:
                    await self._take_in(generation, wait_s, keep)
                else:
                    await self._send(generation, keep)
            self.end_shown = self._failures < _END_ATTEMPTS or self._is_refused
        except discord.HTTPException as error:
            if not is_gone(error):
                raise
            log.info("reply %s is gone (%s %s): stopped", generation.id, error.status, error.code)
            generation.cancel()
            self.end_shown = True
        finally:
            self._leave_line()
        return generation.finished or generation.ending(FinishReason.CANCELLED)

    async def _acknowledge(self) -> None:
        """In turn, should very many have asked in the same second; Discord gives 3 s for it."""
        if (bucket := self._surface.acknowledged_in) is not None:
            self._claim = Claim(bucket, Worth.END, _now_s())
            self._traffic.enter(self._claim)
            while (wait_s := self._traffic.wait_s(self._claim, _now_s())) > 0:
                await self._wait(asyncio.sleep(wait_s), reason="a turn to acknowledge")
            async with self._taken():
                await self._surface.acknowledge()

    async def _look_in_turn(self) -> float | None:
        """As `_look`. The looks of many replies that are due at once would add up: each has a round of the loop."""
        async with self._looking:
            await asyncio.sleep(0)
            return self._look(_now_s())

    def _look(self, now_s: float) -> float | None:
        """Seconds until something is to be done, 0 if a request is to be made now; None when all is said."""
        left_s = math.inf if self._surface.ends_at_s is None else max(0.001, self._surface.ends_at_s - now_s)
        left_s = min(left_s, self._reading_in_s(now_s))
        worth = self._worth
        if worth is None:
            self._leave_line()
            return min(left_s, _TICK_S) if self.shown.counts_down else left_s
        at_once = worth is Worth.FIRST_WORDS or (worth is Worth.END and not self._failures)
        if not at_once and (pause_s := self._next_edit_s - now_s) > 0:
            return min(pause_s, left_s)
        self._step = self._next_step()
        if self._step is None or self._failures >= _END_ATTEMPTS:
            self.shown.due = False
            self._leave_line()
            return None if worth is Worth.END else left_s
        return self._traffic.wait_s(self._in_line(self._step, worth, now_s), now_s)

    def _reading_in_s(self, now_s: float) -> float:
        """How long until the reply says that the model reads the prompt, unless the model says something before."""
        if self._quiet_since_s is None or not self.shown.may_be_reading:
            return math.inf
        if (left_s := self._quiet_since_s + READING_AFTER_S - now_s) > 0:
            return left_s
        self.shown.reading()
        return math.inf

    @property
    def _worth(self) -> Worth | None:
        """What the next request is for; None while there is nothing new."""
        if self.shown.finished is not None:
            return Worth.END
        if not (self.shown.due and self.shown.has_something):
            return None
        if not self.shown.has_words:
            return Worth.STATUS
        return Worth.WORDS if self._began_words else Worth.FIRST_WORDS

    async def _take_in(self, generation: Generation, seconds: float, keep: Keep) -> None:
        """Take in what the model says, for so long or until that changes what is to be sent; its end is kept."""
        until_s, before = _now_s() + seconds, self._worth
        while self._worth == before and not self._moved and (left_s := until_s - _now_s()) > 0:
            try:
                await self._wait(_within(generation, left_s), reason="the model's next words")
            except TimeoutError:
                self.shown.tick(_now_s())
                break
            began = self._notice_begin(generation)
            while (event := generation.next_nowait()) is not None:
                self.shown.apply(event, _now_s())
                if self.shown.finished is not None:
                    self._next_edit_s = min(self._next_edit_s, self._end_from_s)
                    await keep.ended(self.shown.finished, self.shown.text)
                began |= self._notice_begin(generation, heard=True)
            if began:
                break
        self._moved = False
        if self._surface.ends_at_s is not None and _now_s() >= self._surface.ends_at_s:
            generation.cancel(GenerationTimeout(_OVER))

    def _notice_begin(self, generation: Generation, *, heard: bool = False) -> bool:
        """Note since when the model has had the request and said nothing; whether it has just been given it."""
        began = self._quiet_since_s is None and generation.has_begun
        if began:
            self.shown.begun()
        if began or (heard and self._quiet_since_s is not None):
            self._quiet_since_s = _now_s()
        return began

    def _next_step(self) -> _Step | None:
        """The first page that does not stand in Discord as it should."""
        finished = self.shown.finished
        if finished is None:
            contents, under_last = self.shown.now(), buttons_meanwhile()
        else:
            alias = "" if self._generation is None else self._generation.request.model.alias
            contents = self.shown.end(finished, alias, self._stopped_by, self._reply_id)
            under_last = buttons_at_end(finished, thought=self.shown.has_thoughts)
        last = len(contents.pages) - 1
        for number, content in enumerate(contents.pages):
            wanted = (content, under_last if number == last else ())
            if number >= len(self._standing) or self._standing[number] != wanted:
                return _Step(number, *wanted, contents.file if number == last else None)
        return None

    async def _send(self, generation: Generation, keep: Keep) -> None:
        """Make the request that `_look` found due."""
        step = self._step
        assert step is not None and self._claim is not None  # noqa: S101
        self._began_words = self.shown.has_words
        known = len(self._surface.message_ids)
        self._last_sent_s = _now_s()
        try:
            async with self._taken():
                await self._surface.show(
                    step.page, step.content, view_of(step.buttons, self._reply_id), step.file
                )
        except TROUBLE as error:
            is_new = step.page >= known
            if take_refusal(self.shown, error, page=step.page, is_new=is_new, has_file=step.file is not None):
                code = getattr(error, "code", "")
                log.info("message %d of reply %s is refused (%s)", step.page + 1, generation.id, code)
                if blocks_words(error) or not (is_new and step.page):
                    self._end_refused(generation, error)
                return
            if isinstance(error, discord.HTTPException) and is_gone(error):
                raise
            if self.shown.finished is not None and is_final(error):
                await self._give_up(step, error)
                return
            self._failed(generation, error)
            return
        self._standing[step.page : step.page + 1] = [(step.content, step.buttons)]
        self._failures, self._pause_s = 0, self._interval_s
        if self._next_step() is None:
            self.shown.due = False
            self._next_edit_s = _now_s() + self._interval_s
        if len(self._surface.message_ids) > known:
            await keep.begun(self._surface.message_ids)

    def _end_refused(self, generation: Generation, error: Exception) -> None:
        """Free the model: nobody can see what it goes on with."""
        if generation.finished is None:
            self._stopped_by = _RULES if blocks_words(error) else None
            generation.cancel()
        self._next_edit_s = _now_s() + self._interval_s  # the end is on its way, and is shown at once

    async def _give_up(self, step: _Step, error: Exception) -> None:
        """Discord takes neither the end nor a sentence in its place, and will not at the next start either."""
        log.warning("the end of reply %s is refused (%s)", self._reply_id, getattr(error, "code", ""))
        self._is_refused, self._failures = True, _END_ATTEMPTS
        if step.page < len(self._surface.message_ids):
            try:  # Stop, at least, goes away
                await self._surface.show_buttons(step.page, view_of(step.buttons, self._reply_id))
            except TROUBLE as failed:
                log.info("and so are its buttons (%s)", type(failed).__name__)

    def _failed(self, generation: Generation, error: Exception) -> None:
        """Discord has a bad moment; the next request carries everything. Said in the log once for each such time."""
        if not self._failures:
            # Discord's text can hold what people wrote.
            short = f"{type(error).__name__} {getattr(error, 'status', '')}".strip()
            log.warning("reply %s could not be brought up to date (%s); going on", generation.id, short)
        if self.shown.finished is not None:
            self._failures += 1
        else:
            self._failures = 1
        asked_s = retry_after_s(error)
        self._next_edit_s = _now_s() + max(self._pause_s, asked_s)
        self._end_from_s = _now_s() + max(self._interval_s, asked_s)  # who waits for the end waits no longer
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _in_line(self, step: _Step, worth: Worth, now_s: float) -> Claim:
        """The claim for a step. Its place is that of a reply nothing was sent for since the last time."""
        bucket = self._surface.bucket(step.page)
        if self._claim is not None and self._claim.bucket == bucket:
            self._claim.worth = worth
            return self._claim
        self._leave_line()
        if self._last_sent_s is None:
            self._last_sent_s = now_s
        self._claim = Claim(bucket, worth, self._last_sent_s, self._move_up)
        self._traffic.enter(self._claim)
        return self._claim

    @asynccontextmanager
    async def _taken(self) -> AsyncIterator[None]:
        """Take the claim; the block makes the request."""
        assert self._claim is not None  # noqa: S101
        self._traffic.take(self._claim, _now_s())
        self._claim = None
        try:
            yield
        finally:
            self._traffic.answered(_now_s())

    def _leave_line(self) -> None:
        if self._claim is not None:
            self._traffic.leave(self._claim)
            self._claim = None

    def _move_up(self) -> None:
        self._moved = True
        if self._generation is not None:
            self._generation.wake()


async def _within(generation: Generation, seconds: float) -> None:
    async with asyncio.timeout(None if seconds == math.inf else seconds):
        await generation.news()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
