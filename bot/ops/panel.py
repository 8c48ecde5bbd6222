"""The operators' panel: a message that says how the bot is, and that the bot keeps current."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import discord

from bot.errors import StorageError, UsageError
from bot.ops.panel_card import Glance, PanelCard
from bot.replies.panel_buttons import panel_view
from bot.replies.refusal import is_refusal
from bot.replies.surface import CALL_TIMEOUT_S, TROUBLE, own_channel
from bot.replies.traffic import Bucket, Claim, Traffic, Worth
from bot.replies.wait import Wait, just_wait
from bot.storage.database import in_time
from bot.storage.panels import PanelPlace, Panels

log = logging.getLogger(__name__)

PERIOD_S = 15.0  # between two looks
AT_LEAST_S = 60.0  # how old the panel may grow while nothing changes
# How long an edit that Discord refuses is not tried again: a permission comes back when somebody gives it.
REFUSED_PAUSE_S = 300.0
_PATIENCE_S = 2.0  # for the database
_FAREWELL_S = 5.0
_NOBODY = discord.AllowedMentions.none()


class Panel:
    """Keeps the one message current that operators put somewhere. It stays over restarts, and goes when it is deleted.

    Args:
        card: what it says.
        panels: where it stands, for the next start.
        traffic: who may send when; shared with all replies.
        wait: how to await what does not come from Discord, see `Wait`.
    """

    def __init__(self, card: PanelCard, panels: Panels, traffic: Traffic, wait: Wait = just_wait) -> None:
        self._card = card
        self._panels = panels
        self._traffic = traffic
        self._wait = wait
        self._place: PanelPlace | None = None
        self._shown: Glance | None = None
        self._shown_at_s = 0.0
        self._failed = False
        self._not_before_s = 0.0
        self._woken = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def begin(self, client: discord.Client) -> None:
        """Keep the panel current that an earlier run of the bot left, and any that comes."""
        self._client = client
        try:
            self._place = await in_time(self._panels.find(), _PATIENCE_S)
        except StorageError as error:
            log.warning("the panel is not looked for: %s", error)
        if self._place is not None:
            self._start()

    async def end(self) -> None:
        """Say under the panel that the bot has stopped; takes a few seconds at most."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._place is not None:
            with suppress(*TROUBLE):
                async with asyncio.timeout(_FAREWELL_S):
                    embed = self._card.embed(self._card.farewell())
                    await self._message(self._place).edit(embed=embed, view=None, allowed_mentions=_NOBODY)

    def refresh(self) -> None:
        """Look at once: something has changed that somebody wants to see."""
        self._woken.set()

    async def put(self, interaction: discord.Interaction[Any], *, drained: bool) -> None:
        """Answer with a panel; the one before goes.

        Raises:
            UsageError: the bot could not keep it current there.
            StorageError: the database does not take it.
        """
        if (channel := own_channel(interaction)) is None:
            raise UsageError(
                "The bot cannot keep a panel current here: take a channel that it can see, or your messages to it."
            )
        await interaction.response.defer(thinking=True)
        glance = await self._card.look()
        async with asyncio.timeout(CALL_TIMEOUT_S):
            message = await interaction.edit_original_response(
                embed=self._card.embed(glance), view=panel_view(drained=drained), allowed_mentions=_NOBODY
            )
        before, self._place = self._place, PanelPlace(channel.id, message.id)
        self._showed(glance)
        self._start()
        await in_time(self._panels.put(self._place), _PATIENCE_S)
        if before is not None:
            with suppress(*TROUBLE):  # it is old news, wherever it stands
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await self._message(before).delete()

    def _start(self) -> None:
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep(), name="panel")

    async def _keep(self) -> None:
        """Until there is no panel any more."""
        while self._place is not None:
            await self._wait(self._period(), reason="the next look for the panel")
            if (place := self._place) is None:
                return
            try:
                await self._update(place)
            except TROUBLE as error:
                await self._could_not(place, error)
            except Exception:
                log.exception("the panel could not be brought up to date")

    async def _period(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PERIOD_S):
                await self._woken.wait()
        self._woken.clear()

    async def _update(self, place: PanelPlace) -> None:
        """Show how things are, if that is news or what stands there is old."""
        if _now_s() < self._not_before_s:
            return
        glance = await self._card.look()
        old = _now_s() - self._shown_at_s >= AT_LEAST_S - PERIOD_S / 2
        if glance == self._shown and not old:
            return
        view = panel_view(drained=glance.drained)
        claim = Claim(Bucket.of_edits(place.channel_id), Worth.STATUS, _now_s())
        self._traffic.enter(claim)
        try:
            while (wait_s := self._traffic.wait_s(claim, _now_s())) > 0:
                await self._wait(asyncio.sleep(min(wait_s, 1.0)), reason="room for the panel")
        except BaseException:
            self._traffic.leave(claim)
            raise
        self._traffic.take(claim, _now_s())
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                embed = self._card.embed(glance)
                await self._message(place).edit(embed=embed, view=view, allowed_mentions=_NOBODY)
        finally:
            self._traffic.answered(_now_s())
        if place == self._place:
            self._showed(glance)

    def _showed(self, glance: Glance) -> None:
        self._shown, self._shown_at_s, self._failed = glance, _now_s(), False
        self._not_before_s = 0.0

    async def _could_not(self, place: PanelPlace, error: BaseException) -> None:
        """Forget a panel that was deleted. Any other refusal may end, such as a permission that is missing for now."""
        if isinstance(error, discord.NotFound):
            log.info("the panel is gone (%s): `/panel` makes a new one", error.code)
            if place == self._place:
                self._place = None
            with suppress(StorageError):
                await in_time(self._panels.forget(place), _PATIENCE_S)
            return
        if is_refusal(error):
            self._not_before_s = _now_s() + REFUSED_PAUSE_S
        if not self._failed:
            self._failed = True
            code = getattr(error, "code", "")
            log.warning(
                "the panel could not be brought up to date (%s %s); going on", type(error).__name__, code
            )

    def _message(self, place: PanelPlace) -> discord.PartialMessage:
        return self._client.get_partial_messageable(place.channel_id).get_partial_message(place.message_id)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
