"""How often the GPU has failed lately, kept over restarts: a bot that is not helped by one says so, and stops.

Whoever starts the bot anew, systemd or Docker, cannot tell a GPU that failed once from one that is broken. Every try
would load models, log in at Discord, and fail in the middle of people's answers.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from pathlib import Path

from bot.errors import DeviceKeepsFailing
from bot.ops.checks import Check
from bot.ops.findings import Verdict

log = logging.getLogger(__name__)

LIMIT = 5  # failures
WITHIN_S = 3600.0
_FILE = "gpu-failures.txt"
_FIX = (
    "see `python -m bot check`, `nvidia-smi`, and the kernel's log for NVIDIA's errors "
    "(`journalctl -k | grep -i xid`); reset the GPU, or start the machine anew"
)


def record(folder: Path, now_s: float | None = None) -> None:
    """Keep that the GPU has failed now; where the disk does not take it, the service manager's own limit is left."""
    try:
        times_s = [*_recent(folder, now_s), time.time() if now_s is None else now_s]
        (folder / _FILE).write_text("".join(f"{int(one)}\n" for one in times_s[-LIMIT:]), encoding="ascii")
    except OSError as error:
        log.warning("the failure of the GPU cannot be kept in %s (%s)", folder, error.strerror)


def refuse_after_too_many(folder: Path, now_s: float | None = None) -> None:
    """To be asked before anything starts.

    Raises:
        DeviceKeepsFailing: the GPU has failed too often within the last hour.
    """
    times_s = _recent(folder, now_s)
    if len(times_s) >= LIMIT:
        raise DeviceKeepsFailing(
            f"{_told(times_s)}: starting the bot again does not help. Please {_FIX}; then delete {folder / _FILE} and "
            "start the bot. After an hour without failures it starts without that, too."
        )


def failure_checks(folder: Path) -> list[Check]:
    """What `check` says of it; nothing to look at if the GPU has not failed lately."""
    if not (times_s := _recent(folder, None)):
        return []

    async def told() -> tuple[Verdict, str]:
        verdict = Verdict.FAILED if len(times_s) >= LIMIT else Verdict.WARNING
        return verdict, f"{_told(times_s)}; after {LIMIT} within an hour the bot does not start: {_FIX}"

    return [Check("gpu.failures", "device", told)]


def _told(times_s: list[float]) -> str:
    last = datetime.fromtimestamp(times_s[-1], UTC)
    often = "once" if len(times_s) == 1 else f"{len(times_s)} times"
    return f"The GPU has failed {often} within the last hour, the last time at {last:%Y-%m-%d %H:%M} UTC"


def _recent(folder: Path, now_s: float | None) -> list[float]:
    now_s = time.time() if now_s is None else now_s
    try:
        lines = (folder / _FILE).read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []
    times_s = sorted(float(one) for one in lines if one.isdigit())
    return [one for one in times_s if 0 <= now_s - one < WITHIN_S]
