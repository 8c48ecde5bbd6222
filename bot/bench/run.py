"""`python -m bot bench`: side by side in one run, so that the figures can be compared."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bot.app import open_engine, read_catalog
from bot.bench.bare import generate
from bot.bench.peer import ask_peer
from bot.bench.report import draw, table
from bot.bench.whole_bot import WholeBot, running
from bot.bench.work import Result, Work
from bot.inference.catalog import ModelSpec
from bot.inference.local import LocalEngine
from bot.inference.memory import Footprint
from bot.inference.threads import in_own_thread
from bot.settings import Settings

_STEP_TIMEOUT_S = 1_800.0
_COPIED_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured.

    Attributes:
        alias: the model.
        users: how many at once, each a row.
        tokens: of each answer.
        peers: addresses of OpenAI-compatible servers.
        changes: whether also while another model is loaded, and after changes of models.
    """

    alias: str
    users: tuple[int, ...]
    tokens: int = 64
    peers: tuple[str, ...] = ()
    changes: bool = True


def bench(settings: Settings, plan: Plan, json_file: Path | None, plots: Path | None) -> int:
    """Measure, and print a table; the exit code is 0.

    Raises:
        BotError: the model cannot be had, or a peer does not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        quiet = settings.model_copy(
            update={"data_dir": Path(folder), "queue_limit": 1_000, "database_file": None}
        )
        results, about = asyncio.run(_measure(quiet, plan))
    sys.stdout.write(f"{table(results)}\n\n{_spoken(about)}\n")
    if json_file is not None:
        document = {"results": [one.as_json() for one in results], **about}
        json_file.write_text(json.dumps(document, indent=2), encoding="utf-8")
    if plots is not None:
        draw(results, plots)
    return 0


async def _measure(settings: Settings, plan: Plan) -> tuple[list[Result], dict[str, Any]]:
    spec = read_catalog(settings).resolve(plan.alias)
    work = Work.of(spec.sampling, plan.tokens)
    results: list[Result] = []
    async with open_engine(settings) as engine:
        assert isinstance(engine, LocalEngine)  # noqa: S101
        load_s = await _loaded(engine, spec)
        bandwidth = await in_own_thread(_bandwidth, timeout_s=_STEP_TIMEOUT_S)
        async with running(settings, engine, work, plan.alias) as bot:
            await bot.ask(1, "once")  # what is made once is made now
            footprint = engine.memory().residents[0].footprint
            for users in plan.users:
                _say(f"{users} at once")
                results.append(await _bare(engine, spec, work, users))
                for arrivals in ("once", "poisson") if users > 1 else ("once",):
                    row = await bot.ask(users, arrivals)
                    results.append(replace(row, roofline_share=_share(row, footprint, work, bandwidth)))
                results += [await ask_peer(peer, work, users, "once") for peer in plan.peers]
            if plan.changes:
                results += await _changes(engine, spec, bot, max(plan.users))
    peak_bytes = _peak_bytes()
    about = {"load_s": load_s, "bandwidth_bytes_per_s": bandwidth, "peak_memory_bytes": peak_bytes}
    return results, about | {"tokens": plan.tokens, "model": plan.alias}


async def _bare(engine: LocalEngine, spec: ModelSpec, work: Work, users: int) -> Result:
    await engine.rest()  # two threads that calculate would halve each other's speed
    with engine.pool.lease(spec) as loaded:
        return await in_own_thread(partial(generate, loaded, work, users), timeout_s=_STEP_TIMEOUT_S)


async def _changes(engine: LocalEngine, spec: ModelSpec, bot: WholeBot, users: int) -> list[Result]:
    """The same while another model is loaded, after that, and after three changes of models."""
    _say("while another model is loaded, and after changes")
    twin = spec.model_copy(update={"alias": "twin"})
    loading = asyncio.create_task(_loaded(engine, twin))
    during = await bot.ask(users, "once", system="punchline, a model being loaded")
    await loading
    after = await bot.ask(users, "once", system="punchline, after the load")
    for model in (twin, spec, twin):
        with engine.pool.lease(model) as loaded:
            await engine._batches._running(loaded)
    changed = await bot.ask(users, "once", system="punchline, after 3 changes")
    await engine.pool.unload_idle()
    return [during, after, changed]


async def _loaded(engine: LocalEngine, spec: ModelSpec) -> float:
    """Bring a model into memory; the seconds that its load took."""
    await engine.fetch(spec, lambda _: None)
    began_s = time.perf_counter()
    await engine.load(spec, lambda _: None)
    return time.perf_counter() - began_s


def _share(row: Result, footprint: Footprint, work: Work, bandwidth: float) -> float:
    """How much of the memory's bandwidth is used, if each step reads the weights once and each its own cache."""
    cache_bytes = footprint.total_bytes - footprint.weights_bytes
    per_token_bytes = footprint.weights_bytes / row.users + cache_bytes * work.tokens / 8_192
    return row.tokens_per_second * per_token_bytes / bandwidth


def _bandwidth() -> float:
    """Bytes a second that this memory reads and writes, by copying."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best_s = float("inf")
    for _ in range(5):
        began_s = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * _COPIED_BYTES / best_s


def _peak_bytes() -> int:
    """The most memory that this process has had; where that is not told, what it has now."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    except ImportError:
        return int(psutil.Process().memory_info().rss)


def _spoken(about: dict[str, Any]) -> str:
    return (
        f"{about['model']}, {about['tokens']} tokens an answer; loaded in {about['load_s']:.1f} s; memory copies at "
        f"{about['bandwidth_bytes_per_s'] / 1e9:.0f} GB/s; peak memory {about['peak_memory_bytes'] / 1e9:.2f} GB"
    )


def _say(what: str) -> None:
    sys.stderr.write(f"{what} …\n")


def parsed_users(typed: str) -> tuple[int, ...]:
    """The numbers in "1,4,8".

    Raises:
        ValueError: one is none, or less than 1.
    """
    numbers: Sequence[int] = [int(one) for one in typed.split(",")]
    if min(numbers) < 1:
        raise ValueError(typed)
    return tuple(numbers)
