"""What must hold at the end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.soak.messages import Asked, Board, Message
from tests.soak.people import MARK
from tests.soak.process import TOKEN, Readings

# Between the acknowledgement and the note of it in the database: longer, the database would have been given up.
_UNNOTED_S = 2.5
_UNHEARD_S = 6.0  # what is asked so long before the connection is lost may not arrive

# What may be there more than before: connections that are kept for a while, with a thread for each of the database's.
_MORE_THREADS, _MORE_FILES, _MORE_TASKS = 5, 12, 8
_GROWTH, _GROWTH_BYTES = 0.05, 30 * 2**20

# A level at the beginning of a line, with the time before it, and the first line of what Python says of an error.
_BAD_LINE = re.compile(
    r"^[\d-]+ [\d:,]+ (ERROR|CRITICAL) .*|^Traceback .*|.*never awaited.*|.*was never retrieved.*"
)


def unended(board: Board, ends_s: Mapping[int, float]) -> Iterator[str]:
    """Whatever people wait for that will not come.

    Args:
        board: what is seen.
        ends_s: when each of the bot's processes was killed that was.
    """
    for message in board.visible():
        about = f"message {message.id} ({_what(board, message)}, life {message.life})"
        if message.is_growing:
            yield f"{about} still has its Stop button: {message.content[-60:]!r}"
        elif message.is_thinking and not _was_killed_at_once(message, ends_s):
            yield f"{about} still says that the bot is thinking"


def unheard(asked: Iterable[Asked], lost_s: Iterable[float], until_s: float) -> Iterator[str]:
    """Whatever was asked of a connected bot and not acknowledged.

    Args:
        asked: everything.
        lost_s: when connections were lost.
        until_s: what was asked after that is left out.
    """
    moments = sorted(lost_s)
    for one in asked:
        if one.is_message or one.acknowledged_s is not None or one.sent_s > until_s:
            continue
        if not any(-1.0 <= moment - one.sent_s <= _UNHEARD_S for moment in moments):
            yield f"number {one.number} ({one.what}, life {one.life}) was not acknowledged"


def left_over(before: Readings, after: Readings, lists: int = 0) -> Iterator[str]:
    """What the bot holds more than before the same work; a task more for each of the lists that people look at."""
    limits = {
        "threads": _MORE_THREADS,
        "files": _MORE_FILES,
        "tasks": _MORE_TASKS + lists,
        "running": 0,
        "waiting": 0,
        "models": 0,
        "resident_bytes": max(_GROWTH_BYTES, round(_GROWTH * before.resident_bytes)),
    }
    for name, more in limits.items():
        was, now = getattr(before, name), getattr(after, name)
        if now > was + more:
            yield f"{name} went from {was:,} to {now:,}"


def said_wrongly(log: Path) -> Iterator[str]:
    """Lines of the log that no operator should have to read, and what must never be in it."""
    text = log.read_text(errors="replace")
    for name, secret in (("the token", TOKEN), ("what people wrote", MARK)):
        if secret in text:
            yield f"{name} is in the log"
    for line in text.splitlines():
        if _BAD_LINE.match(line):
            yield f"the log says: {line[:160]}"


def forgotten_files(folder: Path) -> Iterator[str]:
    """Temporary files that nobody took away."""
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        yield f"{file.relative_to(folder)} was left among the temporary files"


def _what(board: Board, message: Message) -> str:
    asked = board.asked.get(message.asked or 0)
    return "nobody asked" if asked is None else f"{asked.what} {asked.number}"


def _was_killed_at_once(message: Message, ends_s: Mapping[int, float]) -> bool:
    """Whether the bot was killed before it could note that it owes an answer: Discord ends such a wait by itself."""
    end_s = ends_s.get(message.life)
    return end_s is not None and end_s - message.changed_s < _UNNOTED_S
