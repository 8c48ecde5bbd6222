"""What this machine has: folders, disks, the settings file, the database, and the GPU."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from bot.inference.accelerator import Accelerator, read_accelerator
from bot.inference.memory import gigabytes
from bot.inference.threads import SharedLooks
from bot.ops.accelerator_checks import gpu_verdict, quantization_verdict
from bot.ops.checks import PATIENCE_S, Check, Once
from bot.ops.findings import Verdict
from bot.settings import Settings
from bot.storage.condition import condition_of, try_to_write
from bot.storage.rights import make_folder, open_to_others
from bot.storage.sentences import explained

TORCH_PATIENCE_S = 60.0  # importing it from a cold disk takes its time

_LEAST_CACHE_BYTES = 1e9  # the embedded model and what it is made from
_LEAST_DATA_BYTES = 1e8  # a full database gives no answers, but keeps none either


def folder_checks(settings: Settings, looks: SharedLooks) -> list[Check]:
    """The settings file, and the folders that are written to. A disk that hangs holds a thread of `looks` each."""

    def in_thread(name: str, subject: str, look: Callable[[], tuple[Verdict, str]]) -> Check:
        late = "the disk hangs: see whether it can be listed"
        return Check(name, subject, lambda: looks(name, look, timeout_s=PATIENCE_S), if_late=late)

    return [
        in_thread("settings.file", "settings", lambda: _settings_file(settings.file)),
        in_thread("settings.names", "settings", lambda: _names(settings)),
        in_thread(
            "disk.cache", "CACHE_DIR", lambda: _writable(settings.cache_dir, "CACHE_DIR", _LEAST_CACHE_BYTES)
        ),
        in_thread(
            "disk.data",
            "DATA_DIR",
            lambda: _writable(settings.data_dir, "DATA_DIR", _LEAST_DATA_BYTES, make=make_folder),
        ),
        in_thread("disk.hub", "HF_HOME", _hub_cache),
        in_thread("database", "database", lambda: _database(settings.database_path)),
    ]


class AcceleratorChecks:
    """The checks of the device and of what computes on it."""

    def __init__(self, looks: SharedLooks) -> None:
        async def read() -> Accelerator:
            return await looks("accelerator", read_accelerator, timeout_s=TORCH_PATIENCE_S)

        self.reading = Once(read)

    def checks(self) -> list[Check]:
        """The checks."""

        async def gpu() -> tuple[Verdict, str]:
            return gpu_verdict(await self.reading())

        async def quantization() -> tuple[Verdict, str]:
            return quantization_verdict(await self.reading())

        late = "the driver or the disk hangs: see whether `nvidia-smi` answers"
        return [
            Check("gpu", "device", gpu, patience_s=TORCH_PATIENCE_S, if_late=late),
            Check("quantization", "bitsandbytes", quantization, patience_s=TORCH_PATIENCE_S, if_late=late),
        ]


def _settings_file(path: Path | None) -> tuple[Verdict, str]:
    if path is None:
        return Verdict.OK, "no settings file, only the environment"
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & (stat.S_IRWXO | stat.S_IWGRP):
        text = f"{path} holds the token, and others can read it or change it ({mode:04o}): chmod 600 {path}"
        return Verdict.WARNING, text
    return Verdict.OK, f"{path}, not for others ({mode:04o})"


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _writable(
    folder: Path, setting: str, least_bytes: float, *, make: Callable[[Path], None] = _make
) -> tuple[Verdict, str]:
    """Whether a folder can be written, made first if there is none, and how much room it has."""
    try:
        make(folder)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "no rights")
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        return (
            Verdict.FAILED,
            f"{folder} cannot be written ({why}): change its owner, or set {setting} to another",
        )
    text = f"{folder}, {gigabytes(free_bytes)} free"
    if free_bytes < least_bytes:
        return Verdict.WARNING, f"{text}, which is little: free space, or set {setting} to a folder elsewhere"
    return Verdict.OK, text


def _names(settings: Settings) -> tuple[Verdict, str]:
    if settings.warnings:
        return Verdict.WARNING, " ".join(settings.warnings)
    return Verdict.OK, "nothing is misspelt"


def _hub_cache() -> tuple[Verdict, str]:
    from huggingface_hub import constants

    return _writable(Path(constants.HF_HUB_CACHE), "HF_HOME", _LEAST_CACHE_BYTES)


def _database(path: Path) -> tuple[Verdict, str]:
    """Whole, of a schema that is known, and writable: beside a running bot too."""
    with explained(path):
        if not path.exists():
            return Verdict.OK, f"{path} is made when the bot starts"
    condition = condition_of(path)
    try_to_write(path)
    size = f"{condition.size_bytes / 1e6:.1f} MB"
    text = f"{path} is whole and writable, {size}, schema {condition.schema}"
    if not condition.is_newest:
        text += "; it is brought up to date when the bot starts"
    if others := open_to_others(path):
        files = " ".join(map(str, others))
        return Verdict.WARNING, f"{text}; others can read what people wrote: chmod 600 {files}"
    return Verdict.OK, text
