"""What `/doctor` shows: the checks, made by a bot that runs, page by page and to the operator who asked alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import discord

from bot.errors import InspectionTimeout
from bot.inference.memory import MemoryReport
from bot.inference.threads import SharedLooks
from bot.operators import Operators
from bot.ops.checks import run_checks
from bot.ops.clock import Clock
from bot.ops.discord_checks import DiscordChecks
from bot.ops.examination import Examination
from bot.ops.findings import Finding, Verdict, worst
from bot.ops.fitting import Room
from bot.ops.quotes import without_secrets
from bot.replies.limits import packed, safe, shortened
from bot.replies.model_list import PagesView
from bot.replies.pages import MESSAGE_LIMIT
from bot.replies.wait import Wait, just_wait

PATIENCE_S = 180.0  # the models are looked at one after the other, and the Hub may be slow
_CALL_TIMEOUT_S = 10.0
_LINE_LIMIT = 900  # UTF-16 units; escaped, it is at most twice as long
_MARKS = {Verdict.OK: "✅", Verdict.WARNING: "⚠️", Verdict.FAILED: "❌"}
_SUMMARIES = {
    Verdict.OK: "Everything is well.",
    Verdict.WARNING: "It works; look at what has a ⚠️.",
    Verdict.FAILED: "Something has failed: look at what has a ❌.",
}
_NOBODY = discord.AllowedMentions.none()


class Consultation:
    """Answers operators who ask how the bot is.

    Args:
        examination: the checks of the machine.
        operators: who may turn the pages.
        secrets: what must not be shown, wherever it comes from.
        wait: how to await what does not come from Discord, see `Wait`.
    """

    def __init__(
        self,
        examination: Examination,
        operators: Operators,
        secrets: Sequence[str] = (),
        wait: Wait = just_wait,
    ) -> None:
        self._operators = operators
        self._examination = examination
        self._secrets = tuple(secrets)
        self._wait = wait
        self._looks = SharedLooks()

    async def show(self, interaction: discord.Interaction[Any]) -> None:
        """Acknowledge, look at everything, and show what was found.

        Discord is asked here; the machine on a thread with an event loop of its own, so that nothing there can hold
        the bot up. Operators who ask at the same time share that look.

        Raises:
            InspectionTimeout: it took too long.
        """
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            await interaction.response.defer(ephemeral=True, thinking=True)
        clock = Clock()
        ahead = discord.utils.utcnow() - interaction.created_at  # its id carries Discord's time
        clock.note_ahead("Discord", ahead.total_seconds())
        findings = await self._at_discord(interaction)
        look = self._looks("machine", lambda: asyncio.run(self._of_machine(clock)), timeout_s=PATIENCE_S)
        try:
            findings += await self._wait(look, reason="a look at the machine")
        except TimeoutError:
            raise InspectionTimeout(
                f"The checks took longer than {PATIENCE_S:.0f} s. Run `python -m bot check` on the machine: it shows "
                "each as soon as it is made."
            ) from None
        pages = pages_of(findings, self._secrets)
        # Pages name folders: whoever is no operator any more reads no further.
        view = PagesView(interaction, pages, self._operators.require) if len(pages) > 1 else None
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            await interaction.edit_original_response(content=pages[0], view=view, allowed_mentions=_NOBODY)

    async def _at_discord(self, interaction: discord.Interaction[Any]) -> list[Finding]:
        client = interaction.client
        checks = DiscordChecks(client, client.application_info)
        try:
            of_server = None if interaction.guild is None else interaction.guild_id
            return [finding async for finding in run_checks(checks.checks(of_server))]
        finally:
            await checks.application.aclose()

    async def _of_machine(self, clock: Clock) -> list[Finding]:
        return [finding async for finding in self._examination.machine(clock)]


def room_of(memory: Callable[[], MemoryReport]) -> Callable[[], Room | None]:
    """What models may take in a bot that runs: models in memory are no reason why another does not fit, since they go
    when it is asked for."""

    def room() -> Room | None:
        budget_bytes = memory().budget_bytes
        return Room("the bot", budget_bytes, budget_bytes) if budget_bytes else None

    return room


def pages_of(findings: Sequence[Finding], secrets: Sequence[str] = ()) -> list[str]:
    """The findings as lines, on as few pages as they fit; a summary above the first."""
    lines = [_SUMMARIES[worst(findings)], *(_line(finding, secrets) for finding in findings)]
    lines = [safe(line, MESSAGE_LIMIT) for line in lines]  # each may get longer: before they are put on pages
    return [safe("\n".join(page), MESSAGE_LIMIT) for page in packed(lines, most=len(lines))]


def _line(finding: Finding, secrets: Sequence[str]) -> str:
    text = shortened(without_secrets(finding.text, secrets), _LINE_LIMIT)
    # Every second part stands between backticks, where nothing needs escaping.
    parts = text.split("`")
    shown = "`".join(part if at % 2 else _escaped(part) for at, part in enumerate(parts))
    return f"{_MARKS[finding.verdict]} **{_escaped(finding.subject)}** {shown}"


def _escaped(text: str) -> str:
    return discord.utils.escape_markdown(text, ignore_links=True)
