"""The project's own tests of inference, on this machine's device: models go to the GPU where there is one."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.stage import Context

_ROOT = Path(__file__).parents[2]
_SUBJECTS = ("attention", "families", "batch", "sampler", "drawing", "experts", "quantized", "graphs", "pool")
# With tiny dimensions this is the CPU, where `make test` runs all of them: a few show that this stage works.
_TINY_TESTS = ("tests/inference/test_sampler.py", "-k", "likeliest_is_taken or too_short or penalized")
# By name: of what else may be installed on such a machine, none is to have a part in it.
_PLUGINS = ("pytest_asyncio.plugin", "pytest_timeout", "_hypothesis_pytestplugin")
_WORKERS = 6
_RESERVE_S = 6.0  # in which pytest, interrupted, tells what it knows
_LINE = re.compile(
    r"^(?:\[gw\d+\].*?)?\s*(PASSED|FAILED|ERROR|SKIPPED)\s+(\S.*)$|^(\S+::.*?)\s+(PASSED|FAILED|ERROR|SKIPPED)\b"
)


async def run(context: Context) -> None:
    """The stage."""
    missing = [
        name
        for name in ("pytest", "pytest_asyncio", "pytest_timeout", "hypothesis")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ModuleNotFoundError(
            f"{', '.join(missing)}: benchmarks/gpu/README.md says which wheels to bring"
        )
    files = _TINY_TESTS if context.tiny else tuple(f"tests/inference/test_{one}.py" for one in _SUBJECTS)
    workers = min(_WORKERS, (os.cpu_count() or 1) // 2)
    beside = importlib.util.find_spec("xdist") is not None and workers > 1 and not context.tiny
    plugins = [*_PLUGINS, *(("xdist.plugin",) if beside else ())]
    command = [
        *(sys.executable, "-m", "pytest", "-v", "--color=no", "-p", "no:cacheprovider", "-m", "not model"),
        *(word for plugin in plugins for word in ("-p", plugin)),
        *("-W", "default"),  # another PyTorch, and what else is installed there, warns of other things
        *(("-n", str(workers), "--dist", "load") if beside else ()),
        *("--timeout", "60", *files),
    ]
    printed = context.out / "tests.txt"
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with printed.open("wb") as into:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=_ROOT, stdout=into, stderr=into, env=environment
        )
    in_time = True
    try:
        await asyncio.wait_for(process.wait(), context.left_s - _RESERVE_S)
    except TimeoutError:
        in_time = False
        process.send_signal(signal.SIGINT)  # it prints what has failed so far
        try:
            await asyncio.wait_for(process.wait(), _RESERVE_S - 1)
        except TimeoutError:
            process.kill()
            await process.wait()
    found = counted(printed.read_text(encoding="utf-8", errors="replace"))
    context.tell(**found, code=process.returncode, in_time=in_time)
    context.say(
        f"{found['passed']} passed, {len(found['failed'])} failed, {found['skipped']} skipped: tests.txt has all"
    )
    for name in found["failed"]:
        context.say(f"failed: {name}")
    context.check("the tests ended in time", in_time)
    context.check("all of them pass", process.returncode == 0, f"code {process.returncode}", judged=in_time)


def counted(printed: str) -> dict[str, Any]:
    """What pytest's lines say, of a run that was broken off too."""
    ended: dict[str, str] = {}
    for line in printed.splitlines():
        if match := _LINE.match(line):
            how, name = match[1] or match[4], match[2] or match[3]
            name = name.split(" - ")[0].strip()
            if "::" in name or name.endswith(".py"):  # a whole file that cannot be imported
                ended.setdefault(name, how)
    return {
        "passed": sum(how == "PASSED" for how in ended.values()),
        "skipped": sum(how == "SKIPPED" for how in ended.values()),
        "failed": sorted(name for name, how in ended.items() if how in ("FAILED", "ERROR")),
    }
