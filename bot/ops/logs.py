"""Logging for a service: to stderr, ids and numbers only, secrets struck out wherever they come from."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TextIO

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

# Libraries that say too much at INFO for an operator who wants to read the bot's own lines.
_QUIET = ("discord", "httpx2", "httpcore2", "transformers", "accelerate")

# Their DEBUG lines hold what people wrote: payloads of requests, rows of the database.
_TELLING = (
    "discord.http",
    "discord.gateway",
    "discord.client",
    "discord.webhook",
    "aiosqlite",
    "sqlalchemy.engine",
)


class Redactor(logging.Formatter):
    """Formats a record and strikes out every secret, in tracebacks and in other libraries' lines too."""

    def __init__(self, fmt: str, secrets: Iterable[str]) -> None:
        super().__init__(fmt)
        # The longest first: one may be a part of another, whose rest would stay.
        self._secrets = tuple(sorted(filter(None, secrets), key=len, reverse=True))

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line (and its traceback), with `***` for each secret."""
        text = super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def configure_logging(level: str, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Send everything to `stream` (stderr by default), redacted, from `level` on."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Redactor(_FORMAT, secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    least, names = (logging.INFO, _TELLING) if level == "DEBUG" else (logging.WARNING, _QUIET)
    for name in names:
        logging.getLogger(name).setLevel(max(least, root.level))
