"""transformers' `generate` by itself, for the same questions: one by one, and as one padded batch.

In a process of its own, with a model that is loaded as transformers and bitsandbytes do it: what the bot does to its
models for speed is not there, and the memory it takes is not counted as the bot's.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from bot.bench.work import Result, Work
from bot.errors import BotError
from bot.inference.attention import use_cudnn
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.loader import LoadedModel, ModelLoader

_T = TypeVar("_T")

_TIMEOUT_S = (
    14_400.0  # of one measurement, which on a slow machine takes many minutes and does not say how far it is
)
_COPIED_BYTES = 256 * 2**20
_loaded: list[LoadedModel] = []  # of this process, where it is one that measures


class Bare:
    """`generate`, in another process."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    async def ask(self, work: Work, users: int) -> Result:
        """The better of the two ways, in tokens per second."""
        return await self._run(_ask, work, users)

    async def bandwidth(self) -> float:
        """Bytes a second that this memory reads and writes, by copying."""
        return await self._run(_bandwidth)

    async def _run(self, work: Callable[..., _T], *given: Any) -> _T:
        running = asyncio.get_running_loop().run_in_executor(self._pool, work, *given)
        try:
            return await asyncio.wait_for(running, _TIMEOUT_S)
        except TimeoutError:
            raise BotError(
                f"`generate` did not end within {_TIMEOUT_S / 3600:.0f} hours: give fewer --users or --tokens."
            ) from None


@asynccontextmanager
async def bare(cache_dir: Path, spec: ModelSpec, *, cudnn_attention: bool = False) -> AsyncIterator[Bare]:
    """The process, with the model in memory as soon as it is needed.

    Args:
        cache_dir, spec: where the model is kept, and which it is.
        cudnn_attention: leave PyTorch that of cuDNN, which the bot switches off.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        1, spawn, initializer=_load, initargs=(cache_dir, spec, cudnn_attention)
    ) as pool:
        yield Bare(pool)


def _load(cache_dir: Path, spec: ModelSpec, cudnn_attention: bool = False) -> None:
    loader = ModelLoader(cache_dir, plain=True)

    def work() -> None:
        loader.prepare()
        use_cudnn(cudnn_attention)
        _loaded.append(loader.load(spec, lambda *_: None))

    loading = threading.Thread(
        target=work
    )  # one that ends: two that calculate would halve each other's speed
    loading.start()
    loading.join()


def _ask(work: Work, users: int) -> Result:
    (loaded,) = _loaded
    prompts = [loaded.encode(work.messages(user)) for user in range(users)]
    padded_s = min(padded(loaded, prompts, work.sampling) for _ in range(2))
    alone_s = 0.0
    for one in prompts if users > 1 else ():
        alone_s += padded(loaded, [one], work.sampling)
        if alone_s > padded_s:  # no longer the better way
            break
    alone_s = alone_s or padded_s
    rate = users * work.tokens / min(padded_s, alone_s)
    return Result("generate", users, "once", rate, rate / users if padded_s <= alone_s else rate)


def padded(loaded: LoadedModel, prompts: Sequence[list[int]], how: SamplingParams) -> float:
    """Seconds that `model.generate` takes for these prompts, as one padded batch."""
    import torch

    longest = max(map(len, prompts))
    pad = loaded.tokenizer.pad_token_id
    torch.manual_seed(how.seed or 0)
    model: Any = loaded.model
    began_s = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            inputs=torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts], device=model.device),
            attention_mask=torch.tensor(
                [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device
            ),
            do_sample=True,
            temperature=how.temperature,
            top_p=how.top_p,
            top_k=how.top_k,
            repetition_penalty=how.repetition_penalty,
            max_new_tokens=how.max_new_tokens,
            min_new_tokens=how.min_new_tokens,
            pad_token_id=pad,
            eos_token_id=list(loaded.eos_token_ids),
        )
    return time.perf_counter() - began_s


def _bandwidth() -> float:
    import torch

    return copy_rate("cuda" if torch.cuda.is_available() else "cpu", _COPIED_BYTES)


def copy_rate(device: str, size_bytes: int) -> float:
    """Bytes a second that the device's memory reads and writes: the best of some copies."""
    import torch

    source = torch.ones(size_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best_s = float("inf")
    for _ in range(5):
        began_s = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * size_bytes / best_s
