"""How fast: the engine, `generate` by itself, cuDNN's attention, a long prompt beside others, and the whole bot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from statistics import mean, median
from typing import Any
from unittest import mock

from benchmarks.gpu.lab import (
    Said,
    ask,
    ask_all,
    end_batch,
    free_device_memory,
    on_thread,
    question,
    read,
    request,
)
from benchmarks.gpu.stage import Context
from bot.bench.bare import padded
from bot.bench.whole_bot import running
from bot.bench.work import Result, Timeline, Work, at, result
from bot.inference import sizes
from bot.inference.attention import use_cudnn
from bot.inference.catalog import ModelSpec
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.local import LocalEngine

_PEOPLE = (1, 8, 16, 32)
_COMPARED = (1, 16)
_ROUNDS = 2
_BUG_BELOW = 0.95  # of `generate` for as many
_PIECES = (512, 1024, 2048, 4096)  # of a long prompt, in tokens


def _tokens(context: Context) -> int:
    return 8 if context.tiny else 48


def _lengths(people: int, kind: str, longest: int) -> list[int]:
    """How many tokens each question has."""
    if kind == "equal":
        return [40] * people
    return [40 + (longest - 40) * number // max(1, people - 1) for number in range(people)]


async def _round(
    engine: LocalEngine, spec: ModelSpec, lengths: Sequence[int], tokens: int, first: int
) -> Result:
    """So many ask at once; none begins like one that was asked before."""
    asked = [
        request(spec, question(first + n, length), tokens, seed=n + 1) for n, length in enumerate(lengths)
    ]
    said = await ask_all(engine, asked)
    return result("engine", "once", [one.timeline for one in said])


def _row(one: Result) -> dict[str, Any]:
    return {name: value for name, value in one.as_json().items() if value is not None}


def _spoken(name: str, one: Result) -> str:
    between = (
        "" if one.between_tokens_p95_s is None else f", between p95 {one.between_tokens_p95_s * 1e3:.1f} ms"
    )
    first = "" if one.first_token_median_s is None else f", first {one.first_token_median_s * 1e3:.0f} ms"
    return f"{name:<26} {one.tokens_per_second:8.1f} tokens/s{first}{between}"


async def engine(context: Context) -> None:
    """The stage: people at the engine."""
    engine, spec = await context.lab.answering("llama")
    tokens, longest = _tokens(context), 200 if context.tiny else 1500
    rows: dict[str, Any] = {}
    for people in _PEOPLE[: 2 if context.tiny else None]:
        for kind in ("equal",) if people == 1 else ("equal", "mixed"):
            rounds = []
            for number in range(1 if context.tiny else _ROUNDS):
                lengths = _lengths(people, kind, longest)
                rounds.append(
                    await _round(
                        engine, spec, lengths, tokens, 1000 * people + 100 * number + 50 * (kind == "mixed")
                    )
                )
            best = max(rounds, key=lambda one: one.tokens_per_second)
            rows[f"{people} {kind}"] = _row(best)
            context.tell(rows=rows, tokens=tokens)
            context.say(_spoken(f"{people} at once, {kind}", best))


async def generate(context: Context) -> None:
    """The stage: the same questions to transformers' own `generate`, as one padded batch, beside the engine again."""
    await _beside_generate(context)
    free_device_memory()


async def _beside_generate(context: Context) -> None:
    lab, tokens = context.lab, _tokens(context)
    engine, spec = await lab.answering("llama")
    began_s = time.perf_counter()
    loader = ModelLoader(lab.settings().cache_dir, plain=True)
    plain = await on_thread(lambda: loader.load(spec, lambda *_: None), context.left_s)
    context.tell(plain_load_s=round(time.perf_counter() - began_s, 2))
    rows: dict[str, Any] = {}
    for people in (1, 4) if context.tiny else _COMPARED:
        await engine.rest()
        took_s = await on_thread(partial(_bare_s, plain, spec, people, tokens), context.left_s)
        rate = people * tokens / took_s
        ours = await _round(engine, spec, [40] * people, tokens, 5000 + 100 * people)
        share = ours.tokens_per_second / rate
        rows[str(people)] = {
            "tokens_per_second": rate,
            "engine_tokens_per_second": ours.tokens_per_second,
            "share": share,
        }
        context.tell(rows=rows, tokens=tokens)
        context.say(
            f"{people} at once: generate {rate:.1f} tokens/s, the engine {ours.tokens_per_second:.1f}"
        )
        context.check(
            f"the engine is not slower than `generate` for {people}",
            share >= _BUG_BELOW,
            f"{share:.2f} of it",
            judged=context.cuda,
        )


