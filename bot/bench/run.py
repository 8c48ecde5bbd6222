"""`python -m bot bench`: side by side in one run, so that the figures can be compared."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from bot.app import open_engine
from bot.bench.bare import Bare, bare
from bot.bench.joining import RUNNING, joining, spoken
from bot.bench.peer import ask_peer
from bot.bench.report import draw, table
from bot.bench.whole_bot import WholeBot, running
from bot.bench.work import Result, Work
from bot.chat.prompt import ask_messages
from bot.configured import read_catalog
from bot.inference.catalog import ModelSpec
from bot.inference.engine import GenerationRequest
from bot.inference.local import LocalEngine
from bot.inference.memory import Footprint
from bot.settings import Settings

_ROUNDS = 2
# In place of the time-outs of the queue, so that a slow machine is measured to the end.
_PATIENCE_S = 14_400.0


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
        BotError: the model cannot be had, a peer does not answer, or an answer was not finished.
    """
    with tempfile.TemporaryDirectory() as folder:
        quiet = settings.model_copy(
            update={
                "data_dir": Path(folder),
                "database_file": None,
                "queue_limit": 1_000,
                "queue_timeout_s": _PATIENCE_S,
                "load_timeout_s": _PATIENCE_S,
                "generation_timeout_s": _PATIENCE_S,
            }
        )
        results, about = asyncio.run(_measure(quiet, plan))
    sys.stdout.write(f"{table(results)}\n\n{spoken(about['joining'])}\n\n{_spoken(about)}\n")
    if json_file is not None:
        joined = [one.as_json() for one in about["joining"]]
        document = {"results": [one.as_json() for one in results], **about, "joining": joined}
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
        async with (
            bare(settings.cache_dir, spec) as generate,
            running(settings, engine, work, plan.alias) as bot,
        ):
            bandwidth = await generate.bandwidth()
            await bot.ask(1, "once")  # what is made once is made now
            footprint = engine.memory().residents[0].footprint
            for users in plan.users:
                _say(f"{users} at once")
                for row in await _side_by_side(generate, bot, work, users):
                    shares = replace(row, roofline_share=_share(row, footprint, spec, work, bandwidth))
                    results.append(shares)
                results += [await ask_peer(peer, work, users, "once") for peer in plan.peers]
            _say(f"one joins {RUNNING}")
            joined = await joining(engine, spec)
            peak_bytes = _peak_bytes()  # later, two models are in memory
            if plan.changes:
                results += await _changes(engine, spec, bot, max(plan.users))
    about = {
        "joining": joined,
        "load_s": load_s,
        "bandwidth_bytes_per_s": bandwidth,
        "peak_memory_bytes": peak_bytes,
    }
    return results, about | {"tokens": plan.tokens, "model": plan.alias}


async def _side_by_side(generate: Bare, bot: WholeBot, work: Work, users: int) -> list[Result]:
    """The better of two rounds of each, by turns, so that a busy neighbour hits both; and people who come by and by."""
    bare_rounds, bot_rounds = list[Result](), list[Result]()
    for _ in range(_ROUNDS):
        bare_rounds.append(await generate.ask(work, users))
        bot_rounds.append(await bot.ask(users, "once"))
    rows = [max(rounds, key=lambda row: row.tokens_per_second) for rounds in (bare_rounds, bot_rounds)]
    return rows if users == 1 else [*rows, await bot.ask(users, "poisson")]


async def _changes(engine: LocalEngine, spec: ModelSpec, bot: WholeBot, users: int) -> list[Result]:
    """The same while another model is loaded, after that, and after three changes of models."""
    _say("while another model is loaded, and after changes")
    # Another context makes it another model: the alias alone would not.
    twin = spec.model_copy(update={"alias": "twin", "context_tokens": spec.context_tokens + 1})
    loading = asyncio.create_task(_loaded(engine, twin))
    during = await bot.ask(users, "once", system="punchline, a model being loaded")
    await loading
    after = await bot.ask(users, "once", system="punchline, after the load")
    for model in (twin, spec, twin):
        one_token = model.sampling.model_copy(update={"max_new_tokens": 1})
        async for _ in engine.generate(GenerationRequest(model, ask_messages("Hello"), one_token)):
            pass
    changed = await bot.ask(users, "once", system="punchline, after 3 changes")
    await engine.pool.unload_idle()
    return [during, after, changed]


async def _loaded(engine: LocalEngine, spec: ModelSpec) -> float:
    """Bring a model into memory; the seconds that its load took."""
    await engine.fetch(spec, lambda _: None)
    began_s = time.perf_counter()
    await engine.load(spec, lambda _: None)
    return time.perf_counter() - began_s


def _share(row: Result, footprint: Footprint, spec: ModelSpec, work: Work, bandwidth: float) -> float:
    """How much of the memory's bandwidth is used, if each step reads the weights once and each its own cache."""
    cache_bytes = footprint.cache_bytes * work.tokens / spec.context_tokens
    per_token_bytes = footprint.weights_bytes / row.users + cache_bytes
    return row.tokens_per_second * per_token_bytes / bandwidth


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
