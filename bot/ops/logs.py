"""Logging for a service: to stderr, ids and numbers only, secrets struck out wherever they come from.

A line carries the id of the request that it belongs to (`bot.trace`), as text or as JSON. Nothing that people wrote is
logged on purpose. An error of a library may quote it all the same, so what the request's person wrote is struck out of
tracebacks and of other libraries' lines too; `LOG_CONTENT` switches that off, for debugging.

A library may quote a file's or a stranger's words: what would act on a terminal, hide or reverse text is escaped.

Libraries give their loggers handlers of their own, at any time, which would write past all that. So from
`configure_logging` on every record of every logger goes to the root's handler and to no other.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TextIO

from bot import trace
from bot.ops.quotes import without_quotes, without_secrets
from bot.replies.characters import with_escapes

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

log = logging.getLogger(__name__)

LogFormat = Literal["text", "json"]

_FORMAT = "%(asctime)s %(levelname)-7s %(request)s%(name)s: %(message)s"
_OURS = ("bot", "cogs")

# Libraries that say too much at INFO for an operator who wants to read the bot's own lines.
_QUIET = ("discord", "httpx2", "httpcore2", "accelerate")

# Libraries whose lines below ERROR are meant for those who program with them, at any level of ours.
_MUTE = ("transformers", "huggingface_hub", "bitsandbytes", "ContinuousBatchingLogger")

# The longest message or traceback that is written, in characters. Looking for quotations takes Python some 0.2 µs a
# character, on the event loop, and a library may put anything into an error.
_FIRST, _LAST = 4_000, 12_000

# Lines below these levels hold what people wrote: payloads of requests, rows of the database.
_TELLING = {
    "discord.http": logging.INFO,
    "discord.gateway": logging.INFO,
    "discord.client": logging.INFO,
    "discord.webhook": logging.INFO,
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


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to a stream. What cannot be written is never shown: Python would print the record's arguments."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name is Python's
        """Say that a line is missing, if that can be said."""
        with suppress(Exception):
            why = type(sys.exception()).__name__
            sys.stderr.write(f"a line of {record.name} could not be written to the log ({why})\n")


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
        return with_escapes("\n".join([super().format(whole), *told.values()]))

    def parts(self, record: logging.LogRecord) -> tuple[str, dict[str, str]]:
        """The message, and the traceback and the stack where there are any, with nothing in them that may not be."""
        try:
            message = record.getMessage()
        except Exception as error:  # a mistake in whoever logs; the line is worth having
            message = f"{record.msg} (what was to be put into it is left out: {type(error).__name__})"
        if record.name.partition(".")[0] not in _OURS:
            message = self._clean(message, record)
        else:
            message = without_secrets(message, self._secrets)
        told = {}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            told["stack"] = self.formatStack(record.stack_info)
        return message, {name: self._clean(text, record) for name, text in told.items()}

    def _clean(self, text: str, record: logging.LogRecord) -> str:
        """Without secrets, without what the person wrote who is being answered, and not too long for that."""
        text = without_secrets(text, self._secrets)
        if (left_out := len(text) - _FIRST - _LAST) > 0:
            text = f"{text[:_FIRST]} [… {left_out} characters are left out …] {text[-_LAST:]}"
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
        return with_escapes(json.dumps({**line, "message": message, **told}, ensure_ascii=False))


def configure_logging(
    level: str,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    *,
    form: LogFormat = "text",
    content: bool = False,
) -> None:
    """Send everything that anybody logs to `stream` (stderr by default) and nowhere else, redacted, from `level` on.

    Args:
        level: the least that is written.
        secrets: what is struck out.
        stream: where to.
        form: lines of text, or a JSON object on each.
        content: whether what people wrote may be in it; a warning says so.
    """
    handler = _Handler(stream or sys.stderr)
    handler.addFilter(Traced())
    made = JsonRedactor if form == "json" else Redactor
    handler.setFormatter(made(secrets=secrets, content=content))
    logging.getLogger().handlers[:] = [handler]
    logging.Logger.callHandlers = _call_the_roots_handlers  # type: ignore[method-assign]
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
    for handler in root.handlers:
        if isinstance(handler, _Handler):  # libraries set their loggers' levels when they are imported, too
            handler.setLevel(level)
    quiet = dict.fromkeys(_QUIET, logging.WARNING) if level != "DEBUG" else {} if content else _TELLING
    quiet = quiet | dict.fromkeys(_MUTE, logging.ERROR)
    for name in (*_QUIET, *_TELLING, *_MUTE):
        least = quiet.get(name)
        logging.getLogger(name).setLevel(logging.NOTSET if least is None else max(least, root.level))


def _call_the_roots_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
    """In place of `Logger.callHandlers`, which calls a library's own handlers too, and not the root's if the library
    says so (`propagate`). Python has no setting for this that also holds for handlers which come later."""
    for handler in logging.getLogger().handlers:
        if record.levelno >= handler.level:
            handler.handle(record)


def log_what_nobody_catches() -> None:
    """Have warnings, and exceptions that would be printed, go to the log. For the whole process, and for good."""
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_a_thread
    sys.unraisablehook = _unraisable


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not isinstance(error, KeyboardInterrupt):
        log.critical("an error that nobody caught", exc_info=(kind, error, traceback))


def _uncaught_in_a_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread is not None else "unknown"
        log.critical(
            "an error that nobody caught, in the thread %s",
            name,
            exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        )


def _unraisable(args: UnraisableHookArgs) -> None:
    # Not what it happened in: its text may hold anything, and taking it may fail.
    if args.exc_value is not None:
        log.error(
            "an error that could not be raised", exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
        )
