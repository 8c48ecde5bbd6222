"""What the bot has confirmed to people, and whether the database still has it."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bot.storage.replies import INTERRUPTED
from tests.soak.messages import Board, Message

Key = tuple[str, int]  # what was decided, and for which channel, person or server

_QUESTIONS = {
    "model": "SELECT alias FROM model_choices WHERE kind = 'channel' AND place_id = ?",
    "rule": "SELECT allowed FROM access_rules WHERE kind = 'person' AND alias = '' AND subject_id = ?",
    "quota": "SELECT tokens_per_day FROM access_quotas WHERE kind = 'place' AND subject_id = ?",
}
_NOT_LETTERS = re.compile(r"\W+")


class Ledger:
    """What was confirmed.

    Attributes:
        confirmed: how many decisions were.
        compared: how many decisions and answers were compared with the database.
    """

    def __init__(self) -> None:
        self.confirmed = self.compared = 0
        self._possible: dict[Key, list[object]] = {}
        self._asking: set[Key] = set()

    def asks(self, key: Key, value: object) -> bool:
        """Somebody is about to decide that; not while the same is being decided by somebody else."""
        if key in self._asking:
            return False
        self._asking.add(key)
        self._possible.setdefault(key, [None]).append(value)
        return True

    def confirms(self, key: Key, value: object) -> None:
        """People were told that it holds."""
        self._possible[key] = [value]
        self._asking.discard(key)
        self.confirmed += 1

    def ended(self) -> None:
        """The bot's process has ended: whatever was asked and not confirmed is done or not."""
        self._asking.clear()

    def differences(self, database: Path, board: Board) -> list[str]:
        """What a copy of the database does not have of all that was confirmed; the bot may run or not."""
        with _copied(database) as connection:
            found = list(self._decisions(connection))
            for message in board.visible():
                if message.once_ended:
                    found += self._answer(connection, message)
            if (told := connection.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
                found.append(f"the database is damaged: {told[:3]}")
            if told := connection.execute("PRAGMA foreign_key_check").fetchall():
                found.append(f"the database has rows that belong to nothing: {told[:3]}")
        return found

    def unshown(self, database: Path) -> list[str]:
        """Replies whose end nobody has seen, as far as the database knows: none, if all is calm."""
        with _copied(database) as connection:
            rows = connection.execute("SELECT id, reason FROM replies WHERE NOT end_shown").fetchall()
        return [
            f"reply {reply_id} ({reason}) is kept as one whose end nobody saw" for reply_id, reason in rows
        ]

    def _decisions(self, connection: sqlite3.Connection) -> Iterator[str]:
        for key, possible in self._possible.items():
            row = connection.execute(_QUESTIONS[key[0]], (key[1],)).fetchone()
            value = None if row is None else row[0]
            self.compared += 1
            if value not in possible:
                yield f"{key} is {value!r} in the database, and people were told {possible}"
            elif key not in self._asking:
                self._possible[key] = [value]

    def _answer(self, connection: sqlite3.Connection, message: Message) -> Iterator[str]:
        """People have seen how an answer ended: so it did, with these words."""
        self.compared += 1
        if message.reply_id is None:
            return
        question = "SELECT reason, answer FROM replies WHERE id = ?"
        row = connection.execute(question, (message.reply_id,)).fetchone()
        if row is None:
            yield f"reply {message.reply_id} was seen to end, and is not in the database"
        elif row[0] is None:
            yield f"reply {message.reply_id} was seen to end, and is under way in the database"
        elif row[0] != INTERRUPTED and _letters(_words(message.content)) not in _letters(row[1]):
            seen, kept = _words(message.content)[-50:], row[1][-50:]
            yield f"reply {message.reply_id} was seen as …{seen!r}, and is kept as …{kept!r}"


def _words(content: str) -> str:
    """What the model wrote, without the small print."""
    lines = [line for line in content.split("\n") if not line.startswith(("-# ", "⚠️", "*(The model"))]
    return "\n".join(lines)


def _letters(text: str) -> str:
    return _NOT_LETTERS.sub("", text)


@contextmanager
def _copied(database: Path) -> Iterator[sqlite3.Connection]:
    """A copy, with what is not yet in the main file: looking changes nothing for the bot."""
    with tempfile.TemporaryDirectory() as folder:
        for file in database.parent.glob(f"{database.name}*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder) / database.name)) as connection:
            yield connection
