"""What `/gpu` shows: the device now, and which models are in its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import discord

from bot.errors import InspectionTimeout
from bot.inference.device import DeviceReading, read_device
from bot.inference.memory import MemoryReport, Resident, gigabytes
from bot.inference.threads import SharedLooks
from bot.replies.limits import fitted
from bot.replies.surface import acknowledge, show_card
from bot.replies.wait import Wait, just_wait

PATIENCE_S = 20.0
_COLOUR = 0x5FBF8F
_RESIDENTS_SHOWN = 10
_BAR_CELLS = 20


class DeviceCard:
    """Answers commands that ask how the device is.

    Args:
        memory: the report of the engine.
        wait: how to await what does not come from Discord, see `Wait`.
        read: looks at the device.
    """

    def __init__(
        self,
        memory: Callable[[], MemoryReport],
        wait: Wait = just_wait,
        read: Callable[[], DeviceReading] = read_device,
    ) -> None:
        self._memory = memory
        self._wait = wait
        self._read = read
        self._looks = SharedLooks()

    async def show(self, interaction: discord.Interaction[Any]) -> None:
        """Acknowledge, look at the device on a thread, and show what was found. All who ask meanwhile share that look;
        a driver that hangs is not asked again.

        Raises:
            InspectionTimeout: the device did not answer.
        """
        await acknowledge(interaction)
        try:
            look = self._looks("device", self._read, timeout_s=PATIENCE_S)
            reading = await self._wait(look, reason="a look at the device")
        except TimeoutError:
            raise InspectionTimeout(
                "The GPU's driver does not answer. Please try again later; if it stays, tell the bot's operator."
            ) from None
        await show_card(interaction, card(reading, self._memory()))


def card(reading: DeviceReading, report: MemoryReport) -> discord.Embed:
    """The device and the residents, in words and one bar."""
    embed = discord.Embed(title=reading.name, color=_COLOUR)
    used_bytes = reading.total_bytes - reading.free_bytes
    what = "GPU memory" if reading.is_gpu else "RAM (no GPU: models run on the CPU)"
    embed.add_field(
        name=what,
        value=f"{_bar(used_bytes / max(1, reading.total_bytes))}\n{gigabytes(used_bytes)} of "
        f"{gigabytes(reading.total_bytes)} in use, {gigabytes(reading.process_bytes)} of it by the bot",
        inline=False,
    )
    sensors = reading.sensors
    if sensors.temperature_c is not None:
        embed.add_field(name="Temperature", value=f"{sensors.temperature_c} °C")
    if sensors.utilization_percent is not None:
        embed.add_field(name="Utilization", value=f"{sensors.utilization_percent} %")
    if sensors.driver is not None:
        embed.add_field(name="Driver", value=sensors.driver)
    embed.add_field(name="Models in memory", value=_residents(report), inline=False)
    return fitted(embed)


def _bar(part: float) -> str:
    filled = round(_BAR_CELLS * min(1.0, max(0.0, part)))
    return "▰" * filled + "▱" * (_BAR_CELLS - filled)


def _residents(report: MemoryReport) -> str:
    lines = [_resident(one) for one in report.residents[:_RESIDENTS_SHOWN]]
    if len(report.residents) > _RESIDENTS_SHOWN:
        lines.append(f"and {len(report.residents) - _RESIDENTS_SHOWN} more")
    if not lines:
        lines.append("none: the first question loads one")
    if report.budget_bytes:
        lines.append(
            f"-# {gigabytes(report.reserved_bytes)} reserved of {gigabytes(report.budget_bytes)} that models may take"
        )
    return "\n".join(lines)


def _resident(one: Resident) -> str:
    parts = [f"**{one.alias}**", gigabytes(one.footprint.total_bytes)]
    parts.append("in use" if one.idle_s is None else f"idle for {_spoken(one.idle_s)}")
    if one.pinned:
        parts.append("pinned")
    return " · ".join(parts)


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
