"""What the stages of a process share: checkpoints, a catalogue of them, and one engine at a time."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from benchmarks.gpu import checkpoints
from bot.app import open_engine
from bot.bench.work import Timeline
from bot.chat.messages import ChatMessage, Role
from bot.configured import read_catalog
from bot.inference.batch import Batch
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import Finished, GenerationRequest, Reading, TextDelta
from bot.inference.local import LocalEngine
from bot.inference.threads import in_own_thread
from bot.settings import Settings, load_settings

_Result = TypeVar("_Result")

REQUESTS = 32  # the most that are asked at once
_SPARE_BYTES = 1e9
_SAMPLE_S = 0.05
_CLOSE_S = 20.0


@dataclass(slots=True)
class Said:
    """An answer: when its tokens were there, which they were, and how it ended."""

    timeline: Timeline
    prompt_tokens: int = 0
    text: str = ""
    ids: tuple[int, ...] = ()
    error: Exception | None = None
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, tokens: int) -> None:
        """Wait until it has so many tokens, or has ended."""
        while self.timeline.count < tokens and not self.timeline.ended:
            self.grown.clear()
            await self.grown.wait()


class Lab:
    """Makes what a stage needs when it needs it.

    Args:
        folder: for checkpoints and the bot's cache.
        tiny: tiny dimensions.
        cuda: whether there is a GPU.
    """

    def __init__(self, folder: Path, *, tiny: bool, cuda: bool) -> None:
        self.folder = folder
        self.tiny = tiny
        self.device = "cuda" if cuda else "cpu"
        self._engine: LocalEngine | None = None
        self._opened = AsyncExitStack()

    # --- Checkpoints ---

    def checkpoint(self, alias: str) -> Path | None:
        """A checkpoint's folder, made if it is not there; None if there is no room."""
        folder = self.folder / alias
        if folder.is_dir():
            return folder
        needed_bytes = 0.0 if self.tiny else _bfloat16_bytes(alias)
        if shutil.disk_usage(self.folder).free < needed_bytes + _SPARE_BYTES * (not self.tiny):
            return None
        checkpoints.make(alias, folder, tiny=self.tiny, device=self.device)
        free_device_memory()
        return folder

    def checkpoint_bytes(self, alias: str) -> int:
        """How large its files are."""
        return sum(file.stat().st_size for file in (self.folder / alias).iterdir())

    def settings(self, **changes: Any) -> Settings:
        """The bot's settings, with a catalogue of the checkpoints."""
        text = ""
        for alias, shape in checkpoints.SHAPES.items():
            tokens = checkpoints.TINY_CONTEXT_TOKENS if self.tiny else shape.context_tokens
            text += (
                f'[{alias}-random]\nsource = "{self.folder / alias}"\nquantization = "nf4"\n'
                f'context_tokens = {tokens}\ndescription = "{alias}, random"\n\n'
            )
        file = self.folder / "models.toml"
        file.write_text(text, encoding="utf-8")
        given = {"models_file": file, "cache_dir": self.folder / "cache", "data_dir": self.folder / "data"}
        limits = {"batch_requests": REQUESTS, "max_new_tokens": 8192}
        settings: Settings = load_settings(None, **given, **(limits | changes))
        return settings

    def spec(self, alias: str, **changes: Any) -> ModelSpec:
        """The catalogue's entry for a checkpoint, which is made if it is not there.

        Raises:
            OSError: there is no room for it.
        """
        if self.checkpoint(alias) is None:
            raise OSError(f"there is no room for {alias} in {self.folder}")
        return read_catalog(self.settings())[f"{alias}-random"].model_copy(update=changes)

    # --- Engines ---

    async def engine(self) -> LocalEngine:
        """The engine that stages share; models that are in it stay there."""
        if self._engine is None:
            opened = await self._opened.enter_async_context(open_engine(self.settings()))
            assert isinstance(opened, LocalEngine)
            self._engine = opened
        return self._engine

    async def answering(self, alias: str) -> tuple[LocalEngine, ModelSpec]:
        """The shared engine with a model in memory that has answered once: what is made once is made."""
        engine, spec = await self.engine(), self.spec(alias)
        if not engine.ready(spec):
            await loaded_s(engine, spec)
            await ask(engine, spec, "Hello", 4)
        return engine, spec

    @asynccontextmanager
    async def own_engine(self, **changes: Any) -> AsyncIterator[LocalEngine]:
        """An engine for one stage, without another beside it."""
        await self.close()
        async with open_engine(self.settings(**changes)) as engine:
            assert isinstance(engine, LocalEngine)
            yield engine
        free_device_memory()

    async def close(self) -> None:
        """Let go of the shared engine and of what is in it."""
        opened, self._opened, self._engine = self._opened, AsyncExitStack(), None
        await opened.aclose()
        free_device_memory()

    # --- Memory ---

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def memory(self) -> dict[str, int]:
        """What is in use now: of the GPU as the driver and as PyTorch count it, and of RAM by this process."""
        found = {"ram_bytes": ram_bytes()}
        if self.device == "cuda":
            import torch

            free, total = torch.cuda.mem_get_info()
            found |= {
                "gpu_used_bytes": total - free,
                "allocated_bytes": torch.cuda.memory_allocated(),
                "reserved_bytes": torch.cuda.memory_reserved(),
            }
        return found

    @asynccontextmanager
    async def peaks(self) -> AsyncIterator[dict[str, int]]:
        """The most memory that was in use while the block ran, in the dictionary once it has ended."""
        peak: dict[str, int] = {}
        done = threading.Event()
        if self.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

        def sample() -> None:
            while not done.wait(_SAMPLE_S):
                peak["ram_bytes"] = max(peak.get("ram_bytes", 0), ram_bytes())

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield peak
        finally:
            done.set()
            thread.join()
            peak["ram_bytes"] = max(peak.get("ram_bytes", 0), ram_bytes())
            if self.device == "cuda":
                peak["allocated_bytes"] = torch.cuda.max_memory_allocated()
                peak["reserved_bytes"] = torch.cuda.max_memory_reserved()


