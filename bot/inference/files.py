"""What can be told of a model's files without reading them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


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
