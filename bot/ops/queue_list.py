"""What `/queue` shows: who is answered and who waits, with the power to cancel; to the operator who asked alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import discord

from bot import deadline
from bot.answers import Answers, UnderWay
from bot.errors import StorageError
from bot.inference.queue import InferenceQueue
from bot.inference.schedule import fair_order
from bot.operators import Operators
from bot.replies.explain import tell
from bot.replies.limits import OPTION_LIMIT, shortened
from bot.replies.model_list import LIST_TIMEOUT_S
from bot.replies.pages import MESSAGE_LIMIT
from bot.replies.status import spoken_eta
from bot.replies.surface import TROUBLE

PAGE_ENTRIES = 10
_OPERATOR = "an operator"
_NOBODY = discord.AllowedMentions.none()

_Interaction = discord.Interaction[Any]


class QueueView(discord.ui.View):
    """The list, page by page, with a choice of whom to cancel.

    Args:
        asked: the command.
        answers: those that are under way.
        queue: how many hold a place.
        operators: who may press; looked at again for each press.
    """

    def __init__(
        self, asked: _Interaction, answers: Answers, queue: InferenceQueue, operators: Operators
    ) -> None:
        super().__init__(timeout=LIST_TIMEOUT_S)
        self._operators = operators
        self._asked = asked
        self._answers = answers
        self._queue = queue
        self._page = 0
        self._whom: discord.ui.Select[Any] = discord.ui.Select(placeholder="Cancel…")
        self._whom.callback = self._chosen  # type: ignore[method-assign]  # as the decorator does
        self.add_item(self._whom)
        self.look()

    def look(self, done: str = "") -> str:
        """Look at the queue anew; the text, below what was done."""
        self._entries = in_line(self._answers.under_way)
        last = max(0, (len(self._entries) - 1) // PAGE_ENTRIES)
        self._page = max(0, min(self._page, last))
        first = self._page * PAGE_ENTRIES
        shown = self._entries[first : first + PAGE_ENTRIES]
        texts = [_text(one, time.monotonic()) for one in shown]
        self.back_button.disabled, self.next_button.disabled = self._page == 0, self._page == last
        self.all_button.disabled = not self._entries
        self._offer(shown, first, texts)
        lines = [
            f"{number}. {_line(one, text)}"
            for number, (one, text) in enumerate(zip(shown, texts, strict=True), first + 1)
        ]
        head = f"**{self._queue.running} running, {self._queue.waiting} waiting**"
        foot = [f"-# page {self._page + 1} of {last + 1}"] if last else []
        return shortened("\n".join([*([done] if done else []), head, *lines, *foot]), MESSAGE_LIMIT)

    async def interaction_check(self, interaction: _Interaction, /) -> bool:
        """Called by discord.py before each press: who was an operator when the list was opened may be none now.

        Raises:
            NotAllowed: the person is no operator.
            PlaceClosed: the bot was switched off there meanwhile.
        """
        deadline.begin()
        with suppress(StorageError):  # operators are needed most when the database does not answer
            await interaction.client.services.gate.require_on(interaction.guild_id)
        await self._operators.require(interaction.user)
        return True

    async def on_timeout(self) -> None:
        """Take the buttons away: they do nothing any more."""
        with suppress(*TROUBLE):  # the person may have dismissed the message
            await self._asked.edit_original_response(view=None, allowed_mentions=_NOBODY)

    async def on_error(
        self, interaction: _Interaction, error: Exception, item: discord.ui.Item[Any], /
    ) -> None:
        """Say in a sentence what went wrong."""
        await tell(interaction, error)

    @discord.ui.button(label="Back", emoji="◀️")
    async def back_button(self, interaction: _Interaction, _: discord.ui.Button[Any]) -> None:
        """The page before."""
        self._page -= 1
        await self._show(interaction)

    @discord.ui.button(label="Next", emoji="▶️")
    async def next_button(self, interaction: _Interaction, _: discord.ui.Button[Any]) -> None:
        """The page after."""
        self._page += 1
        await self._show(interaction)

    @discord.ui.button(label="Look again", emoji="🔄")
    async def again_button(self, interaction: _Interaction, _: discord.ui.Button[Any]) -> None:
        """The same page as it is now."""
        await self._show(interaction)

    @discord.ui.button(label="Cancel all", emoji="⏹️", style=discord.ButtonStyle.danger)
    async def all_button(self, interaction: _Interaction, _: discord.ui.Button[Any]) -> None:
        """Cancel all that were listed when this was shown; who came since then did not ask for it."""
        await self._cancel(interaction, {one.generation.id for one in self._entries})

    async def _chosen(self, interaction: _Interaction) -> None:
        await self._cancel(interaction, set(self._whom.values))

    async def _cancel(self, interaction: _Interaction, ids: set[str]) -> None:
        found = [one for one in self._answers.under_way if one.generation.id in ids and _is_open(one)]
        for one in found:
            one.reply.stop(_OPERATOR)
        gone = len(ids) - len(found)
        done = f"{len(found)} cancelled" + (f"; {gone} had ended already" if gone else "") + "."
        await self._show(interaction, done)

    async def _show(self, interaction: _Interaction, done: str = "") -> None:
        await interaction.response.edit_message(content=self.look(done), view=self, allowed_mentions=_NOBODY)

    def _offer(self, shown: Sequence[UnderWay], first: int, texts: Sequence[str]) -> None:
        self._whom.disabled = not shown
        self._whom.max_values = max(1, len(shown))
        self._whom.options = [
            discord.SelectOption(label=shortened(f"{number}. {text}", OPTION_LIMIT), value=one.generation.id)
            for number, (one, text) in enumerate(zip(shown, texts, strict=True), first + 1)
        ] or [discord.SelectOption(label="nobody")]


def in_line(under_way: Sequence[UnderWay]) -> list[UnderWay]:
    """Those that run, the longest first, and those that wait, in the order in which they are served. Not those that
    are over, and whose readers are showing the end."""
    by_generation = {one.generation: one for one in under_way if _is_open(one)}
    running = [one for one in by_generation if one.begun_s is not None]
    waiting = [one for one in by_generation if one.begun_s is None]
    running.sort(key=lambda one: one.begun_s or 0.0)
    return [by_generation[one] for one in (*running, *fair_order(waiting, running))]


def _is_open(one: UnderWay) -> bool:
    return one.generation.finished is None


def _text(one: UnderWay, now_s: float) -> str:
    """The model, and how far it is."""
    generation = one.generation
    alias = generation.request.model.alias
    if generation.begun_s is None:
        return f"{alias} · waiting for {spoken_eta(now_s - generation.asked_s)}"
    tokens = generation.usage.completion_tokens
    return f"{alias} · running for {spoken_eta(now_s - generation.begun_s)} · {tokens} tokens"


def _line(one: UnderWay, text: str) -> str:
    """The same, with who asked where; the operator may not be where that is, and then sees the number."""
    origin = one.origin
    where = f" in <#{origin.channel_id}>" if origin.server_id is not None else " in a direct message"
    return f"{text} · <@{origin.asker_id}>{where}"
