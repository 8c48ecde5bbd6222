"""What the whole path costs: a bare `model.generate` against the same tokens through the bot.

    python -m benchmarks.overhead [--tokens 128] [--rounds 7] [--latency 0.05]

Both sides run in this process, by turns, with the same model object, thread, prompt, sampling and seeds. The
bot's side is everything: a slash command as Discord's gateway sends it, real discord.py, the queue, the
executor, streaming, and edits over HTTP to a stand-in for Discord in a process of its own. Prints tokens/s of
both and their ratio, when the first words and the end were seen by Discord, and the event loop's lag.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bot.app import open_engine, open_services
from bot.bench import discord_payloads, discord_standin
from bot.bench.bare import padded
from bot.client import PunchlineBot
from bot.inference.catalog import SamplingParams
from bot.inference.engine import Finished, GenerationRequest
from bot.inference.generation import Generation
from bot.inference.local import LocalEngine
from bot.inference.threads import in_own_thread
from bot.ops.heartbeat import Heartbeat
from bot.replies.keep import NOTHING, Keep
from bot.replies.live import LiveReply
from bot.services import Services
from bot.settings import NO_LIMITS, load_settings

_LAG_PERIOD_S = 0.005


class MeasuredReply(LiveReply):
    """Hands over how each reply ended, once its end is shown."""

    ended: asyncio.Queue[Finished] = asyncio.Queue()

    async def follow(self, generation: Generation, keep: Keep = NOTHING) -> Finished:
        """Follow as usual."""
        finished = await super().follow(generation, keep)
        self.ended.put_nowait(finished)
        return finished


def bare(engine: LocalEngine, request: GenerationRequest) -> float:
    """Seconds of `model.generate` alone, for the same request."""
    with engine.pool.lease(request.model) as loaded:
        return padded(loaded, [loaded.encode(request.messages)], request.params)


class Asked:
    """What one command through the whole bot took."""

    def __init__(
        self, started_s: float, arrivals: Sequence[discord_standin.Arrival], finished: Finished
    ) -> None:
        words = [a for a in arrivals if a.content and not a.content.startswith("-#")]
        self.first_words_s = words[0].at_s - started_s
        self.end_s = words[-1].at_s - started_s
        self.edits = len(arrivals)
        self.model_s = finished.usage.generation_s
        self.tokens = finished.usage.completion_tokens


async def ask(bot: PunchlineBot, discord_side: discord_standin.StandIn, number: int) -> Asked:
    """Send one `/joke` through the whole bot and wait for its end."""
    started_s = time.monotonic()
    payload = discord_payloads.command_payload(number, "joke", topic="databases", model="smol")
    bot._connection.parse_interaction_create(payload)  # type: ignore[arg-type]  # as the gateway would
    finished = await MeasuredReply.ended.get()
    return Asked(started_s, discord_side.arrivals(), finished)


async def compare(tokens: int, rounds: int, latency_s: float) -> None:
    """Run both sides by turns and print what came out."""
    settings = load_settings(None, data_dir=Path(tempfile.mkdtemp()), max_new_tokens=tokens, **NO_LIMITS)
    fixed = {"max_new_tokens": tokens, "min_new_tokens": tokens, "seed": 1}
    with discord_standin.running(latency_s) as discord_side:
        async with (
            open_engine(settings) as engine,
            open_services(settings, engine, reply_class=MeasuredReply) as services,
        ):
            assert isinstance(engine, LocalEngine)
            spec = services.chooser._catalog["smol"]
            spec = spec.model_copy(update={"sampling": spec.sampling.model_copy(update=fixed)})
            services.chooser._catalog._specs["smol"] = spec
            bot = PunchlineBot(services=services, data_dir=settings.data_dir)
            await bot.login("a.b.c")
            try:
                await _measure(bot, engine, services, discord_side, rounds)
            finally:
                await bot.close()


async def _measure(
    bot: PunchlineBot,
    engine: LocalEngine,
    services: Services,
    discord_side: discord_standin.StandIn,
    rounds: int,
) -> None:
    await ask(bot, discord_side, 0)  # loads the model
    request = await _last_request(services)
    bares: list[float] = []
    asks: list[Asked] = []
    lags_s: list[float] = []
    for number in range(1, rounds + 1):
        await engine.rest()
        bares.append(await in_own_thread(partial(bare, engine, request), timeout_s=600))
        asks.append(await ask(bot, discord_side, number))
    for number in range(rounds + 1, 2 * rounds + 1):
        # In rounds of their own: the meter wakes the loop 200 times a second, which costs the model something.
        async with Heartbeat(lags_s.append, _LAG_PERIOD_S):
            await ask(bot, discord_side, number)
    _report(request.params, bares, asks, lags_s)


async def _last_request(services: Services) -> GenerationRequest:
    from bot.chat.prompt import joke_messages

    messages = joke_messages(topic="databases", audience=services.default_audience)
    spec = services.chooser._catalog["smol"]
    return GenerationRequest(spec, messages, spec.sampling)


def _report(params: SamplingParams, bares: list[float], asks: list[Asked], lags_s: list[float]) -> None:
    tokens = params.max_new_tokens
    assert all(asked.tokens == tokens for asked in asks)
    bare_rate = tokens / statistics.median(bares)
    bot_rate = tokens / statistics.median(asked.model_s for asked in asks)
    whole_rate = tokens / statistics.median(asked.end_s for asked in asks)
    pairs = [b / asked.model_s for b, asked in zip(bares, asks, strict=True)]
    lags = sorted(lags_s)
    print(f"{len(asks)} rounds of {tokens} tokens, smol in NF4, {os.cpu_count()} cores")
    print(f"bare model.generate        {bare_rate:6.1f} tokens/s")
    print(f"through the whole bot      {bot_rate:6.1f} tokens/s while the model runs")
    print(f"  from command to the end  {whole_rate:6.1f} tokens/s, Discord's latency included")
    print(
        f"ratio of the medians       {bot_rate / bare_rate:6.3f}   of pairs {min(pairs):.3f} to {max(pairs):.3f}"
    )
    print(
        f"first words seen after     {statistics.median(a.first_words_s for a in asks):6.2f} s (worst "
        f"{max(a.first_words_s for a in asks):.2f} s)"
    )
    print(f"edits a reply              {statistics.median(a.edits for a in asks):6.1f}")
    print(
        f"event loop lag             worst {1000 * lags[-1]:.1f} ms, 99 % under "
        f"{1000 * lags[int(0.99 * len(lags))]:.1f} ms ({len(lags)} samples)"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--latency", type=float, default=0.05, metavar="S", help="of the stand-in for Discord"
    )
    args = parser.parse_args()
    asyncio.run(compare(args.tokens, args.rounds, args.latency))


if __name__ == "__main__":
    main()
