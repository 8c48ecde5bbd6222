"""Registers the commands with Discord when they have changed, and remembers what Discord refused and why."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import discord
from discord import app_commands

log = logging.getLogger(__name__)

TIMEOUT_S = (
    60.0  # discord.py waits out rate limits, which are of a whole day here; the bot starts all the same
)
_REASON_LENGTH = 600
_FINGERPRINT, _REFUSED = "commands.sha256", "commands.refused"


class Registration:
    """Registers commands.

    Args:
        data_dir: where a fingerprint of what is registered is kept, and what was refused.
        force: register whatever the fingerprint says.
    """

    def __init__(self, data_dir: Path, *, force: bool = False) -> None:
        self._data_dir = data_dir
        self._force = force

    async def register_if_changed(
        self, tree: app_commands.CommandTree[Any], translator: app_commands.Translator, application_id: int
    ) -> None:
        """Register the commands if they, or their names in a language, differ from the last time: Discord rations it.

        What Discord refuses is logged with its reason and kept for `refused`. If it is one of the commands, the others
        are registered one by one.
        """
        payloads = [await command.get_translated_payload(tree, translator) for command in tree.get_commands()]
        told = json.dumps([application_id, payloads], sort_keys=True, default=str)
        fingerprint = hashlib.sha256(told.encode()).hexdigest()
        if not self._force and _read(self._data_dir / _FINGERPRINT) == fingerprint:
            log.info("commands are registered already")
            self._remove(_REFUSED)
            return
        try:
            async with asyncio.timeout(TIMEOUT_S):
                registered = len(await tree.sync())
        except (discord.HTTPException, TimeoutError) as error:
            reason = _reason(error)
            log.error("commands could not be registered: %s; they are tried again at the next start", reason)
            if isinstance(error, discord.HTTPException) and error.status == 400:
                self._remove(
                    _FINGERPRINT
                )  # what Discord has from here on is no whole set that was registered
                reason = await self._register_singly(tree, payloads, application_id) or reason
            self._write(_REFUSED, reason)
            return
        log.info("registered %d commands", registered)
        self._remove(_REFUSED)
        self._write(_FINGERPRINT, fingerprint)

    async def _register_singly(
        self, tree: app_commands.CommandTree[Any], payloads: list[dict[str, Any]], application_id: int
    ) -> str:
        """Register those commands that Discord takes; which it refuses, and why."""
        refused, registered = [], 0
        try:
            async with asyncio.timeout(TIMEOUT_S):
                for payload in payloads:
                    try:
                        await tree.client.http.upsert_global_command(application_id, payload)
                        registered += 1
                    except discord.HTTPException as error:
                        refused.append(f"/{payload['name']}: {_reason(error)}")
        except TimeoutError as error:
            refused.append(_reason(error))
        for one in refused:
            log.error("not registered: %s", one)
        log.info("registered %d of %d commands", registered, len(payloads))
        return "; ".join(refused)[:_REASON_LENGTH]

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            (self._data_dir / name).unlink(missing_ok=True)

    def _write(self, name: str, text: str) -> None:
        file = self._data_dir / name
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            log.warning(
                "cannot write %s (%s): commands will be registered again at the next start",
                file,
                error.strerror,
            )


def refused(data_dir: Path) -> str:
    """What Discord refused when commands were registered last, and why, in a line; empty if nothing."""
    return _read(data_dir / _REFUSED) or ""


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"Discord did not answer within {TIMEOUT_S:.0f} s, or has counted too many registrations today"
    return " ".join(str(error).split())[:_REASON_LENGTH]


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
