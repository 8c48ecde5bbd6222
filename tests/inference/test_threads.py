"""Work beside the event loop: its result, its error, and the patience of whoever waits."""

from __future__ import annotations

import asyncio
import threading

import pytest

from bot.inference.threads import in_own_thread


async def test_the_result_comes_from_a_thread_of_its_own_that_is_gone_afterwards() -> None:
    thread = await in_own_thread(threading.current_thread, timeout_s=10)
    assert thread is not threading.current_thread()
    thread.join(10)
    assert not thread.is_alive()


async def test_an_error_is_raised_where_the_result_is_awaited() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_own_thread(lambda: 1 // 0, timeout_s=10)


async def test_who_has_waited_long_enough_goes_on_and_a_late_result_disturbs_nobody() -> None:
    release = threading.Event()
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    started: list[threading.Thread] = []

    def work() -> str:
        started.append(threading.current_thread())
        release.wait(60)
        return "late"

    with pytest.raises(TimeoutError):
        await in_own_thread(work, timeout_s=0.02)
    release.set()
    started[0].join(10)
    assert await in_own_thread(lambda: "next", timeout_s=10) == "next"
    assert complaints == []


async def test_work_that_nobody_waits_for_does_not_keep_the_process() -> None:
    assert (await in_own_thread(threading.current_thread, timeout_s=10)).daemon
