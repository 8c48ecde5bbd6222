"""How late the event loop is while many models write the worst texts at once.

    python -m benchmarks.loop_lag
    python -m benchmarks.loop_lag --people 16 --characters 8000

The whole bot (discord.py, queue, replies, database) runs against the stand-in for Discord. A scripted engine in the
models' place sends 16 answers at the same time, a chunk each 0.1 s. Each text is hard to cut into pages: blocks of
short lines, marks without an end, links. The same is done with ordinary words first: that lag is not the texts'.

Two figures: how late a beat of the event loop was, to which other programs on the machine add, and the processor time
of the longest callback that ran on the loop, to which they do not. The worst lag should stay under 50 ms on a machine
that is free.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bot.app import open_services
from bot.bench import discord_payloads, discord_standin
from bot.client import PunchlineBot
from bot.inference.engine import Event, GenerationRequest
from bot.inference.scripted import ScriptedEngine
from bot.ops.heartbeat import Heartbeat
from bot.settings import load_settings

CHUNK_S = 0.1
PERIOD_S = 0.01
ORDINARY = ("Ordinary words. ", "They are nothing special, and go on for a while.\n\n")
WORST = {
    "short lines of code": ("```c\n", "a\n"),
    "a block of blank lines": ("```\n", "\n"),
    "a spoiler of short lines": ("||", "a\n"),
    "bold words without an end": ("", "**a "),
    "all marks": ("", "**a __b ~~c ||d `e "),
    "links in code": ("", "`[a](https://b.c)` "),
    "links": ("", "[a](https://b.c) "),
    "one word": ("", "x"),
    "a run of flags": ("", "\N{REGIONAL INDICATOR SYMBOL LETTER J}"),
    "beginnings of escape sequences": ("", "\x9d"),
    "isolates": ("", "\u2067"),
}


class Writers(ScriptedEngine):
    """An engine whose answers differ: each is the next of its texts."""

    def __init__(self, texts: list[str], chunks: int) -> None:
        super().__init__()
        self._texts = texts
        self._chunks = chunks
        self._given = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """As `ScriptedEngine` does."""
        text = self._texts[self._given % len(self._texts)]
        self._given += 1
        size = -(-len(text) // self._chunks)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        self.script = [step for piece in pieces for step in (piece, lambda: asyncio.sleep(CHUNK_S))]
        async for event in super().generate(request):
            yield event


def long_text(first: str, repeated: str, characters: int) -> str:
    """A text of that length."""
    return (first + repeated * characters)[:characters]


class Callbacks:
    """Measures the processor time of each callback on the event loop; those that took longest."""

    def __init__(self) -> None:
        self.longest: list[tuple[float, str]] = []

    def __enter__(self) -> Callbacks:
        self._run = run = asyncio.Handle._run

        def measured(handle: asyncio.Handle) -> None:
            callback = handle._callback  # type: ignore[attr-defined]
            began_s = time.thread_time()
            run(handle)
            took_s = time.thread_time() - began_s
            if took_s > 0.002:
                task = getattr(callback, "__self__", None)
                name = task.get_coro() if isinstance(task, asyncio.Task) else callback
                self.longest.append((took_s, getattr(name, "__qualname__", repr(name))))

        asyncio.Handle._run = measured  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.Handle._run = self._run  # type: ignore[method-assign]
        self.longest.sort(reverse=True)


async def lags_of(texts: list[str], people: int, chunks: int) -> tuple[list[float], int, Callbacks]:
    """How late each beat was in seconds, how many messages and edits arrived, and the longest callbacks."""
    lags_s: list[float] = []
    engine = Writers(texts, chunks)
    with tempfile.TemporaryDirectory() as folder, discord_standin.running(0.05) as discord_side:
        settings: Any = load_settings(None, data_dir=Path(folder), cache_dir=Path(folder), queue_limit=100)
        async with open_services(settings, engine) as services, AsyncExitStack() as stack:
            services.inference._slots = people
            bot = PunchlineBot(services=services, data_dir=Path(folder))
            await bot.login("a.b.c")
            bot._connection._add_guild_from_data(discord_payloads.guild_payload(8))  # type: ignore[arg-type]
            await asyncio.sleep(1.0)
            async with Heartbeat(lags_s.append, PERIOD_S):
                callbacks = stack.enter_context(Callbacks())
                for number in range(people):
                    payload = discord_payloads.command_payload(number, "ask", number % 8, prompt="go")
                    bot._connection.parse_interaction_create(payload)  # type: ignore[arg-type]  # as the gateway would
                    await asyncio.sleep(0.02)
                while len(engine.started) < people or services.inference._followed:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await bot.close()
        return lags_s, len(discord_side.arrivals()), callbacks


def print_lags(name: str, lags_s: list[float], arrivals: int, callbacks: Callbacks) -> None:
    """Two lines."""
    lags = sorted(lags_s)
    at = [lags[min(len(lags) - 1, int(len(lags) * part))] * 1000 for part in (0.5, 0.99, 0.999)]
    print(
        f"{name:28} worst {lags[-1] * 1000:6.1f} ms   50 % {at[0]:5.1f}   99 % {at[1]:5.1f}   99.9 % {at[2]:5.1f}   "
        f"({len(lags)} beats, {arrivals} messages and edits)",
    )
    longest = [f"{took_s * 1000:.1f} ms {one}" for took_s, one in callbacks.longest[:4]]
    print(f"{'':28} longest callbacks, in processor time: {', '.join(longest)}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--characters", type=int, default=8_000, help="of each answer")
    parser.add_argument("--chunks", type=int, default=80, help="in which it comes")
    parser.add_argument("--each", action="store_true", help="each text by itself too")
    args = parser.parse_args()
    gc.collect()
    gc.freeze()  # as the bot does after its imports
    worst = {name: long_text(*text, args.characters) for name, text in WORST.items()}
    began_s = time.process_time()
    rounds = {
        "(ordinary words)": [long_text(*ORDINARY, args.characters)],
        "all the worst at once": list(worst.values()),
    }
    if args.each:
        rounds |= {name: [text] for name, text in worst.items()}
    for name, texts in rounds.items():
        print_lags(name, *asyncio.run(lags_of(texts, args.people, args.chunks)))
    print(f"{time.process_time() - began_s:.1f} s of processor time in all")


if __name__ == "__main__":
    main()
