"""What the operators' panel says: everything that tells at a glance whether the bot is well."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import discord

from bot.access.gate import Gate
from bot.answers import Answers
from bot.inference.device import DeviceReading
from bot.inference.memory import MemoryReport, gigabytes
from bot.inference.queue import InferenceQueue
from bot.ops.readings import DeviceLook
from bot.ops.tally import Tally
from bot.replies.limits import fitted
from bot.replies.status import spoken_eta
from bot.replies.wait import Wait, just_wait

_WELL, _DRAINED, _GONE = 0x5FBF8F, 0xE0B040, 0x808080
_RESIDENTS_SHOWN = 5
_ERRORS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Glance:
    """How things are; two that are equal say the same."""

    drained: bool
    state: str
    colour: int
    queue: str
    speed: str
    memory: str
    errors: str


class PanelCard:
    """Looks at the bot for the panel.

    Args:
        queue: what waits and runs.
        answers: the same, as people see it.
        gate: whether people are let in.
        memory: the engine's report.
        tally: what happened lately.
        now: the time, with its zone.
        wait: how to await what does not come from Discord, see `Wait`.
        device: looks at the device.
    """

    def __init__(
        self,
        queue: InferenceQueue,
        answers: Answers,
        gate: Gate,
        memory: Callable[[], MemoryReport],
        tally: Tally,
        *,
        now: Callable[[], datetime],
        wait: Wait = just_wait,
        device: DeviceLook | None = None,
    ) -> None:
        self._queue = queue
        self._answers = answers
        self._gate = gate
        self._memory = memory
        self._tally = tally
        self._now = now
        self._wait = wait
        self._device = device or DeviceLook()
        self._began = now()

    async def look(self) -> Glance:
        """How things are now. Takes no longer than the device may, and says so when that does not answer."""
        device = await self._wait(self._device.now(), reason="a look at the device")
        return self._glance(device, gone=False)

    def farewell(self) -> Glance:
        """What is left standing when the bot goes."""
        return self._glance(None, gone=True)

    def embed(self, glance: Glance) -> discord.Embed:
        """The card, with the time, so that one that nobody keeps any more is seen to be old."""
        now = self._now()
        embed = discord.Embed(title="Punchline", color=glance.colour)
        said = f"{glance.state} · as of {discord.utils.format_dt(now, 'R')}"
        embed.description = f"{said}\nStarted {discord.utils.format_dt(self._began, 'R')}."
        embed.add_field(name="Queue", value=glance.queue, inline=False)
        embed.add_field(name="Speed", value=glance.speed, inline=False)
        embed.add_field(name="Memory", value=glance.memory, inline=False)
        embed.add_field(name="Errors", value=glance.errors, inline=False)
        return fitted(embed)

    def _glance(self, device: DeviceReading | None, *, gone: bool) -> Glance:
        state, colour = "🟢 Answering", _WELL
        if self._gate.drained:
            state, colour = "⏸ Drained: nobody new is let in", _DRAINED
        if gone or self._queue.closing:
            state, colour = "⏹ Stopped", _GONE
        return Glance(
            self._gate.drained,
            state,
            colour,
            self._lines(),
            self._speed(),
            self._memory_lines(device),
            self._errors(),
        )

    def _lines(self) -> str:
        queue = self._queue
        parts = [f"{queue.running} running, {queue.waiting} waiting"]
        generations = [one.generation for one in self._answers.under_way]
        asked_s = [one.asked_s for one in generations if one.begun_s is None and one.finished is None]
        if asked_s:
            parts.append(f"longest wait {spoken_eta(time.monotonic() - min(asked_s))}")
        if held := len(queue.held):
            parts.append(f"{held} over but not let go of")
        return " · ".join(parts)

    def _speed(self) -> str:
        tally = self._tally
        return f"{tally.tokens_per_second:.0f} tokens/s in the last minute · {tally.answers} answers in the last hour"

    def _memory_lines(self, device: DeviceReading | None) -> str:
        report = self._memory()
        lines = []
        if device is not None:
            used_bytes = device.total_bytes - device.free_bytes
            where = "on the GPU" if device.is_gpu else "of RAM"
            lines.append(f"{gigabytes(used_bytes)} of {gigabytes(device.total_bytes)} {where}")
        for one in report.residents[:_RESIDENTS_SHOWN]:
            use = "in use" if one.idle_s is None else "idle"
            lines.append(f"**{one.alias}** {gigabytes(one.footprint.total_bytes)} · {use}")
        if (more := len(report.residents) - _RESIDENTS_SHOWN) > 0:
            lines.append(f"and {more} more models")
        return "\n".join(lines) or "No model is in memory."

    def _errors(self) -> str:
        errors, refusals = self._tally.errors, self._tally.refusals
        shown = [f"{count} {name}" for name, count in errors.most_common(_ERRORS_SHOWN)]
        said = f"{', '.join(shown)} in the last hour" if shown else "None in the last hour"
        return f"{said} · {refusals} refused by a limit or a rule" if refusals else said
