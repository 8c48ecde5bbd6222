"""Loads and unloads one model again and again in a process of its own, and prints what memory did as JSON.

python -m tests.inference.unloading CHECKPOINT ROUNDS
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import psutil

from bot.inference.catalog import ModelSpec
from bot.inference.loader import ModelLoader
from bot.inference.pool import ModelPool


async def main(folder: Path, rounds: int) -> None:
    """Print the resident set with the model loaded and without, for each round."""
    loader = ModelLoader(folder)
    loader.prepare()
    pool = ModelPool(loader, budget_bytes=10**10)
    spec = ModelSpec(alias="big", source=str(folder), context_tokens=256, description="a model")
    process = psutil.Process()
    loaded, unloaded = [], []
    for _ in range(rounds):
        await pool.fetch(spec, lambda _: None)
        await pool.load(spec, lambda _: None)
        loaded.append(process.memory_info().rss)
        await pool.unload_idle()
        unloaded.append(process.memory_info().rss)
    sys.stdout.write(json.dumps({"loaded": loaded, "unloaded": unloaded}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
