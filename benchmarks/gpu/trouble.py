"""What goes wrong on a GPU: memory that runs out in the middle, and an error after which nothing works any more."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.gpu import checkpoints
from benchmarks.gpu.lab import Said, ask, free_device_memory, loaded_s, question, read, request
from benchmarks.gpu.stage import Context
from bot.bench import discord_payloads, discord_standin
from bot.bench.work import Timeline
from bot.errors import BotError, OutOfMemory
from bot.inference.catalog import ModelSpec
from bot.inference.local import LocalEngine

_CHUNKS = (2**33, 2**30, 2**27, 2**24, 2**21)
_ROOT = Path(__file__).parents[2]
_PATIENCE_S = 24.0
_FAILED = "The GPU has failed"
TOKEN = "part-one.part-two.part-three"  # noqa: S105  of nobody


class Ballast:
    """Takes all memory of the GPU that is free, until it is let go. In a rehearsal, forwards fail by hand instead."""

    def __init__(self, *, is_gpu: bool) -> None:
        self._is_gpu = is_gpu
        self._held: list[Any] = []
        self._patch: Any = None

    def fill(self) -> int:
        """Take all; how many bytes that were."""
        import torch

        if not self._is_gpu:
            self._patch = mock.patch.object(
                torch.nn.Embedding, "forward", side_effect=torch.OutOfMemoryError("CUDA out of memory")
            )
            self._patch.start()
            return 0
        for size in _CHUNKS:
            with suppress(torch.OutOfMemoryError):
                while True:
                    self._held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        return sum(one.numel() for one in self._held)

    def release(self) -> None:
        """Let all go."""
        self._held.clear()
        if self._patch is not None:
            self._patch.stop()
            self._patch = None
        free_device_memory()


@contextmanager
def _ballast(context: Context) -> Iterator[Ballast]:
    ballast = Ballast(is_gpu=context.cuda)
    try:
        yield ballast
    finally:
        ballast.release()


async def exhausted(context: Context) -> None:
    """The stage: memory ends while four are answered and a long question comes, with and without somebody to unload."""
    lab = context.lab
    async with lab.own_engine() as engine:
        llama, gemma = lab.spec("llama"), lab.spec("gemma")
        await loaded_s(engine, llama)
        before = await ask(engine, llama, question(1), 16, temperature=0.0)
        await loaded_s(engine, gemma)
        with _ballast(context) as ballast:
            said, filled = await _ended_while_full(context, engine, llama, ballast)
            context.tell(ballast_bytes=filled, with_an_idle_model=[_ending(one) for one in said])
            resident = [one.alias for one in engine.memory().residents]
            whole = sum(one.error is None for one in said)
            context.say(
                f"memory ended beside an idle model: {whole} of {len(said)} answers went on to their end"
            )
            context.check(
                "the idle model was unloaded",
                gemma.alias not in resident,
                f"in memory: {resident}",
                judged=context.cuda,
            )
            context.check(
                "the answers went on", whole == len(said), f"{whole} of {len(said)}", judged=context.cuda
            )
            _all_are_told(context, said)
        with _ballast(context) as ballast:
            said, filled = await _ended_while_full(context, engine, llama, ballast)
            context.tell(with_nothing_to_unload=[_ending(one) for one in said])
            whole = sum(one.error is None for one in said)
            context.say(
                f"memory ended with nothing to unload: {whole} of {len(said)} answers went on to their end"
            )
            _all_are_told(context, said)
            refusal = await _refused_load(engine, gemma)
            context.tell(load_while_full=refusal)
            context.say(f"a load then: {refusal}")
        after = Said(Timeline(time.perf_counter()))
        await read(engine, request(llama, question(1), 16, temperature=0.0), after)
        context.check(
            "once memory is free it answers again",
            after.error is None,
            repr(after.error) if after.error else "",
        )
        same = before.ids == after.ids and bool(after.ids)
        context.check("and says the same", same, judged=False)  # pieces of another size round otherwise
        await loaded_s(engine, gemma)
        late = await ask(engine, gemma, question(2), 4)
        context.check("another model can be loaded again", late.timeline.count == 4)


def _ending(one: Said) -> dict[str, Any]:
    return {"tokens": one.timeline.count, "error": None if one.error is None else str(one.error)}


def _all_are_told(context: Context, said: list[Said]) -> None:
    """Whoever is not answered reads that memory was short, and what to do."""
    others = [
        repr(one.error) for one in said if one.error is not None and not isinstance(one.error, OutOfMemory)
    ]
    sentences = sorted({str(one.error) for one in said if one.error is not None})
    for sentence in sentences:
        context.say(f"people read: {sentence}")
    context.check("who is not answered reads that memory was short", not others, "; ".join(others))


async def _ended_while_full(
    context: Context, engine: LocalEngine, spec: ModelSpec, ballast: Ballast
) -> tuple[list[Said], int]:
    """Four are being answered, memory is filled, and one with a long question joins."""
    tokens, length = (40, 200) if context.tiny else (160, 6000)
    said = [Said(Timeline(time.perf_counter())) for _ in range(5)]
    asked = [request(spec, question(40 + n, 40), tokens, seed=n + 1) for n in range(4)]
    tasks = [asyncio.create_task(read(engine, *pair)) for pair in zip(asked, said, strict=False)]
    await asyncio.gather(*(one.until(8) for one in said[:4]))
    filled = await asyncio.to_thread(ballast.fill)
    long = request(spec, question(50 + time.monotonic_ns() % 1000, length), 8)
    tasks.append(asyncio.create_task(read(engine, long, said[4])))
    await asyncio.gather(*tasks)
    return said, filled


async def _refused_load(engine: LocalEngine, spec: ModelSpec) -> str:
    """What people read who ask for a model that there is no memory for now."""
    if engine.ready(spec):
        return "it was still in memory"
    try:
        await loaded_s(engine, spec)
    except BotError as error:
        return error.for_people
    return "it was loaded"


async def dead_gpu(context: Context) -> None:
    """The stage: the bot as a service manager starts it, whose GPU fails for good in the middle of an answer."""
    with (
        tempfile.TemporaryDirectory(dir=context.folder) as place,
        discord_standin.running(0.01) as discord_side,
    ):
        folder = Path(place)
        checkpoints.make("llama", folder / "dying", tiny=True, device="cpu")
        log = context.out / "dead-gpu-log.txt"
        with log.open("wb") as written:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.gpu.dying"),
                cwd=_ROOT,
                env=_environment(folder),
                stdout=written,
                stderr=written,
            )
        try:
            await _watched(context, process, discord_side, folder, log)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _environment(folder: Path) -> dict[str, str]:
    import discord.http

    (folder / "models.toml").write_text(
        f'[dying]\nsource = "{folder / "dying"}"\ncontext_tokens = 512\ndescription = "it will die"\n'
    )
    return {
        **os.environ,
        "DISCORD_STANDIN": discord.http.Route.BASE.removeprefix("http://"),
        "DISCORD_TOKEN": TOKEN,
        "DYING_FLAG": str(folder / "die"),
        "MODELS_FILE": str(folder / "models.toml"),
        "DEFAULT_MODEL": "dying",
        "CACHE_DIR": str(folder / "cache"),
        "DATA_DIR": str(folder / "data"),
        "MAX_NEW_TOKENS": "64",
        "OMP_NUM_THREADS": "1",
    }


async def _watched(
    context: Context,
    process: asyncio.subprocess.Process,
    discord_side: discord_standin.StandIn,
    folder: Path,
    log: Path,
) -> None:
    """Ask, let the GPU die, ask again, and wait for the process to end."""
    while "ready as" not in await asyncio.to_thread(log.read_text, errors="replace"):
        if process.returncode is not None:
            raise RuntimeError(f"the bot ended at its start with code {process.returncode}: see {log.name}")
        await asyncio.sleep(0.2)
    answered = await _read_by(discord_side, 1, process, patience_s=context.left_s - 2 * _PATIENCE_S)
    context.tell(before=answered)
    context.check("it answers before", bool(answered), str(answered))
    (folder / "die").touch()
    failed_s = time.monotonic()
    first = await _read_by(discord_side, 2, process, patience_s=_PATIENCE_S / 2)
    second = (
        []
        if process.returncode is not None
        else await _read_by(discord_side, 3, process, patience_s=_PATIENCE_S / 3)
    )
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), max(2.0, min(_PATIENCE_S, context.left_s - 3)))
    code, took_s = process.returncode, time.monotonic() - failed_s
    context.tell(whose_answer_it_was=first, who_asked_after=second, exit_code=code, seconds=round(took_s, 1))
    context.say(f"whose answer it was read: {json.dumps(first[-1:], ensure_ascii=False)}")
    context.say(f"who asked after read: {json.dumps(second[-1:], ensure_ascii=False)}")
    context.say(f"exit code {code} after {took_s:.1f} s" if code is not None else "it went on running")
    kept = folder / "data" / "gpu-failures.txt"
    failures = len(kept.read_text().split()) if kept.is_file() else 0
    context.tell(failures_kept=failures)
    context.check("people read that the GPU has failed", any(_FAILED in one for one in first))
    context.check("the process ends with the code that has it started anew", code == 1, f"code {code}")
    # bitsandbytes ends the process itself where it is the first to meet the failure: then nobody is told.
    context.check("the failure is kept for the limit", failures == 1, f"{failures} in {kept.name}")


async def _read_by(
    discord_side: discord_standin.StandIn,
    number: int,
    process: asyncio.subprocess.Process,
    *,
    patience_s: float,
) -> list[str]:
    """What Discord shows to one who asks, until nothing comes for a while, or the process has ended."""
    discord_side.arrivals()
    discord_side.dispatch(
        discord_payloads.command_payload(number, "ask", prompt=f"{number} words", model="dying")
    )
    shown: list[str] = []
    ends_s = time.monotonic() + max(5.0, patience_s)
    quiet_s = ends_s
    while time.monotonic() < min(ends_s, quiet_s):
        new = [one.content for one in discord_side.arrivals() if one.content]
        if new:
            shown += new
            quiet_s = time.monotonic() + 4.0
        if process.returncode is not None and not new:
            break
        await asyncio.sleep(0.2)
    return shown
