"""Work in a thread, its results on the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, TypeVar, cast

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")
Emit = Callable[[_Item], None]
Work = Callable[[Emit[_Item], threading.Event], None]

_HELD_S = 2.0  # from when the process was to be ended to when it is whoever holds what


class Submitter(Protocol):
    """The part of `concurrent.futures.Executor` that is needed here."""

    def submit(self, fn: Callable[..., None], /, *args: Any) -> Future[None]:
        """Run `fn(*args)` somewhere else."""
        ...


def end_the_process(code: int) -> None:
    """End the process at once if a thread is still at work that nothing can interrupt, such as a load; else return.

    Python ends such threads by force in the middle of C++, which aborts the process (SIGABRT) whatever its exit code
    was to be.
    """
    if not any(thread.daemon for thread in threading.enumerate()):
        return
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_the_process_within(seconds: float, code: int) -> None:
    """End the process with this code if it has not ended by itself by then: what it waits for may never come, such as a
    device that has failed. Where nothing of Python runs any more, it ends with code 1."""

    def end() -> None:
        logging.getLogger(__name__).critical("not ended within %.0f s: the process ends by force", seconds)
        logging.shutdown()
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    # Native code that hangs may hold Python's lock, and the log's: this needs neither. Its exit code is 1.
    with suppress(AttributeError, RuntimeError, ValueError, OSError):  # stderr is no file
        faulthandler.dump_traceback_later(seconds + _HELD_S, exit=True)


class OneShotThread:
    """Runs each piece of work on a thread of its own, which ends with it.

    A thread that has entered OpenMP owns a pool of workers for as long as it lives, and on the CPU two such pools
    halve each other's speed. What loads a model must therefore end before that model's speed matters. The
    threads are daemons: a fetch that nothing can interrupt does not keep the process from leaving.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, fn: Callable[..., None], /, *args: Any) -> Future[None]:
        """Run `fn(*args)` on a new thread."""
        future: Future[None] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                fn(*args)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        context = contextvars.copy_context()  # what is logged there belongs to the same request
        threading.Thread(target=context.run, args=(run,), name=self._name, daemon=True).start()
        return future


async def in_thread(thread: Submitter, work: Work[_Item]) -> AsyncGenerator[_Item, None]:
    """Run `work` on `thread` and yield what it emits, as it emits it; raises what it raises.

    Closing the generator sets the event that `work` was given, and returns when `work` has returned.
    """
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[_Item | Future[None]] = asyncio.Queue()
    stopped = threading.Event()

    def send(item: _Item | Future[None]) -> None:
        with suppress(RuntimeError):  # the loop was closed; nobody listens
            loop.call_soon_threadsafe(items.put_nowait, item)

    future = thread.submit(work, send, stopped)
    future.add_done_callback(send)
    ended = False
    try:
        while (item := await items.get()) is not future:
            yield item  # type: ignore[misc]  # only the future itself is no item
        ended = True
        future.result()
    finally:
        stopped.set()
        if not ended and not future.cancel():
            while await items.get() is not future:
                pass


async def in_own_thread(work: Callable[[], _Result], *, timeout_s: float) -> _Result:
    """Run `work` on a thread of its own that ends with it; raises what it raises.

    Not in asyncio's pool, whose threads stay: a thread that ever entered OpenMP keeps its workers until it ends.
    Work that is still going on after `timeout_s` is left to itself, and does not keep the process from ending.

    Raises:
        TimeoutError: it took longer than `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_Result] = loop.create_future()

    def settle(result: _Result | None, error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # without an error there is a result

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:
            failed = error
        with suppress(RuntimeError):  # the loop was closed
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=run, name="look", daemon=True).start()
    async with asyncio.timeout(timeout_s):
        return await done


class SharedLooks:
    """Blocking looks, each on a thread of its own, and never two for the same key: a look that hangs, such as at a
    driver, holds one thread however often it is asked for.

    Whoever asks while a look is under way gets what that one finds. May be used from several event loops.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Hashable, tuple[Future[Any], float]] = {}

    def is_under_way(self, key: Hashable) -> bool:
        """Whether a look for this key was begun and has not returned."""
        with self._lock:
            return key in self._under_way

    async def __call__(self, key: Hashable, look: Callable[[], _Result], *, timeout_s: float) -> _Result:
        """What the look that is under way finds, else `look`; raises what it raises.

        Raises:
            TimeoutError: it takes longer than `timeout_s`, counted from when it was begun: at once, if it hangs.
        """
        with self._lock:
            is_first = key not in self._under_way
            future, began_s = self._under_way.setdefault(key, (Future(), time.monotonic()))
        if is_first:
            self._begin(key, look, future)
        left_s = began_s + timeout_s - time.monotonic()
        async with asyncio.timeout(max(0.0, left_s)):
            return cast(_Result, await asyncio.wrap_future(future))

    def _begin(self, key: Hashable, look: Callable[[], Any], future: Future[Any]) -> None:
        future.set_running_or_notify_cancel()  # so that nobody can cancel it for the others

        def run() -> None:
            result, failed = None, None
            try:
                result = look()
            except BaseException as error:
                failed = error
            with self._lock:
                del self._under_way[key]
            if failed is not None:
                future.set_exception(failed)
            else:
                future.set_result(result)

        threading.Thread(target=run, name="look", daemon=True).start()
