"""A profile of decode steps: what a step is made of on the host and on the GPU."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu.lab import Said, ask, question, read, request
from benchmarks.gpu.stage import Context
from bot.bench.work import Timeline, at
from bot.inference.catalog import ModelSpec
from bot.inference.local import LocalEngine

# What CUPTI calls the calls of a host that starts work, and of one that waits for it.
_LAUNCHES = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cuStreamSynchronize")
_COPIES = ("cudaMemcpy", "cuMemcpy")
_ATTENTION = "aten::_scaled_dot_product_"
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
            # Of different lengths: then there is a mask, which not every kernel takes. And every second is penalized.
            request(
                spec,
                question(30_000 + 100 * people + n, 40 + 7 * n),
                tokens,
                seed=n + 1,
                repetition_penalty=1.0 + 0.1 * (n % 2),
            )
            for n in range(people)
        ]
        tasks = [asyncio.create_task(read(engine, one, into)) for one, into in zip(asked, said, strict=True)]
        try:
            for one in said:
                await one.until(10)
            begun = said[0].timeline.count
            await said[0].until(begun + timed)
            gaps_s = sorted(said[0].timeline.gaps_s[begun:])
            waits = await _waits(said[0], seen) if context.cuda else {}
            found = await _seen(said[0], seen, is_gpu=context.cuda)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        found |= {"step_p50_s": at(gaps_s, 0.5), "step_p95_s": at(gaps_s, 0.95), "steps_timed": len(gaps_s)}
        found["waits_by_line"] = waits
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
            for place, count in waits.items():
                context.say(f"  {count:4.1f} waits for the GPU a step: {place}")
            for name, share in found["longest_kernels"].items():
                context.say(f"  {share:6.1%} of the GPU's time: {name[:90]}")
            context.check("the profiler saw the GPU's work", found["launches"] > 0)
        _check_attention(context, f"for {people}", found)
    prompt = await _of_a_prompt(context, engine, spec)
    _check_attention(context, "while a prompt is read in pieces", prompt)


def _check_attention(context: Context, name: str, found: dict[str, Any]) -> None:
    """Which kernels computed attention. PyTorch takes the one that has all scores in memory where no other takes it."""
    kinds = {one.removeprefix(_ATTENTION): round(count, 2) for one, count in found["attention"].items()}
    context.say(f"  attention {name}: {kinds}")
    context.check(
        f"no attention {name} has all scores in memory, or is cuDNN's",
        not any("_math" in one or "cudnn" in one for one in kinds),
        str(kinds),
        judged=context.cuda,
    )


async def _of_a_prompt(context: Context, engine: LocalEngine, spec: ModelSpec) -> dict[str, Any]:
    """The same for a prompt of a first piece and later ones, with nobody beside."""
    from torch.profiler import profile

    asked = question(39_000, 350 if context.tiny else 3000)  # pieces of 256 and of 1,024
    with profile(activities=_activities(context.cuda), experimental_config=_all_threads()) as seen:
        begun_ns = time.time_ns()
        await ask(engine, spec, asked, 2)
        ended_ns = time.time_ns()
    found = counted(_events(seen, begun_ns, ended_ns), 1, (ended_ns - begun_ns) / 1e9)
    context.tell(of_a_prompt=found)
    return found


async def _waits(said: Said, steps: int) -> dict[str, float]:
    """Where a step waits for the GPU, by PyTorch's own account: a line of code, and how often a step."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            begun = said.timeline.count
            await said.until(begun + steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return waits_by_line(caught, max(1, said.timeline.count - begun))


def waits_by_line(caught: Iterable[warnings.WarningMessage], steps: int) -> dict[str, float]:
    """PyTorch's warnings of operations that wait, the most frequent line first, each as often as in one step."""
    lines = Counter(
        f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchronizing" in str(one.message)
    )
    return {line: count / steps for line, count in lines.most_common(_TOP)}


async def _seen(said: Said, steps: int, *, is_gpu: bool) -> dict[str, Any]:
    """What the profiler sees in about so many steps, of all threads; figures are for one step, as profiled."""
    from torch.profiler import profile

    with profile(activities=_activities(is_gpu), experimental_config=_all_threads()) as seen:
        await said.until(said.timeline.count + 1)  # from one token on, to another
        begun, began_ns = said.timeline.count, time.time_ns()
        await said.until(begun + steps)
        took, ended_ns = said.timeline.count - begun, time.time_ns()
    if took <= 0:
        raise RuntimeError("the answer had ended before the profiler had begun")
    between = _events(seen, began_ns, ended_ns)
    return counted(between, took, (ended_ns - began_ns) / 1e9) | {"events": len(between)}


def _activities(is_gpu: bool) -> list[Any]:
    from torch.profiler import ProfilerActivity

    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]


def _events(seen: Any, began_ns: int, ended_ns: int) -> list[tuple[str, str, int, int]]:
    """What the profiler has seen between two moments: name, device, begin and length."""
    if seen.profiler is None or seen.profiler.kineto_results is None:
        raise RuntimeError("the profiler has seen nothing")
    raw = seen.profiler.kineto_results.events()
    events = ((e.name(), str(e.device_type()), e.start_ns(), e.duration_ns()) for e in raw)
    return [one for one in events if began_ns <= one[2] < ended_ns]


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
        "attention": {name: count / steps for name, count in names.items() if name.startswith(_ATTENTION)},
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
