"""CUDA graphs: whether steps can be recorded at all, what repeating them gives, what it takes, and the same words."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.lab import Said, ask_all, end_batch, question, request
from benchmarks.gpu.sameness import common_start, load_exact
from benchmarks.gpu.stage import Context
from bot.bench.work import result
from bot.inference.catalog import ModelSpec
from bot.inference.local import LocalEngine

_ROUNDS = 2
_ENOUGH = 0.95  # of the tokens: in float32 two of a random model's may still be as likely as each other
_WORDS_S = 20.0  # what comparing the words takes at the least: it loads a model


async def graphs(context: Context) -> None:
    """The stage: decoding with recorded steps off and on, by turns, and the same words from both."""
    engine, spec = await context.lab.answering("llama")
    is_on = engine._batches._cuda_graphs
    try:
        await _speed(context, engine, spec)
    finally:
        engine._batches._cuda_graphs = is_on
        await end_batch(engine, spec)
    if context.left_s < _WORDS_S and context.cuda:
        context.say("too little time is left to compare the words of both in float32")
        return
    await _words(context)


async def _speed(context: Context, engine: LocalEngine, spec: ModelSpec) -> None:
    tokens = 8 if context.tiny else 64
    rates: dict[str, float] = {}
    said: dict[str, list[Said]] = {}
    found: dict[str, Any] = {}
    for number in range(1 if context.tiny else _ROUNDS):
        for name in ("off", "on"):
            await _switch(engine, spec, is_on=name == "on")
            before = context.lab.memory()
            for people in (1, 4) if context.tiny else (1, 16):
                asked = [
                    request(spec, question(80_000 + n, 40 + 7 * n), tokens, temperature=0.0)
                    for n in range(people)
                ]
                await ask_all(engine, asked)  # in which steps are recorded
                said[f"{people} {name}"] = ones = await ask_all(engine, asked)
                rate = result("engine", "once", [one.timeline for one in ones]).tokens_per_second
                rates[f"{people} {name}"] = max(rate, rates.get(f"{people} {name}", 0.0))
                context.tell(tokens_per_second=rates)
            if number == 0:
                found[name] = _counts(engine, spec) | {
                    key: value - before[key] for key, value in context.lab.memory().items() if key in before
                }
                context.tell(**{f"batch_{name}": found[name]})
    for name, rate in rates.items():
        context.say(f"graphs {name:<8} {rate:8.1f} tokens/s")
    more = found["on"].get("reserved_bytes", 0) - found["off"].get("reserved_bytes", 0)
    context.say(f"{found['on']['recorded']} steps recorded, {more / 1e6:.0f} MB more reserved than without")
    for people in (1, 4) if context.tiny else (1, 16):
        pairs = zip(said[f"{people} off"], said[f"{people} on"], strict=True)
        same = [common_start(a.ids, b.ids) for a, b in pairs]
        context.tell(**{f"equal_from_the_start_{people}": same})
        # In bfloat16 kernels for padded rows and lengths round otherwise.
        context.check(f"the same words for {people} in NF4", min(same) == tokens, f"{same}", judged=False)
    context.check(
        "steps were recorded and repeated",
        found["on"]["recorded"] > 0 and found["on"]["repeated"] > found["on"]["recorded"],
        str(found["on"]),
        judged=context.cuda,
    )


async def _words(context: Context) -> None:
    """In float32, where rounding hardly decides, with windows, seeds and a penalty."""
    lab = context.lab
    people, tokens = (3, 10) if context.tiny else (7, 48)  # and one row more that is nobody's
    spec = lab.spec("phi", quantization="none")
    async with lab.own_engine() as engine:
        await load_exact(engine, spec, context.left_s)
        asked = [
            request(
                spec,
                question(90_000 + n, 30 + 50 * n),
                tokens,
                temperature=0.7 * (n % 2),
                seed=n + 1,
                repetition_penalty=1.0 + 0.2 * (n % 3),
            )
            for n in range(people)
        ]
        said = []
        for is_on in (False, True):
            await _switch(engine, spec, is_on=is_on)
            said.append(await ask_all(engine, asked))
            context.tell(**{f"words_{'on' if is_on else 'off'}": _counts(engine, spec)})
    same = [common_start(a.ids, b.ids) for a, b in zip(*said, strict=True)]
    context.tell(equal_from_the_start_in_float32=same, tokens=tokens)
    share = sum(same) / (people * tokens)
    context.check(
        "repeated steps say the same in float32", share >= _ENOUGH, f"{same} of {tokens} tokens each"
    )


async def _switch(engine: LocalEngine, spec: ModelSpec, *, is_on: bool) -> None:
    engine._batches._cuda_graphs = is_on
    await end_batch(engine, spec)


def _counts(engine: LocalEngine, spec: ModelSpec) -> dict[str, int]:
    """How many steps of the model's batch were recorded, and repeated."""
    with engine.pool.lease(spec) as loaded:
        processor = engine._batches._all[loaded]._manager.batch_processor
    decoding = processor.inputs_and_outputs.decoding
    if decoding is None:
        return {"recorded": 0, "repeated": 0}
    return {"recorded": decoding.recorded, "repeated": decoding.repeated}
