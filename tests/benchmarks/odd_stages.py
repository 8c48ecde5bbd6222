"""Stages that end in every way, for a run without torch: what a GPU can do to a process, done by hand."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal

from benchmarks.gpu.stage import Context, Stage

_HERE = "tests.benchmarks.odd_stages"
# A call into C that keeps Python's lock: no thread of this process could watch over it.
_sleep_with_the_lock = ctypes.PyDLL(None).sleep


async def good(context: Context) -> None:
    context.tell(answer=42, pid=os.getpid())
    context.say("all is well")
    context.check("one is one", True)


async def raises(context: Context) -> None:
    context.tell(before="it went wrong")
    raise ValueError("this is why")


async def not_so(context: Context) -> None:
    context.check("two is one", False, "2")
    context.check("a slow machine is fast", False, judged=False)
    context.tell(pid=os.getpid())


async def slow(context: Context) -> None:
    context.tell(left_s=context.left_s)
    await asyncio.sleep(600)


async def hangs(context: Context) -> None:
    context.tell(before="it hung")
    (context.out / "hanging").write_text(str(os.getpid()))
    _sleep_with_the_lock(600)


async def dies(context: Context) -> None:
    context.tell(before="it died")
    os.kill(os.getpid(), signal.SIGSEGV)


async def reads_results(context: Context) -> None:
    document = json.loads((context.out / "results.json").read_text())
    context.tell(seen=[one["name"] for one in document["stages"]])


STAGES = (
    Stage("first", "it goes well", f"{_HERE}:good", 20, 20),
    Stage("raises", "an exception", f"{_HERE}:raises", 20, 20),
    Stage("second", "what is written by then", f"{_HERE}:reads_results", 20, 20),
    Stage("not-so", "a check that does not hold", f"{_HERE}:not_so", 20, 20),
    Stage("third", "it goes well again", f"{_HERE}:good", 20, 20),
    Stage("slow", "it is cancelled", f"{_HERE}:slow", 5, 5),
    Stage("hangs", "it cannot be cancelled", f"{_HERE}:hangs", 5, 5),
    Stage("dies", "it takes its process along", f"{_HERE}:dies", 20, 20),
    Stage("gpu", "it needs one", f"{_HERE}:good", 20, 20, needs_cuda=True),
    Stage("beside", "it runs beside the last one", f"{_HERE}:good", 20, 20, beside="last"),
    Stage("last", "it goes well after all that", f"{_HERE}:good", 20, 20),
)


def prepare() -> bool:
    return False
