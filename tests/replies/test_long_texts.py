"""A long text is read on a thread, so that the event loop goes on."""

from __future__ import annotations

import threading

from bot.replies.long_texts import LONG_CHARACTERS, read_apart


async def test_a_long_text_is_read_on_another_thread_and_a_short_one_at_once() -> None:
    def reader(_: str) -> threading.Thread:
        return threading.current_thread()

    assert await read_apart(reader, "x" * LONG_CHARACTERS) is threading.current_thread()
    assert await read_apart(reader, "x" * (LONG_CHARACTERS + 1)) is not threading.current_thread()
