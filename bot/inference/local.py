"""The engine that runs models in this process.

All torch work of the process happens on one thread, the engine's: loading and generating by turns. That is
what one GPU wants, and on the CPU a second thread that had ever entered OpenMP would halve the speed of both
for good (each owns a pool of workers, and the pools get in each other's way).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from bot.errors import PromptTooLong
from bot.inference.detokenizer import IncrementalDetokenizer
from bot.inference.engine import (
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Loading,
    TextDelta,
    Usage,
)
from bot.inference.loader import LoadedModel, ModelLoader

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")
Emit = Callable[[_Item], None]
Work = Callable[[Emit[_Item], threading.Event], None]

_MIN_ANSWER_TOKENS = 16  # a prompt that leaves less than this is refused


class LocalEngine:
    """Answers with transformers' `generate`, one request at a time, keeping the last model in memory."""

    def __init__(self, loader: ModelLoader) -> None:
        self._loader = loader
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="inference")
        self._resident: LoadedModel | None = None

    async def prepare(self) -> None:
        """Do the slow imports now, on the engine's thread, rather than under the first request."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._loader.prepare)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Answer `request`; see `Engine.generate`."""

        def work(emit: Emit[Event], stopped: threading.Event) -> None:
            try:
                loaded = self._load(request, emit, stopped)
            except _AbandonedError:
                return
            if not stopped.is_set():
                _Run(loaded, request, emit, stopped).run()

        async with aclosing(in_thread(self._thread, work)) as events:
            async for event in events:
                yield event

    async def aclose(self) -> None:
        """Let the thread end; a load that nothing can interrupt may hold it for some seconds more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._resident = None

    def _load(self, request: GenerationRequest, emit: Emit[Event], stopped: threading.Event) -> LoadedModel:
        """Make the request's model the resident one. Runs on the engine's thread."""
        spec = request.model
        if self._resident is not None and self._resident.spec == spec:
            return self._resident

        def report(_: str, fraction: float | None) -> None:
            if stopped.is_set():
                raise _AbandonedError  # in the middle of a fetch: it goes on from there another time
            emit(Loading(spec.alias, _part(fraction)))

        emit(Loading(spec.alias, None))
        self._resident = None  # before the new one: two may not fit
        started_s = time.perf_counter()
        self._resident = loaded = self._loader.load(spec, report)
        log.info("loaded %s in %.1f s", spec.alias, time.perf_counter() - started_s)
        emit(Loading(spec.alias, 1.0))
        return loaded


class _AbandonedError(Exception):
    """Nobody wants the model any more that is being fetched."""


def _part(fraction: float | None) -> float | None:
    """A step's progress as the load's: 1.0 is kept for the moment when the model is there."""
    return None if fraction is None else min(fraction, 0.99)


async def in_thread(thread: ThreadPoolExecutor, work: Work[_Item]) -> AsyncGenerator[_Item, None]:
    """Run `work` on `thread` and yield what it emits, as it emits it; raises what it raises.

    Closing the generator sets the event that `work` was given, and returns when `work` has returned.
    """
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[_Item | Future[None]] = asyncio.Queue()
    stopped = threading.Event()

    def send(item: _Item | Future[None]) -> None:
        with suppress(RuntimeError):  # the loop was closed; nobody listens
            loop.call_soon_threadsafe(items.put_nowait, item)

    future = thread.submit(work, send, stopped)
    future.add_done_callback(send)
    ended = False
    try:
        while (item := await items.get()) is not future:
            yield item  # type: ignore[misc]  # only the future itself is no item
        ended = True
        future.result()
    finally:
        stopped.set()
        if not ended and not future.cancel():
            while await items.get() is not future:
                pass


class _Run:
    """One generation on the engine's thread: a streamer and a stopping criterion for `generate`.

    transformers' own text streamer hands text over by words and hangs its reader if `generate` raises; this
    one hands over every token at once, and `in_thread` brings exceptions to the reader.
    """

    def __init__(
        self, loaded: LoadedModel, request: GenerationRequest, emit: Emit[Event], stopped: threading.Event
    ) -> None:
        self._loaded = loaded
        self._params = request.params
        self._emit = emit
        self._stopped = stopped
        self._prompt_ids = loaded.encode(request.messages)
        self._detokenizer = IncrementalDetokenizer(loaded.decode)
        self._last_id: int | None = None
        self._completion_tokens = 0
        self._first_token_s: float | None = None
        self._begun_s = time.perf_counter()

    def run(self) -> None:
        """Generate; the last thing emitted is `Finished`."""
        import torch

        room = self._loaded.context_tokens - len(self._prompt_ids)
        if room < _MIN_ANSWER_TOKENS:
            raise PromptTooLong(
                f"That is too long for {self._loaded.spec.alias}: {len(self._prompt_ids)} tokens, and it can read "
                f"{self._loaded.context_tokens - _MIN_ANSWER_TOKENS}. Please shorten it."
            )
        limit = min(self._params.max_new_tokens, room)
        prompt = torch.tensor([self._prompt_ids], device=self._loaded.model.device)
        torch.manual_seed(self._params.seed if self._params.seed is not None else secrets.randbits(63))
        self._begun_s = time.perf_counter()
        model: Any = self._loaded.model  # its class is chosen by the checkpoint
        with torch.inference_mode():
            model.generate(
                inputs=prompt,
                attention_mask=torch.ones_like(prompt),
                streamer=self,
                stopping_criteria=[self._should_stop],
                **self._options(limit),
            )
        if rest := self._detokenizer.flush():
            self._emit(TextDelta(rest, self._usage()))
        self._emit(Finished(self._reason(), self._usage()))

    def put(self, token_ids: torch.Tensor) -> None:
        """Streamer: the prompt comes first and is skipped, then every token as it is drawn."""
        if token_ids.dim() > 1:
            return
        new = token_ids.tolist()
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._begun_s
        self._completion_tokens += len(new)
        self._last_id = new[-1]
        if text := self._detokenizer.feed(new):
            self._emit(TextDelta(text, self._usage()))

    def end(self) -> None:
        """Streamer: nothing to do, `run` goes on after `generate` anyway."""

    def _should_stop(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        import torch

        return torch.full((input_ids.shape[0],), self._stopped.is_set(), device=input_ids.device)

    def _options(self, max_new_tokens: int) -> dict[str, Any]:
        params = self._params
        options: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "min_new_tokens": min(params.min_new_tokens, max_new_tokens) or None,
            "repetition_penalty": params.repetition_penalty,
            "eos_token_id": list(self._loaded.eos_token_ids),
            "pad_token_id": self._loaded.tokenizer.pad_token_id,
            "do_sample": params.temperature > 0,
        }
        if params.temperature > 0:
            options |= {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
        return options

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self._prompt_ids),
            completion_tokens=self._completion_tokens,
            time_to_first_token_s=self._first_token_s,
            generation_s=time.perf_counter() - self._begun_s,
        )

    def _reason(self) -> FinishReason:
        if self._last_id in self._loaded.eos_token_ids:
            return FinishReason.STOP
        return FinishReason.CANCELLED if self._stopped.is_set() else FinishReason.LENGTH
