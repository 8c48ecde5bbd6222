"""Loads and unloads one model again and again in a process of its own, and prints what memory did as JSON.

python -m tests.inference.unloading CHECKPOINT ROUNDS
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import psutil
import torch

from bot.inference.catalog import ModelSpec
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.pool import ModelPool


async def main(folder: Path, rounds: int) -> None:
    """Print the memory of the device that models are on, with the model loaded and without, for each round.

    safetensors maps its files, so that a weight takes memory from when it is first read. Where bitsandbytes has a
    kernel for the CPU, the load reads all weights to lay them out for it; elsewhere the answers do. So all are read
    here.
    """
    loader = ModelLoader(folder)
    loader.prepare()
    pool = ModelPool(loader, budget_bytes=10**10)
    spec = ModelSpec(alias="big", source=str(folder), context_tokens=256, description="a model")
    loaded, unloaded = [], []
    for _ in range(rounds):
        await pool.fetch(spec, lambda _: None)
        await pool.load(spec, lambda _: None)
        with pool.lease(spec) as model:
            read_all_weights(model)
        loaded.append(held_bytes())
        await pool.unload_idle()
        unloaded.append(held_bytes())
    sys.stdout.write(json.dumps({"loaded": loaded, "unloaded": unloaded}))


def held_bytes() -> int:
    """What this process holds: of the GPU where there is one, else of RAM."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return int(psutil.Process().memory_info().rss)


def read_all_weights(loaded: LoadedModel) -> None:
    """Have every byte of a model's weights in memory."""
    for weight in loaded.model.parameters():
        weight.data.contiguous().view(torch.uint8).sum()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
