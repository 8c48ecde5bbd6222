"""Loads: how long, with how much memory, whether the copy says the same, and what is left after unloading."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.lab import (
    ask,
    ask_all,
    batch_of,
    equal_count,
    keep_caches_small,
    loaded_s,
    question,
    request,
)
from benchmarks.gpu.stage import Context
from bot.inference.catalog import ModelSpec
from bot.inference.local import LocalEngine

# What CUDA itself may keep after everything is unloaded: workspaces, kernels, a stream's pool.
_LEFT_BYTES = 128e6
# The estimate decides what fits: it may be too high by this factor, and too low by what is forgotten in rounding.
_TOO_HIGH, _TOO_LOW = 1.3, 1.03


async def load(context: Context) -> None:
    """The stage: Llama for the first time, from its quantized copy, and after unloading."""
    lab, tokens = context.lab, 12 if context.tiny else 48
    spec = lab.spec("llama")
    async with lab.own_engine() as engine:
        keep_caches_small(engine)
        before = lab.memory()
        first = await _loaded(context, engine, spec, "first load")
        said = await _answers(engine, spec, tokens)
        await _against_estimate(context, engine, spec, before)
        await engine.pool.unload_idle()
        _after_unload(context, "after unloading", before)
        again = await _loaded(context, engine, spec, "reload from the quantized copy")
        told = await _answers(engine, spec, tokens)
        same = equal_count(said, told)
        context.tell(greedy_answers_equal=same, greedy_answers=len(said))
        context.check(
            "the quantized copy says the same greedy tokens", same == len(said), f"{same} of {len(said)}"
        )
        context.check(
            "the reload is faster than the first load",
            again < first,
            f"{again:.1f} s and {first:.1f} s",
            judged=context.cuda,
        )
        await _with_larger_cache(context, engine, spec, before)
        await engine.pool.unload_idle()
        _after_unload(context, "after unloading again", before)


async def _with_larger_cache(
    context: Context, engine: LocalEngine, spec: ModelSpec, before: dict[str, int]
) -> None:
    """On a GPU the cache takes what nobody needs: how large it is, and whether that much is counted."""
    lab = context.lab
    keep_caches_small(engine, small=False)
    async with lab.peaks() as peak:
        await ask(engine, spec, question(1), 4)
        lab.synchronize()
    contexts = batch_of(engine, spec).cache_tokens / spec.context_tokens
    counted = engine.memory().reserved_bytes + engine._batches._held_beside()
    context.tell(cache_contexts=contexts, counted_with_it_bytes=counted, peak_with_it=peak)
    context.say(f"the cache has {contexts:.1f} contexts of {spec.context_tokens} tokens")
    if "allocated_bytes" in peak:
        took = peak["allocated_bytes"] - before["allocated_bytes"]
        context.check("the cache is larger than one context", contexts > 1, f"{contexts:.1f}")
        context.check(
            "with it the bot takes what it counts",
            took <= counted * _TOO_LOW,
            f"{took / 1e9:.2f} of {counted / 1e9:.2f} GB",
        )


async def _answers(engine: LocalEngine, spec: ModelSpec, tokens: int) -> list[Any]:
    """Greedy answers one by one: what company does to rounding is not part of it."""
    return [await ask(engine, spec, question(number), tokens, temperature=0.0) for number in range(3)]


async def _loaded(context: Context, engine: LocalEngine, spec: ModelSpec, name: str) -> float:
    async with context.lab.peaks() as peak:
        took_s = await loaded_s(engine, spec)
        context.lab.synchronize()
    now = context.lab.memory()
    found = {"seconds": round(took_s, 2), "peak": peak, "after": now}
    context.tell(**{name.replace(" ", "_"): found})
    gpu = f", GPU peak {peak['allocated_bytes'] / 1e9:.2f} GB" if "allocated_bytes" in peak else ""
    context.say(f"{name}: {took_s:.1f} s{gpu}, RAM peak {peak['ram_bytes'] / 1e9:.2f} GB")
    return took_s


async def _against_estimate(
    context: Context, engine: LocalEngine, spec: ModelSpec, before: dict[str, int]
) -> None:
    """What was estimated, and what a model with a full context really takes."""
    lab = context.lab
    footprint = engine.memory().residents[0].footprint
    length = spec.context_tokens - 32
    async with lab.peaks() as peak:
        await ask_all(engine, [request(spec, question(0, length * 2 // 3), 8)])
        lab.synchronize()
    estimated = {
        "weights_bytes": footprint.weights_bytes,
        "cache_bytes": footprint.cache_bytes,
        "working_bytes": footprint.working_bytes,
        "total_bytes": footprint.total_bytes,
    }
    found: dict[str, Any] = {"estimated": estimated, "while_answering": peak}
    context.tell(**{f"memory_of_{spec.alias}": found})
    if "allocated_bytes" not in peak:
        context.say(f"estimated {footprint.total_bytes / 1e6:.1f} MB; what it takes is told on a GPU alone")
        return
    took = peak["allocated_bytes"] - before["allocated_bytes"]
    reserved = peak["reserved_bytes"] - before["reserved_bytes"]
    share = took / footprint.total_bytes
    found |= {"took_bytes": took, "reserved_bytes": reserved, "took_of_estimate": round(share, 3)}
    context.tell(**{f"memory_of_{spec.alias}": found})
    context.say(
        f"{spec.alias}: took {took / 1e9:.2f} GB ({reserved / 1e9:.2f} GB reserved) of "
        f"{footprint.total_bytes / 1e9:.2f} GB estimated: weights {footprint.weights_bytes / 1e9:.2f}, "
        f"cache {footprint.cache_bytes / 1e9:.2f}, working {footprint.working_bytes / 1e9:.2f}"
    )
    context.check(
        f"the estimate of {spec.alias} is not too low", share <= _TOO_LOW, f"took {share:.0%} of it"
    )
    context.check(
        f"the estimate of {spec.alias} is not far too high",
        share * _TOO_HIGH >= 1,
        f"took {share:.0%}",
        judged=False,
    )


def _after_unload(context: Context, name: str, before: dict[str, int]) -> None:
    now = context.lab.memory()
    context.tell(**{name.replace(" ", "_"): now})
    if "allocated_bytes" not in now:
        return
    left = now["allocated_bytes"] - before["allocated_bytes"]
    context.say(f"{name}: {left / 1e6:+.1f} MB allocated, {now['gpu_used_bytes'] / 1e9:.2f} GB used in all")
    context.check(f"{name}, its memory is free", left < _LEFT_BYTES, f"{left / 1e6:+.1f} MB")


async def families(context: Context) -> None:
    """The stage: the other models of the catalogue, in few layers."""
    lab, tokens = context.lab, 8 if context.tiny else 32
    for alias in ("phi", "qwen", "mixtral"):
        async with lab.own_engine() as engine:
            keep_caches_small(engine)
            spec = lab.spec(alias)
            before = lab.memory()
            await _loaded(context, engine, spec, f"{alias} first load")
            await ask(engine, spec, "Hello", 2)
            said = await ask_all(
                engine, [request(spec, question(n, 20 + 40 * n), tokens, temperature=0.0) for n in range(4)]
            )
            context.check(
                f"{alias} answers four at once", all(len(one.ids) == tokens for one in said), judged=True
            )
            await _against_estimate(context, engine, spec, before)
            await engine.pool.unload_idle()
            _after_unload(context, f"{alias} after unloading", before)