def _bare_s(plain: LoadedModel, spec: ModelSpec, people: int, tokens: int) -> float:
    """What `generate` takes, after a few tokens that make what is made once."""
    asked = [request(spec, question(n, 40), tokens, seed=1) for n in range(people)]
    prompts = [plain.encode(one.messages) for one in asked]
    for length in (2, tokens):
        fixed = {"max_new_tokens": length, "min_new_tokens": length}
        took_s = padded(plain, prompts, asked[0].params.model_copy(update=fixed))
    return took_s


async def cudnn(context: Context) -> None:
    """The stage: the same with PyTorch's cuDNN attention and without, by turns, and what one call takes of the host."""
    import torch

    engine, spec = await context.lab.answering("llama")
    before = torch.backends.cuda.cudnn_sdp_enabled()
    context.tell(is_on_as_the_bot_sets_it=bool(before))
    rates: dict[str, list[float]] = {}
    gaps_s: dict[str, list[float]] = {}
    try:
        for number in range(2):
            for people in (1,) if context.tiny else _COMPARED:
                for name, is_on in (("off", False), ("on", True)):
                    use_cudnn(is_on)
                    kind = "equal" if people == 1 else "mixed"
                    one = await _round(
                        engine,
                        spec,
                        # Each time as long as never before: what cuDNN has a plan for already shows nothing.
                        [length + 100 * number for length in _lengths(people, kind, 400)],
                        _tokens(context),
                        9000 + 500 * number + people * 20 + is_on * 50,
                    )
                    rates.setdefault(f"{people} {name}", []).append(one.tokens_per_second)
                    gaps_s.setdefault(f"{people} {name}", []).append(one.between_tokens_p95_s or 0.0)
        if context.cuda:
            for name, is_on in (("off", False), ("on", True)):
                use_cudnn(is_on)
                context.tell(**{f"one_call_{name}": _one_call()})
    finally:
        use_cudnn(before)
    best = {name: max(values) for name, values in rates.items()}
    context.tell(tokens_per_second=best, between_p95_s={name: min(values) for name, values in gaps_s.items()})
    for name, rate in best.items():
        context.say(f"{name:<8} {rate:8.1f} tokens/s")
    shares = {
        people: best[f"{people} off"] / best[f"{people} on"]
        for people in ((1,) if context.tiny else _COMPARED)
    }
    context.check("the bot has cuDNN's attention off", not before)
    context.check(
        "off is not slower than on",
        min(shares.values()) > _BUG_BELOW,
        ", ".join(f"{share:.2f} of on for {people}" for people, share in shares.items()),
        judged=False,
    )


