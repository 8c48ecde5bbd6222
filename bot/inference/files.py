"""What can be told of a model's files without reading them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

NOT_READABLE = "the bot may not read its files. The operator can let the user that the bot runs as read them"


def plain(name: object) -> str:
    """A name out of a model's files as a sentence can have it: they may hold anything, markup and line breaks too."""
    return re.sub(r"[^\w .+-]", "?", str(name)[:60], flags=re.ASCII)


def instead_of_weights(folder: Path) -> str | None:
    """What a folder without the weights of a whole model holds, and what to do; None if that is not known."""
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter (LoRA) and not a whole model: merge it with its base model, and use the merged one"
    if any(folder.glob("*.gguf")):
        return "it is in the GGUF format: use the same model with *.safetensors files"
    return None


def state(folder: Path, suffixes: Collection[str]) -> tuple[str, ...]:
    """A line for each file with one of these endings: its name, size and time, of what a link leads to.

    Raises:
        OSError: the folder cannot be read.
    """
    lines = []
    for file in sorted(folder.iterdir()):
        if file.suffix in suffixes and file.is_file():
            told = file.stat()
            lines.append(f"{file.name} {told.st_size} {told.st_mtime_ns}")
    return tuple(lines)
