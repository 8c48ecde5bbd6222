"""The process in which stages run, one after the other. It takes orders by lines on its input, and tells by a pipe.

    python -m benchmarks.gpu.worker OPTIONS_AS_JSON

That it may hang or die is expected: `supervisor.py` watches it.
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu.stage import Context, Stage, Tell, Verdict

_KEPT_LINES = 30  # of a traceback


def found(path: str) -> Any:
    """The object at "module:name"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


async def ended(stage: Stage, context: Context, limit_s: float) -> dict[str, Any]:
    """Run a stage; how it ended. `spent` says that this process is not to be used for another one."""
    run: Callable[[Context], Awaitable[None]] = found(stage.run)
    try:
        async with asyncio.timeout(limit_s) as limit:
            await run(context)
    except Exception as error:
        traceback.print_exc()
        told = "".join(traceback.format_exception(error)).splitlines()[-_KEPT_LINES:]
        if isinstance(error, TimeoutError) and limit.expired():
            note = f"its {limit_s:.0f} s were over"
            return {"verdict": Verdict.LATE, "note": "\n".join([note, *told]), "spent": True}
        first = (str(error).strip().splitlines() or [""])[0]
        note = f"{type(error).__name__}: {first}"
        return {"verdict": Verdict.FAILED, "note": "\n".join([note, *told]), "spent": True}
    if context.broken:
        return {"verdict": Verdict.FAILED, "note": "; ".join(context.broken), "spent": False}
    return {"verdict": Verdict.PASSED, "note": "", "spent": False}


async def serve(options: dict[str, Any], send: Tell) -> None:
    """Take orders until there are no more."""
    catalogue = importlib.import_module(options["catalogue"])
    stages: dict[str, Stage] = {stage.name: stage for stage in catalogue.STAGES}
    cuda = catalogue.prepare() and not options["tiny"]
    send({"hello": {"cuda": cuda}})
    folder, out = Path(options["folder"]), Path(options["out"])

    @functools.cache
    def lab() -> Any:
        return found("benchmarks.gpu.lab:Lab")(folder, tiny=options["tiny"], cuda=cuda)

    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        limit_s = order["limit_s"]
        context = Context(options["tiny"], cuda, folder, out, time.monotonic() + limit_s, send, lab)
        print(f"--- {order['stage']}", file=sys.stderr, flush=True)
        end = await ended(stages[order["stage"]], context, limit_s)
        send({"end": end})
        if end["spent"]:
            return
    if lab.cache_info().currsize:
        await lab().close()


def main() -> None:
    """Run, and leave at once: threads of a broken stage are not waited for."""
    options = json.loads(sys.argv[1])
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the supervisor asks where it hangs
    with os.fdopen(options["events"], "w", encoding="utf-8") as events:

        def send(told: dict[str, Any]) -> None:
            events.write(json.dumps(told, default=str) + "\n")
            events.flush()

        try:
            asyncio.run(serve(options, send))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
