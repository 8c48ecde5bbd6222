"""Whether company changes what is said: Gemma 2 in a batch against `generate`, and seeds while a model is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.gpu.lab import (
    Said,
    ask_all,
    equal_count,
    free_device_memory,
    loaded_s,
    on_thread,
    question,
    request,
)
from benchmarks.gpu.stage import Context
from bot.inference.catalog import ModelSpec
from bot.inference.engine import GenerationRequest
from bot.inference.local import LocalEngine

_ENOUGH = 0.95  # of Gemma's tokens: in float32 two of a random model's may still be as likely as each other


async def gemma(context: Context) -> None:
    """The stage: both in float32, where rounding does not decide, with weights that the soft cap bends."""
    lab = context.lab
    people, tokens = (4, 10) if context.tiny else (8, 24)
    spec = lab.spec("gemma", quantization="none")
    longest = 150 if context.tiny else 900
    asked = [
        request(spec, question(n, 30 + (longest - 30) * n // (people - 1)), tokens, temperature=0.0)
        for n in range(people)
    ]
    async with lab.own_engine() as engine:
        await load_exact(engine, spec, context.left_s)
        prompts = _encoded(engine, spec, asked)
        said = await ask_all(engine, asked)
    wanted = await on_thread(
        lambda: _by_generate(str(lab.checkpoint("gemma")), prompts, tokens, lab.device), context.left_s
    )
    free_device_memory()
    same = [common_start(one.ids, ids) for one, ids in zip(said, wanted, strict=True)]
    different = len({token for ids in wanted for token in ids})
    context.tell(equal_from_the_start=same, tokens=tokens, different_tokens=different)
    context.say(
        f"equal from the start, of {tokens} tokens: {', '.join(map(str, same))}; {different} different tokens in all"
    )
    share = sum(same) / (people * tokens)
    context.check(
        "the batch says what `generate` says in float32", share >= _ENOUGH, f"{share:.0%} of the tokens"
    )
    context.check(
        "the model does not just repeat itself", different > people, f"{different} different tokens"
    )


async def load_exact(engine: LocalEngine, spec: ModelSpec, limit_s: float) -> None:
    """Have a model in memory that computes in float32: what it says hardly depends on the company, then."""
    await loaded_s(engine, spec)

    def convert() -> None:
        with engine.pool.lease(spec) as loaded:
            for module in loaded.model.modules():
                vars(module).pop("forward", None)  # a quicker one of the bot's, for bfloat16
            loaded.model.float()

    await on_thread(convert, limit_s)


def _encoded(engine: LocalEngine, spec: ModelSpec, asked: list[GenerationRequest]) -> list[list[int]]:
    with engine.pool.lease(spec) as loaded:
        return [loaded.encode(one.messages) for one in asked]


def _by_generate(folder: str, prompts: list[list[int]], tokens: int, device: str) -> list[list[int]]:
    """What transformers says to each alone, with its own attention, which minds the soft cap."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", device_map=device
    )
    found = []
    with torch.inference_mode():
        for ids in prompts:
            read = torch.tensor([ids], device=device)
            whole = model.generate(
                inputs=read,
                attention_mask=torch.ones_like(read),
                do_sample=False,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
            )
            found.append(whole[0, len(ids) :].tolist())
    return found


def common_start(first: Any, second: Any) -> int:
    """How many tokens are the same before the first that is not."""
    for count, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return count
    return min(len(first), len(second))


async def seeds(context: Context) -> None:
    """The stage: the same sixteen, twice by themselves and once while another model is loaded.

    In float32, or rounding would decide: in bfloat16 it depends on who else is read in the same step.
    """
    lab = context.lab
    people, tokens = (4, 16) if context.tiny else (16, 96)
    spec, other = lab.spec("phi", quantization="none"), lab.spec("gemma")

    async with lab.own_engine() as engine:

        async def all_say() -> list[Said]:
            return await ask_all(
                engine, [request(spec, question(n, 40), tokens, seed=100 + n) for n in range(people)]
            )

        await load_exact(engine, spec, context.left_s)
        await all_say()  # from here on their questions are in the cache
        first, again = await all_say(), await all_say()
        beside, loads = await _while_loading(engine, other, all_say)
    alone = equal_count(first, again)
    loaded = equal_count(first, beside)
    common = [common_start(a.ids, b.ids) for a, b in zip(first, beside, strict=True)]
    context.tell(people=people, equal_alone=alone, equal_beside_a_load=loaded, common=common, loads=loads)
    context.say(
        f"equal of {people}: {alone} without a load, {loaded} while another model was loaded ({loads} loads)"
    )
    context.check(
        "a load beside them changes no word",
        loaded >= alone,
        f"{loaded} of {people} equal with it, {alone} without; tokens in common {common}",
        judged=alone == people,
    )


async def _while_loading(
    engine: LocalEngine, other: ModelSpec, all_say: Callable[[], Coroutine[Any, Any, list[Said]]]
) -> tuple[list[Said], int]:
    """What is said while a model is loaded and unloaded again and again; and how often it was."""
    loads = 0
    saying: asyncio.Task[list[Said]] = asyncio.create_task(all_say())
    while not saying.done():
        await loaded_s(engine, other)
        loads += 1
        if not saying.done():
            await engine.pool.unload_idle()
    return await saying, loads
