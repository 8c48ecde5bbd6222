"""Has stages run in a process of their own, and goes on with the next when one fails, hangs or dies.

A thread could not do that: native code that hangs may hold Python's lock, and an error of the GPU stays in the process
that had it. So a light process watches, and the one with the stages in it may be killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import Outcome, Stage, Verdict

GRACE_S = 6.0  # from a stage's deadline, at which it is cancelled, to when its process is ended
LEAST_S = 5.0  # a stage is not begun with less
FINAL_S = 3.0  # kept for the files and for removing checkpoints
_START_S = 90.0  # of a worker, which imports torch from a disk that may be cold
# Nothing is asked of the Hub: without a network, each question would wait for its end. Memory as the service has it.
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # several threads of a worker calculate, and would wait for each other
_END_S = 3.0  # of a worker that has nothing more to do
_DUMP_S = 1.0  # for the stacks of its threads


class NoCuda(Exception):
    """There is no GPU here that PyTorch can use."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    Attributes:
        catalogue: the module with the stages.
        folder: for checkpoints.
        out: for results.
        seconds: for all of it.
        tiny: tiny dimensions, on the CPU.
        rehearse: with `tiny`, run what needs CUDA too, with its faults made by hand.
    """

    catalogue: str
    folder: Path
    out: Path
    seconds: float
    tiny: bool = False
    rehearse: bool = False


class _Worker:
    """A process that runs stages."""

    def __init__(self, process: asyncio.subprocess.Process, told: asyncio.StreamReader) -> None:
        self._process = process
        self._told = told

    @classmethod
    async def start(cls, options: Options) -> _Worker:
        reading, writing = os.pipe()
        given = {"catalogue": options.catalogue, "tiny": options.tiny, "events": writing}
        given |= {"folder": str(options.folder), "out": str(options.out)}
        with (options.out / "log.txt").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "benchmarks.gpu.worker", json.dumps(given)),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(writing,),
                start_new_session=True,  # so that what it has started ends with it
                env=_ENVIRONMENT | (_ONE_THREAD if options.tiny else {}) | os.environ,
            )
        os.close(writing)
        told = asyncio.StreamReader(limit=2**24)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), os.fdopen(reading, "rb"))
        return cls(process, told)

    async def order(self, stage: Stage, limit_s: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"stage": stage.name, "limit_s": limit_s}).encode() + b"\n")
        await self._process.stdin.drain()

    async def next(self) -> dict[str, Any] | None:
        """What it tells next; None when it has ended."""
        line = await self._told.readline()
        heard: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        return heard

    async def end(self) -> int:
        """Have it end: by itself if it does soon, else not; its exit code."""
        with suppress(TimeoutError):
            if self._process.stdin is not None:
                self._process.stdin.close()
            await asyncio.wait_for(self._process.wait(), _END_S)
        return await self.kill()

    async def dump(self) -> None:
        """Have it write where its threads are."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)
            await asyncio.sleep(_DUMP_S)

    async def kill(self) -> int:
        """End it and what it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return await self._process.wait()


class _Lane:
    """Stages one after the other, in one process as long as that is well.

    Args:
        options: how to run.
        ends_s: when the whole run is to end, on the monotonic clock.
    """

    def __init__(self, options: Options, ends_s: float) -> None:
        self._options = options
        self._ends_s = ends_s
        self._worker: _Worker | None = None

    async def run(self, stage: Stage) -> Outcome:
        """Run a stage.

        Raises:
            NoCuda: there is none, and it is not a tiny run.
        """
        outcome, began_s = Outcome(stage), time.monotonic()
        try:
            if stage.needs_cuda and self._options.tiny and not self._options.rehearse:
                outcome.verdict, outcome.note = Verdict.NOT_RUN, "needs CUDA: not run"
                return outcome
            if self._left_s < LEAST_S:
                return outcome
            await self._ready(outcome)
            if self._worker is None:
                return outcome
            began_s = time.monotonic()
            limit_s = min(stage.tiny_limit_s if self._options.tiny else stage.limit_s, self._left_s)
            if limit_s < LEAST_S:
                return outcome
            await self._followed(self._worker, outcome, limit_s)
        finally:
            outcome.seconds = round(time.monotonic() - began_s, 2)
        return outcome

    async def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            await self._worker.end()
            self._worker = None

    @property
    def _left_s(self) -> float:
        return self._ends_s - time.monotonic()

    async def _ready(self, outcome: Outcome) -> None:
        """Have a process; where none comes up, the outcome says so."""
        if self._worker is not None:
            return
        worker = await _Worker.start(self._options)
        try:
            async with asyncio.timeout(max(LEAST_S, min(_START_S, self._left_s))):
                hello = await worker.next()
        except TimeoutError:
            await worker.dump()
            await worker.kill()
            outcome.verdict, outcome.note = Verdict.HUNG, "PyTorch was not imported in time"
            return
        except BaseException:
            await worker.kill()
            raise
        if hello is None:
            code = await worker.kill()
            outcome.verdict, outcome.note = (
                Verdict.DIED,
                f"the process did not start: code {code}, see log.txt",
            )
            return
        if not hello["hello"]["cuda"] and not self._options.tiny:
            await worker.end()
            raise NoCuda
        self._worker = worker

    async def _followed(self, worker: _Worker, outcome: Outcome, limit_s: float) -> None:
        """Take in what a stage tells, to its end or that of its time."""
        try:
            async with asyncio.timeout(min(limit_s + GRACE_S, max(self._left_s, LEAST_S))):
                await worker.order(outcome.stage, limit_s)
                while (told := await worker.next()) is not None and "end" not in told:
                    outcome.hear(told)
        except TimeoutError:
            await worker.dump()
            await worker.kill()
            self._worker = None
            outcome.verdict = Verdict.HUNG
            outcome.note = f"its {limit_s:.0f} s were over and it did not stop: log.txt says where it was"
            return
        except (BrokenPipeError, ConnectionResetError):
            told = None
        if told is None:
            code = await worker.kill()
            self._worker = None
            outcome.verdict, outcome.note = Verdict.DIED, f"its process ended with code {code}: see log.txt"
            return
        outcome.verdict, outcome.note = Verdict(told["end"]["verdict"]), told["end"]["note"]
        if told["end"]["spent"]:  # what it holds of the GPU is free for the next one when it has gone
            await worker.end()
            self._worker = None


def grouped(stages: Sequence[Stage]) -> list[tuple[Stage, list[Stage]]]:
    """Each stage with those that run beside it. One whose neighbour is not there runs by itself."""
    names = {stage.name for stage in stages}
    alone = [stage for stage in stages if stage.beside not in names]
    return [(stage, [one for one in stages if one.beside == stage.name]) for stage in alone]


async def supervise(
    options: Options, stages: Sequence[Stage], results: Results, say: Callable[[str], None]
) -> None:
    """Run all stages; the results are written after each.

    Raises:
        NoCuda: there is none, and it is not a tiny run.
    """
    began_s = time.monotonic()
    ends_s = began_s + options.seconds - FINAL_S
    main = _Lane(options, ends_s)

    async def follow(stage: Stage, lane: _Lane) -> None:
        try:
            outcome = await lane.run(stage)
        finally:
            if lane is not main:
                await lane.close()
        results.add(outcome, time.monotonic() - began_s)
        note = f": {outcome.note.splitlines()[0]}" if outcome.note else ""
        say(f"{time.monotonic() - began_s:5.0f} s  {stage.name}: {outcome.verdict}{note}")

    try:
        for stage, beside in grouped(stages):
            async with asyncio.TaskGroup() as together:
                together.create_task(follow(stage, main))
                for one in beside:
                    together.create_task(follow(one, _Lane(options, ends_s)))
    except* NoCuda as errors:
        raise NoCuda from errors
    finally:
        await main.close()
