"""`python -m bot check`: is this machine ready? One line for each thing, and the fix for what is not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bot.app import model_loader, read_catalog
from bot.errors import BotError
from bot.inference.catalog import ModelCatalog
from bot.ops.logs import configure_logging
from bot.settings import Settings


class Verdict(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `text` holds the fix where one is needed."""

    verdict: Verdict
    subject: str
    text: str


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
    yield from _models(settings, catalog)


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
    if not torch.cuda.is_available():
        return f"no GPU: models run on the CPU, which suits smol only ({versions})"
    free, total = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    return f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free ({versions})"


def _models(settings: Settings, catalog: ModelCatalog) -> Iterator[Finding]:
    loader = model_loader(settings)
    for spec in catalog.values():
        try:
            folder = loader.present(spec)
        except BotError as error:
            yield Finding(Verdict.FAILED, spec.alias, str(error))
            continue
        if folder is not None:
            yield Finding(Verdict.OK, spec.alias, "its files are here")
        else:
            how = (
                f"not fetched yet: `python -m bot pull {spec.alias}`, or the first question will wait for it"
            )
            yield Finding(Verdict.WARNING if spec.alias == catalog.default else Verdict.OK, spec.alias, how)


def _guarded(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(Verdict.OK, subject, look())
    except (OSError, ImportError, RuntimeError) as error:
        return Finding(Verdict.FAILED, subject, f"{error}")
