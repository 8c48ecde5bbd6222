"""A profile of decode steps: what a step is made of on the host and on the GPU."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from benchmarks.gpu.lab import Said, question, read, request
from benchmarks.gpu.stage import Context
from bot.bench.work import Timeline, at

# What CUPTI calls the calls of a host that starts work, and of one that waits for it.
_LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cuStreamSynchronize")
_COPIES = ("cudaMemcpy", "cuMemcpy")
_TOP = 12


async def profiled(context: Context) -> None:
    """The stage: for one person and for sixteen, first timed, then under the profiler."""
    engine, spec = await context.lab.answering("llama")
    _warm_up()
    for people in (1, 4) if context.tiny else (1, 16):
        timed, seen = (10, 4) if context.tiny else (60, 8)
        tokens = (
            100 if context.tiny else 600
        )  # enough to be still there when the profiler is; then it is stopped
        said = [Said(Timeline(time.perf_counter())) for _ in range(people)]
        asked = [
            request(spec, question(30_000 + 100 * people + n, 40), tokens, seed=n + 1) for n in range(people)
        ]
        tasks = [asyncio.create_task(read(engine, one, into)) for one, into in zip(asked, said, strict=True)]
        try:
            for one in said:
                await one.until(10)
            begun = said[0].timeline.count
            await said[0].until(begun + timed)
            gaps_s = sorted(said[0].timeline.gaps_s[begun:])
            found = await _seen(said[0], seen, is_gpu=context.cuda)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        found |= {"step_p50_s": at(gaps_s, 0.5), "step_p95_s": at(gaps_s, 0.95), "steps_timed": len(gaps_s)}
        context.tell(**{f"for_{people}": found})
        context.say(
            f"{people} at once: step p50 {found['step_p50_s'] * 1e3:.1f} ms, p95 {found['step_p95_s'] * 1e3:.1f} ms; "
            f"{found['operators']:.0f} operators a step"
        )
        if context.cuda:
            context.say(
                f"  {found['launches']:.0f} launches a step, GPU busy {found['gpu_busy']:.0%}, "
                f"{found['synchronizations']:.1f} synchronizations and {found['copies']:.1f} copies a step"
            )
            for name, share in found["longest_kernels"].items():
                context.say(f"  {share:6.1%} of the GPU's time: {name[:90]}")
            context.check("the profiler saw the GPU's work", found["launches"] > 0)


async def _seen(said: Said, steps: int, *, is_gpu: bool) -> dict[str, Any]:
    """What the profiler sees in about so many steps, of all threads; figures are for one step, as profiled."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    with profile(activities=kinds, experimental_config=_all_threads()) as seen:
        await said.until(said.timeline.count + 1)  # from one token on, to another
        begun, began_ns = said.timeline.count, time.time_ns()
        await said.until(begun + steps)
        took, ended_ns = said.timeline.count - begun, time.time_ns()
    if took <= 0 or seen.profiler is None or seen.profiler.kineto_results is None:
        raise RuntimeError("the answer had ended before the profiler had begun")
    raw = seen.profiler.kineto_results.events()
    events = [(e.name(), str(e.device_type()), e.start_ns(), e.duration_ns()) for e in raw]
    between = [one for one in events if began_ns <= one[2] < ended_ns]
    return counted(between, took, (ended_ns - began_ns) / 1e9) | {"events": len(events)}


def _warm_up() -> None:
    """Have the profiler's libraries loaded, which takes seconds: on the thread that they want, the main one."""
    from torch.profiler import profile

    with profile():
        pass


def _all_threads() -> Any:
    """Have operators of the batch's thread recorded, not only those of the thread that asks."""
    try:
        from torch._C._profiler import _ExperimentalConfig

        return _ExperimentalConfig(profile_all_threads=True)
    except (ImportError, TypeError):  # another torch: operators are not counted, launches are
        return None


def counted(events: Iterable[tuple[str, str, int, int]], steps: int, wall_s: float) -> dict[str, Any]:
    """Events, each with name, device, begin and length in ns, as figures for one step."""
    names: Counter[str] = Counter()
    kernels_ns: Counter[str] = Counter()
    spans: list[tuple[int, int]] = []
    for name, device, begun_ns, length_ns in events:
        if "CUDA" in device:
            kernels_ns[name] += length_ns
            spans.append((begun_ns, begun_ns + length_ns))
        else:
            names[name] += 1

    def calls(*begins: str) -> float:
        return sum(count for name, count in names.items() if name.startswith(begins)) / steps

    total_ns = sum(kernels_ns.values()) or 1
    return {
        "steps": steps,
        "step_s_while_profiled": wall_s / steps,
        "operators": calls("aten::", "bitsandbytes::"),
        "launches": calls(*_LAUNCHES),
        "synchronizations": calls(*_WAITS),
        "copies": calls(*_COPIES),
        "gpu_busy": _covered(spans) / (wall_s * 1e9),
        "longest_kernels": {name: ns / total_ns for name, ns in kernels_ns.most_common(_TOP)},
        "most_operators": {
            name: count / steps for name, count in names.most_common(40) if name.startswith("aten::")
        },
    }


def _covered(spans: list[tuple[int, int]]) -> int:
    """How much time at least one of them takes."""
    covered, until = 0, 0
    for begin, end in sorted(spans):
        covered += max(0, end - max(begin, until))
        until = max(until, end)
    return covered
