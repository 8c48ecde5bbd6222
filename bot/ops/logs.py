"""Logging for a service: to stderr, ids and numbers only, secrets struck out wherever they come from.

A line carries the id of the request that it belongs to (`bot.trace`), as text or as JSON. Nothing that people wrote is
logged on purpose. An error of a library may quote it all the same, so what the request's person wrote is struck out of
tracebacks and of other libraries' lines too; `LOG_CONTENT` switches that off, for debugging.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from bot import trace
from bot.ops.quotes import without_quotes, without_secrets

log = logging.getLogger(__name__)

LogFormat = Literal["text", "json"]

_FORMAT = "%(asctime)s %(levelname)-7s %(request)s%(name)s: %(message)s"
_OURS = ("bot", "cogs")

# Libraries that say too much at INFO for an operator who wants to read the bot's own lines.
_QUIET = ("discord", "httpx2", "httpcore2", "transformers", "accelerate")

# Lines below these levels hold what people wrote: payloads of requests, rows of the database.
_TELLING = {
    "discord.http": logging.INFO,
    "discord.gateway": logging.INFO,
    "discord.client": logging.INFO,
    "discord.webhook": logging.INFO,
    "aiosqlite": logging.INFO,
    "sqlalchemy.engine": logging.WARNING,
}


class Traced(logging.Filter):
    """Puts into each record what is being answered, where it was logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Every record passes."""
        now = trace.current()
        record.trace = now
        record.request = f"[{now.id} {now.command}] " if now.id else ""
        return True


class Redactor(logging.Formatter):
    """Formats a record and strikes out every secret, in tracebacks and in other libraries' lines too.

    Args:
        fmt: as for `logging.Formatter`.
        secrets: what never appears.
        content: whether what people wrote may appear.
    """

    def __init__(self, fmt: str = _FORMAT, secrets: Iterable[str] = (), *, content: bool = False) -> None:
        super().__init__(fmt)
        self._secrets = tuple(secrets)
        self._content = content

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line (and its traceback), with `***` for each secret."""
        message, told = self.parts(record)
        whole = logging.makeLogRecord({**record.__dict__, "msg": message, "args": None})
        whole.exc_info = whole.exc_text = whole.stack_info = None
        return "\n".join([super().format(whole), *told.values()])

    def parts(self, record: logging.LogRecord) -> tuple[str, dict[str, str]]:
        """The message, and the traceback and the stack where there are any, with nothing in them that may not be."""
        message = record.getMessage()
        if record.name.partition(".")[0] not in _OURS:
            message = self._without_words(message, record)
        told = {}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            told["stack"] = self.formatStack(record.stack_info)
        return without_secrets(message, self._secrets), {
            name: without_secrets(self._without_words(text, record), self._secrets)
            for name, text in told.items()
        }

    def _without_words(self, text: str, record: logging.LogRecord) -> str:
        """Without what the person wrote who is being answered."""
        words = getattr(record, "trace", trace.NOTHING).words
        return text if self._content or not words else without_quotes(text, words)


class JsonRedactor(Redactor):
    """A record as one JSON object on one line, with the same struck out before it is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        message, told = self.parts(record)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname, "logger": record.name}
        now = getattr(record, "trace", trace.NOTHING)
        if now.id:
            line |= {"request": now.id, "command": now.command}
        return json.dumps({**line, "message": message, **told}, ensure_ascii=False)


def configure_logging(
    level: str,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    *,
    form: LogFormat = "text",
    content: bool = False,
) -> None:
    """Send everything to `stream` (stderr by default), redacted, from `level` on.

    Args:
        level: the least that is written.
        secrets: what is struck out.
        stream: where to.
        form: lines of text, or a JSON object on each.
        content: whether what people wrote may be in it; a warning says so.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(Traced())
    made = JsonRedactor if form == "json" else Redactor
    handler.setFormatter(made(secrets=secrets, content=content))
    logging.getLogger().handlers[:] = [handler]
    set_level(level, content=content)
    if content:
        log.warning(
            "LOG_CONTENT IS ON: what people write to the bot, and what it answers, goes into this log. Tell them, keep "
            "the log from others, and switch it off when you are done."
        )


def set_level(level: str, *, content: bool = False) -> None:
    """Write everything from `level` on, and from libraries what may be written at that level.

    Args:
        level: the least that is written.
        content: whether what people wrote may be in it.
    """
    root = logging.getLogger()
    root.setLevel(level)
    quiet = dict.fromkeys(_QUIET, logging.WARNING) if level != "DEBUG" else {} if content else _TELLING
    for name in (*_QUIET, *_TELLING):
        least = quiet.get(name)
        logging.getLogger(name).setLevel(logging.NOTSET if least is None else max(least, root.level))
