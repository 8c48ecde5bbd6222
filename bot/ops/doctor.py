"""`python -m bot check`: is this machine ready? One line for each thing, and the fix for what is not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bot.app import read_catalog
from bot.errors import BotError
from bot.inference.device import read_device
from bot.inference.memory import gigabytes
from bot.ops.findings import Finding, Verdict
from bot.ops.fitting import check_models
from bot.ops.logs import configure_logging
from bot.settings import Settings


def check(settings: Settings) -> int:
    """Print what was found; the exit code is 1 if anything failed."""
    configure_logging("ERROR", settings.secrets)
    findings = []
    for finding in examine(settings):
        findings.append(finding)
        sys.stdout.write(f"{finding.verdict:<8} {finding.subject:<12} {finding.text}\n")
        sys.stdout.flush()
    return 1 if any(finding.verdict is Verdict.FAILED for finding in findings) else 0


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything that must be right before the bot can run."""
    yield _token(settings)
    yield from _folders(settings)
    try:
        catalog = read_catalog(settings)
    except BotError as error:
        yield Finding(Verdict.FAILED, "catalogue", str(error))
        return
    yield Finding(Verdict.OK, "catalogue", f"{len(catalog)} models; {catalog.default} answers by default")
    yield _guarded("device", _device)
    yield from check_models(settings, catalog)


def _token(settings: Settings) -> Finding:
    try:
        settings.required_token()
    except BotError as error:
        return Finding(Verdict.WARNING, "token", f"{error} (`make demo` needs none.)")
    return Finding(Verdict.OK, "token", "DISCORD_TOKEN is set")


def _folders(settings: Settings) -> Iterator[Finding]:
    for name, folder in (("CACHE_DIR", settings.cache_dir), ("DATA_DIR", settings.data_dir)):
        yield _guarded(name, lambda folder=folder: _writable(folder))  # type: ignore[misc]  # a default binds it


def _writable(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder} cannot be made ({error.strerror}): check the path, or choose another folder"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} is not writable: change its owner, or choose another folder")
    return f"{folder}, {shutil.disk_usage(folder).free / 1e9:.0f} GB free"


def _device() -> str:
    import bitsandbytes
    import torch

    versions = f"torch {torch.__version__}, bitsandbytes {bitsandbytes.__version__}"
    device = read_device()
    if not device.is_gpu:
        return f"no GPU: models run on the CPU, which suits smol only ({versions})"
    if device.sensors.driver:
        versions += f", driver {device.sensors.driver}"
    free, total = gigabytes(device.free_bytes), gigabytes(device.total_bytes)
    return f"{device.name}, {free} of {total} free ({versions})"


def _guarded(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(Verdict.OK, subject, look())
    except (OSError, ImportError, RuntimeError) as error:
        return Finding(Verdict.FAILED, subject, f"{error}")
