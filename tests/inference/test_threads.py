"""Work beside the event loop: its result, its error, and the patience of whoever waits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from bot.inference.threads import SharedLooks, in_own_thread


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


@pytest.mark.parametrize(
    "hangs",
    [
        "threading.Event().wait()",
        "ctypes.PyDLL(None).sleep(60)",
        "logging.root.handlers[0].acquire(); time.sleep(60)",
    ],
    ids=["for an event", "in native code that lets nothing of Python run", "with the log in hand"],
)
def test_a_process_that_hangs_is_ended_in_time_with_an_exit_code_that_starts_it_anew(hangs: str) -> None:
    program = (
        "import ctypes, logging, threading, time; from bot.inference.threads import end_the_process_within; "
        f"logging.basicConfig(); end_the_process_within(0.1, 1); {hangs}"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=30, check=False, capture_output=True)
    assert ended.returncode == 1


async def test_a_look_that_hangs_is_not_begun_again_and_who_asks_hears_at_once() -> None:
    looks, release, begun = SharedLooks(), threading.Event(), []

    def hangs() -> int:
        begun.append(1)
        release.wait(30)
        return 7

    with pytest.raises(TimeoutError):
        await looks("gpu", hangs, timeout_s=0.05)
    for _ in range(3):
        async with asyncio.timeout(5):
            with pytest.raises(TimeoutError):
                await looks("gpu", hangs, timeout_s=0.0)
    assert len(begun) == 1
    assert await looks("disk", lambda: 1, timeout_s=10) == 1  # another one is not in its way
    waiting = asyncio.create_task(looks("gpu", hangs, timeout_s=30))
    await asyncio.sleep(0)
    release.set()
    assert await waiting == 7
    assert not looks.is_under_way("gpu")
    assert await looks("gpu", lambda: 8, timeout_s=10) == 8
    assert len(begun) == 1


async def test_all_who_look_at_the_same_time_share_the_result_and_the_error() -> None:
    looks, release, begun = SharedLooks(), threading.Event(), []

    def fails() -> None:
        begun.append(1)
        release.wait(30)
        raise ZeroDivisionError

    waiting = [asyncio.create_task(looks("gpu", fails, timeout_s=30)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # takes nothing from the others
    await asyncio.sleep(0)
    release.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in results] == [asyncio.CancelledError, *[ZeroDivisionError] * 4]
    assert len(begun) == 1


async def test_looks_are_shared_between_event_loops() -> None:
    looks, release, begun = SharedLooks(), threading.Event(), []

    def look() -> int:
        begun.append(1)
        release.wait(30)
        return 7

    here = asyncio.create_task(looks("gpu", look, timeout_s=30))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await in_own_thread(lambda: asyncio.run(looks("gpu", look, timeout_s=0.0)), timeout_s=30)
    release.set()
    assert await here == 7
    assert len(begun) == 1
