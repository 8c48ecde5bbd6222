"""`python -m bot backup` and `restore`: what the bot remembers, copied away and brought back."""

from __future__ import annotations

import sys
from pathlib import Path

from bot.settings import Settings
from bot.storage.backup import back_up, restore


def backup_command(settings: Settings, target: Path) -> int:
    """Copy the database into a new file; the bot may be running.

    Raises:
        StorageError: it could not be done; nothing is left of it.
    """
    condition = back_up(settings.database_path, target)
    size = f"{condition.size_bytes / 1e6:.1f} MB, schema {condition.schema}"
    sys.stdout.write(f"{settings.database_path} is backed up in {target} ({size})\n")
    return 0


def restore_command(settings: Settings, source: Path) -> int:
    """Put a backup in the database's place; the bot must not be running.

    Raises:
        StorageError: it could not be done; the database is as it was.
    """
    restored = restore(source, settings.database_path)
    schema = f"schema {restored.condition.schema}"
    if not restored.condition.is_newest:
        schema += ", brought up to date when the bot starts"
    sys.stdout.write(f"{settings.database_path} is restored from {source} ({schema})\n")
    if restored.kept is not None:
        sys.stdout.write(f"what was there is kept in {restored.kept}\n")
    return 0