def _bfloat16_bytes(alias: str) -> float:
    """About the size of a checkpoint with true dimensions, from them."""
    of = checkpoints.SHAPES[alias].true
    width = of["hidden_size"]
    head = of.get("head_dim", width // of["num_attention_heads"])
    attention = 2 * width * head * (of["num_attention_heads"] + of["num_key_value_heads"])
    mlp = 3 * width * of["intermediate_size"] * of.get("num_local_experts", 1)
    ends = of["vocab_size"] * width * (1 if of.get("tie_word_embeddings") else 2)
    return float(2 * (of["num_hidden_layers"] * (attention + mlp) + ends))


def ram_bytes() -> int:
    """What this process has in RAM, without files that it has mapped: those are the system's to drop."""
    memory = psutil.Process(os.getpid()).memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def free_device_memory() -> None:
    """Give back what nobody refers to."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def keep_caches_small(engine: LocalEngine, *, small: bool = True) -> None:
    """Have batches from now on take a cache of one context, as estimates count it; or what there is room for."""
    engine._batches._spare_bytes = (lambda: 0) if small else engine.pool.spare_bytes


def batch_of(engine: LocalEngine, spec: ModelSpec) -> Batch:
    """The batch in which a model has answered."""
    with engine.pool.lease(spec) as loaded:
        return engine._batches._all[loaded]


async def end_batch(engine: LocalEngine, spec: ModelSpec) -> None:
    """Have the next answer of a model begin another batch."""
    with engine.pool.lease(spec) as loaded:
        await on_thread(lambda: engine._batches.close(loaded), _CLOSE_S)


async def loaded_s(engine: LocalEngine, spec: ModelSpec) -> float:
    """Bring a model into memory; the seconds that took."""
    await engine.fetch(spec, lambda _: None)
    began_s = time.perf_counter()
    await engine.load(spec, lambda _: None)
    return time.perf_counter() - began_s


def request(spec: ModelSpec, question: str, tokens: int, **sampling: Any) -> GenerationRequest:
    """A question whose answer has exactly so many tokens."""
    how = {"temperature": 0.7, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.0, "seed": 1, **sampling}
    params = SamplingParams.model_validate(how | {"max_new_tokens": tokens, "min_new_tokens": tokens})
    return GenerationRequest(spec, (ChatMessage(Role.USER, question),), params)


def question(number: int, length: int = 30) -> str:
    """A question of about so many tokens, which begins unlike the others."""
    begun = f"{number} times: tell me a story about the number {number}."
    return begun + " word" * max(0, length - 20)


async def ask(engine: LocalEngine, spec: ModelSpec, text: str, tokens: int, **sampling: Any) -> Said:
    """Ask, and read to the end.

    Raises:
        Exception: what the answer ended with.
    """
    (said,) = await ask_all(engine, [request(spec, text, tokens, **sampling)])
    return said


async def read(engine: LocalEngine, asked: GenerationRequest, said: Said) -> None:
    """Read an answer to its end; an error is kept."""
    try:
        async with aclosing(engine.generate(asked)) as events:
            async for event in events:
                if isinstance(event, Reading):
                    said.prompt_tokens = event.usage.prompt_tokens
                if isinstance(event, TextDelta):
                    said.text += event.text
                if isinstance(event, TextDelta | Finished):
                    said.timeline.note(time.perf_counter(), event.usage.completion_tokens)
                    said.grown.set()
                if isinstance(event, Finished) and event.tokens is not None:
                    said.ids = event.tokens.ids
    except Exception as error:
        said.error = error
    finally:
        said.timeline.ended = True
        said.grown.set()


async def ask_all(engine: LocalEngine, asked: Iterable[GenerationRequest]) -> list[Said]:
    """Ask all at once.

    Raises:
        Exception: what an answer ended with.
    """
    requests = list(asked)
    said = [Said(Timeline(time.perf_counter())) for _ in requests]
    await asyncio.gather(*(read(engine, *pair) for pair in zip(requests, said, strict=True)))
    for one in said:
        if one.error is not None:
            raise one.error
    return said


async def on_thread(work: Callable[[], _Result], limit_s: float) -> _Result:
    """Calculate on a thread of its own, so that the loop goes on, for at most so long."""
    return await in_own_thread(work, timeout_s=max(1.0, limit_s))


def equal_count(first: Iterable[Said], second: Iterable[Said]) -> int:
    """How many answers have the same tokens."""
    return sum(a.ids == b.ids and bool(a.ids) for a, b in zip(first, second, strict=True))