def _one_call() -> dict[str, float]:
    """What attention of one token costs on the host: for a number of keys that is new, and for the same again."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    def timed(keys: int) -> float:
        query = torch.randn(1, 8, 4, 128, device="cuda", dtype=torch.bfloat16)
        key = torch.randn(1, 8, keys, 128, device="cuda", dtype=torch.bfloat16)
        torch.cuda.synchronize()
        began_s = time.perf_counter()
        scaled_dot_product_attention(query, key, key)
        torch.cuda.synchronize()
        return time.perf_counter() - began_s

    timed(64)
    lengths = range(700, 716)
    return {
        "new_length_s": median(timed(n) for n in lengths),
        "same_length_s": median(timed(n) for n in lengths),
    }


async def long_prompt(context: Context) -> None:
    """The stage: one with a long prompt, alone, and joining people who are being answered."""
    engine, spec = await context.lab.answering("llama")
    length, beside = (250, 3) if context.tiny else (6000, 15)
    alone = await ask(engine, spec, question(70_000, length), 4)
    others = [Said(Timeline(time.perf_counter())) for _ in range(beside)]
    more = 40 if context.tiny else 400
    tasks = [
        asyncio.create_task(read(engine, request(spec, question(71_000 + n, 40), more, seed=n + 1), one))
        for n, one in enumerate(others)
    ]
    try:
        await asyncio.gather(*(one.until(10) for one in others))
        before_s = [gap for one in others for gap in one.timeline.gaps_s[1:]]
        asked_s = time.perf_counter()
        joined = await ask(engine, spec, question(72_000, length), 4)
        first_s = joined.timeline.tokens[0][0]
        still = sum(not one.timeline.ended for one in others)
        during_s = [
            b[0] - a[0]
            for one in others
            for a, b in zip(one.timeline.tokens, one.timeline.tokens[1:], strict=False)
            if a[0] >= asked_s and b[0] <= first_s
        ]
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    took_s = first_s - asked_s
    context.tell(
        prompt_tokens=joined.prompt_tokens,
        alone_first_token_s=alone.timeline.first_token_s,
        beside_first_token_s=took_s,
        still_running=still,
        others_step_s=mean(before_s),
        others_gap_while_read_worst_s=max(during_s, default=0.0),
        others_gap_while_read_p95_s=at(sorted(during_s), 0.95) if during_s else 0.0,
    )
    rate = alone.prompt_tokens / alone.timeline.first_token_s
    context.say(
        f"{alone.prompt_tokens} tokens alone: first word after {alone.timeline.first_token_s:.2f} s "
        f"({rate:.0f} tokens/s read); beside {beside}: {took_s:.2f} s"
    )
    context.say(
        f"the others had a token each {mean(before_s) * 1e3:.0f} ms before, and waited "
        f"{max(during_s, default=0.0) * 1e3:.0f} ms at the most while it was read"
    )
    context.check("nobody's answer failed beside it", not any(one.error for one in others))
    await _pieces(context, engine, spec, length)


async def _pieces(context: Context, engine: LocalEngine, spec: ModelSpec, length: int) -> None:
    """How fast a long prompt is read in pieces of other sizes than the bot's."""
    rates: dict[str, float] = {}
    for tokens in (64, 128) if context.tiny else _PIECES:
        await end_batch(engine, spec)
        with mock.patch.multiple(sizes, GPU_STEP_TOKENS=tokens, STEP_TOKENS=tokens):
            await ask(engine, spec, question(73_000 + tokens, length), 2)  # what is made once is made
            said = await ask(engine, spec, question(74_000 + tokens, length), 2)
        rates[str(tokens)] = said.prompt_tokens / said.timeline.first_token_s
        context.tell(read_in_pieces=rates)
    await end_batch(engine, spec)
    with engine.pool.lease(spec) as loaded:
        ours = sizes.step_tokens_of(loaded.model)
    context.say(
        "read in pieces of "
        + ", ".join(f"{tokens}: {rate:.0f} tokens/s" for tokens, rate in rates.items())
        + f"; the bot's are {ours}"
    )


async def whole_bot(context: Context) -> None:
    """The stage: commands from the gateway to edits over HTTP, by `bench`'s own means."""
    engine, spec = await context.lab.answering("llama")
    people = (1, 4) if context.tiny else _COMPARED
    tokens = _tokens(context)
    work = Work.of(spec.sampling, tokens)
    settings = context.lab.settings(queue_limit=1000)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Any] = {}
    async with running(settings, engine, work, spec.alias) as bot:
        await bot.ask(1, "once")
        for users in people:
            rounds = [await bot.ask(users, "once") for _ in range(1 if context.tiny else _ROUNDS)]
            best = max(rounds, key=lambda one: one.tokens_per_second)
            rows[str(users)] = _row(best)
            context.tell(rows=rows, tokens=tokens)
            context.say(
                _spoken(f"the whole bot, {users}", best)
                + f", worst lag {(best.loop_lag_worst_s or 0) * 1e3:.0f} ms"
            )
