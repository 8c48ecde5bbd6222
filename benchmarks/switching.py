"""What it costs to change between two models that are both in memory: the time to the first token.

    python -m benchmarks.switching [--rounds 15]

Two aliases of the embedded model, each loaded with weights of its own, answer the same prompt in one process: one of
them again and again, then both by turns. Prints both medians and their difference.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Sequence

from bot.app import open_engine
from bot.chat.prompt import joke_messages
from bot.inference.catalog import ModelSpec, SamplingParams, load_catalog
from bot.inference.embedded import checkpoint_path
from bot.inference.engine import Finished, GenerationRequest
from bot.inference.queue import InferenceQueue
from bot.settings import load_settings

_PARAMS = SamplingParams(max_new_tokens=8, min_new_tokens=8, seed=1)


async def first_token_s(queue: InferenceQueue, spec: ModelSpec) -> float:
    """Ask once; from the request to its first token."""
    loop = asyncio.get_running_loop()
    messages = joke_messages(topic="databases", audience="a room of data scientists")
    asked_s = loop.time()
    first_s = None
    async with queue.submit(GenerationRequest(spec, messages, _PARAMS)) as generation:
        async for event in generation:
            if first_s is None and not isinstance(event, Finished):
                first_s = loop.time() - asked_s
    assert first_s is not None
    return first_s


async def compare(rounds: int) -> None:
    """Measure both and print."""
    settings = load_settings(None)
    smol = load_catalog()["smol"]
    folder = checkpoint_path(settings.cache_dir)
    # The same key would be the same weights in memory: another context makes another model.
    aliases = {"left": smol.context_tokens, "right": smol.context_tokens + 1}
    specs = [
        smol.model_copy(update={"alias": alias, "source": str(folder), "context_tokens": tokens})
        for alias, tokens in aliases.items()
    ]
    async with open_engine(settings) as engine, InferenceQueue(engine) as queue:
        for spec in specs:  # loads them, and has each answer once
            await engine.fetch(smol, lambda _: None)
            await first_token_s(queue, spec)
            await first_token_s(queue, spec)
        staying: list[float] = []
        switching: list[float] = []
        for number in range(rounds):  # by turns, so that the machine's moods hit both
            spec = specs[number % 2]
            staying += [await first_token_s(queue, spec) for _ in range(2)][1:]
            switching.append(await first_token_s(queue, specs[(number + 1) % 2]))
    _report(staying, switching)


def _report(staying: Sequence[float], switching: Sequence[float]) -> None:
    same_ms, other_ms = (1000 * statistics.median(times) for times in (staying, switching))
    print(f"first token, the same model as before   {same_ms:6.1f} ms  ({len(staying)} times)")
    print(f"first token, the other of two in memory {other_ms:6.1f} ms  ({len(switching)} times)")
    print(f"a change of models adds                 {other_ms - same_ms:+6.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    asyncio.run(compare(parser.parse_args().rounds))
