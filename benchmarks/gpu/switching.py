"""Changes of models under a budget for one: how long each takes, and what memory has after it."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.gpu.lab import ask, loaded_s, question
from benchmarks.gpu.stage import Context
from bot.inference.anatomy import examine

_ORDER = ("llama", "gemma", "mixtral", "llama")
_CREPT_BYTES = 128e6
_ROOM = 1.05  # times what the largest needs: nothing fits beside it


async def switching(context: Context) -> None:
    """The stage."""
    lab = context.lab
    specs = {alias: lab.spec(alias) for alias in dict.fromkeys(_ORDER)}
    needs = {}
    for alias, spec in specs.items():
        anatomy = examine(lab.folder / alias, spec)
        needs[alias] = anatomy.footprint(anatomy.context_tokens).total_bytes
    budget = int(max(needs.values()) * _ROOM)
    rows: list[dict[str, Any]] = []
    async with lab.own_engine(gpu_memory_budget=budget) as engine:
        empty = lab.memory()
        for turn in range(2):
            for alias in _ORDER:
                spec, was_there = specs[alias], engine.ready(specs[alias])
                began_s = time.perf_counter()
                load_s = 0.0 if was_there else await loaded_s(engine, spec)
                said = await ask(engine, spec, question(turn), 8)
                first_s = said.timeline.tokens[0][0] - began_s
                resident = [one.alias for one in engine.memory().residents]
                rows.append(
                    {
                        "alias": alias,
                        "turn": turn,
                        "load_s": round(load_s, 2),
                        "first_token_s": round(first_s, 2),
                    }
                    | {"resident": resident, **lab.memory()}
                )
                context.tell(budget_bytes=budget, needs_bytes=needs, rows=rows)
                gpu = rows[-1].get("allocated_bytes")
                context.say(
                    f"{turn + 1}. {alias:<8} load {load_s:5.1f} s, first word after {first_s:5.1f} s, "
                    + (f"{gpu / 1e9:.2f} GB allocated, " if gpu is not None else "")
                    + f"RAM {rows[-1]['ram_bytes'] / 1e9:.2f} GB, in memory: {', '.join(resident)}"
                )
                reserved = engine.memory().reserved_bytes
                context.check(
                    f"what is in memory with {alias} is within the budget, {turn + 1}.",
                    reserved <= budget,
                    f"{reserved / 1e9:.2f} of {budget / 1e9:.2f} GB",
                )
        await engine.pool.unload_idle()
        after = lab.memory()
    name = "allocated_bytes" if context.cuda else "ram_bytes"
    crept = [
        second[name] - first[name]
        for first, second in zip(rows[: len(_ORDER)], rows[len(_ORDER) :], strict=True)
    ][1:]  # in the first round, what is made once is made
    left = after[name] - empty[name]
    context.tell(after=after, crept_bytes=crept, left_bytes=left)
    context.say(f"in the second turn {max(crept) / 1e6:+.0f} MB at the most; after all {left / 1e6:+.0f} MB")
    context.check(
        "the second turn takes no more memory", max(crept) < _CREPT_BYTES, f"{max(crept) / 1e6:+.0f} MB"
    )
    context.check(
        "nothing is left when all are gone", left < _CREPT_BYTES, f"{left / 1e6:+.0f} MB", judged=context.cuda
    )
