"""Each check of the soak finds what it is for, and nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from bot.storage.database import open_database
from bot.storage.replies import KeptReply, Replies
from tests.soak import checks
from tests.soak.ledger import Ledger
from tests.soak.messages import Asked, Board, Message
from tests.soak.people import MARK
from tests.soak.process import TOKEN, Readings

READINGS = Readings(resident_bytes=900_000_000, threads=12, files=20, tasks=9, running=0, waiting=0, models=0)
ENDED = KeptReply("ab12", 1, 300, 400, "smol", {}, answer="Why *not*?", reason="stop", end_shown=True)


def buttons(*presses: str) -> list[dict[str, object]]:
    return [{"type": 1, "components": [{"type": 2, "custom_id": f"reply:{one}:ab12"} for one in presses]}]


def message(board: Board, content: str, *presses: str) -> Message:
    made = board.new(300)
    made.edit({"content": content, "components": buttons(*presses) if presses else []}, life=1, now_s=10.0)
    return made


async def kept(folder: Path, *replies: KeptReply) -> Path:
    path = folder / "punchline.sqlite3"
    async with open_database(path) as database:
        for reply in replies:
            await Replies(database).put(replace(reply, reason=None))
            if reply.reason is not None:
                await Replies(database).end(reply)
    return path


def test_a_reply_with_its_stop_button_is_waited_for_and_one_that_ended_is_not() -> None:
    board = Board()
    message(board, "Why not?\n-# smol", "again", "details")
    assert list(checks.unended(board, {})) == []
    growing = message(board, "Why", "stop")
    (found,) = checks.unended(board, {})
    assert str(growing.id) in found
    growing.deleted = True
    assert list(checks.unended(board, {})) == []


@pytest.mark.parametrize(("killed_s", "findings"), [(None, 1), (11.0, 0), (30.0, 1)])
def test_only_a_kill_right_after_the_acknowledgement_excuses_thinking(
    killed_s: float | None, findings: int
) -> None:
    board = Board()
    message(board, "")
    assert len(list(checks.unended(board, {} if killed_s is None else {1: killed_s}))) == findings


def test_what_was_not_acknowledged_is_found_unless_the_connection_was_lost_then() -> None:
    asked = [Asked(1, 501, 300, "ask", sent_s=20.0, life=1)]
    assert len(list(checks.unheard(asked, [], until_s=60.0))) == 1
    assert len(list(checks.unheard(asked, [10.0, 40.0], until_s=60.0))) == 1
    assert list(checks.unheard(asked, [23.0], until_s=60.0)) == []
    asked[0].acknowledged_s = 21.0
    assert list(checks.unheard(asked, [], until_s=60.0)) == []


@pytest.mark.parametrize(
    ("held", "more"),
    [("threads", 6), ("files", 13), ("tasks", 9), ("running", 1), ("resident_bytes", 60_000_000)],
)
def test_more_of_anything_than_connections_take_is_found(held: str, more: int) -> None:
    assert list(checks.left_over(READINGS, READINGS)) == []
    (found,) = checks.left_over(READINGS, replace(READINGS, **{held: getattr(READINGS, held) + more}))
    assert found.startswith(held)


@pytest.mark.parametrize(
    "line",
    [
        f"2026-11-27 16:30:23,577 INFO    bot.answers: {MARK}",
        f"2026-11-27 16:30:23,577 INFO    bot.app: {TOKEN}",
        "2026-11-27 16:30:23,577 ERROR   [e60d7547 ask] bot.replies.explain: 0430: a command failed",
        "Traceback (most recent call last):",
        "RuntimeWarning: coroutine 'f' was never awaited",
    ],
)
def test_lines_that_must_not_be_in_the_log_are_found(tmp_path: Path, line: str) -> None:
    log = tmp_path / "log.txt"
    log.write_text("2026-11-27 16:30:23,577 WARNING bot.replies.live: going on\n")
    assert list(checks.said_wrongly(log)) == []
    log.write_text(f"{line}\n")
    assert len(list(checks.said_wrongly(log))) == 1


def test_a_temporary_file_is_found_and_an_empty_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    assert list(checks.forgotten_files(tmp_path)) == []
    (tmp_path / "cache" / "half").touch()
    assert list(checks.forgotten_files(tmp_path)) == ["cache/half was left among the temporary files"]


async def test_a_decision_that_was_told_and_is_not_in_the_database_is_found(tmp_path: Path) -> None:
    database, ledger, board = await kept(tmp_path), Ledger(), Board()
    assert ledger.asks(("model", 300), "twin")
    assert not ledger.asks(("model", 300), "smol")  # one at a time
    assert ledger.differences(database, board) == []  # asked for, and not told: done or not
    ledger.confirms(("model", 300), "twin")
    (found,) = ledger.differences(database, board)
    assert "('model', 300) is None in the database" in found
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(
            "INSERT INTO model_choices VALUES ('channel', 300, 'twin', 1, '2026-01-01 00:00:00.000000')"
        )
        connection.commit()
    assert ledger.differences(database, board) == []


@pytest.mark.parametrize(
    ("in_database", "finding"),
    [
        (ENDED, None),
        (replace(ENDED, reason="interrupted", answer=""), None),
        (replace(ENDED, reason=None), "under way in the database"),
        (replace(ENDED, answer="Because."), "is kept as"),
        (replace(ENDED, id="cd34"), "not in the database"),
    ],
)
async def test_an_answer_that_was_seen_to_end_has_to_be_kept_with_its_words(
    tmp_path: Path, in_database: KeptReply, finding: str | None
) -> None:
    board = Board()
    message(board, "Why \\*not\\*?\n-# smol · 3 tokens", "again", "details")
    found = Ledger().differences(await kept(tmp_path, in_database), board)
    assert [finding in one for one in found if finding] == ([True] if finding else [])
    assert bool(found) == bool(finding)


async def test_damage_is_found(tmp_path: Path) -> None:
    database = await kept(tmp_path, ENDED)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("INSERT INTO reply_messages VALUES (1, 'gone')")
        connection.commit()
    (found,) = Ledger().differences(database, Board())
    assert "belong to nothing" in found
