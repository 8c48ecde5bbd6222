"""A batch whose steps are taken by the test, one by one, on the test's own thread."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Self

from transformers.generation.continuous_batching.continuous_api import OutputRouter

from bot.inference.batch import Batch
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.sampler import Draw


def loaded_exactly(folder: Path, *, context_tokens: int = 512) -> LoadedModel:
    """A model that computes in float32: what it says does not depend on the company."""
    spec = ModelSpec(
        alias="tiny",
        source=str(folder),
        context_tokens=context_tokens,
        description="a model",
        quantization="none",
    )
    loaded = ModelLoader(folder).load(spec, lambda *_: None)
    for module in loaded.model.modules():
        vars(module).pop("forward", None)  # a quicker one of ours, for bfloat16
    loaded.model.float()
    return loaded


class Stepped:
    """Requests by ids; use it as a context manager, which gives the model back."""

    def __init__(
        self, loaded: LoadedModel, *, requests: int = 16, step_tokens: int = 64, **options: Any
    ) -> None:
        self.batch = Batch(loaded, requests=requests, step_tokens=step_tokens, **options)
        self.manager: Any = self.batch._manager
        self.manager.output_router = OutputRouter()  # transformers' own, whose queue the test reads
        self.processor: Any = self.manager._create_batch_processor()
        self.manager.batch_processor = self.processor
        self.said: dict[str, list[int]] = {}
        self.ended: dict[str, str | None] = {}  # with which error
        self._loaded = loaded
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        model: Any = self._loaded.model
        if self.manager._original_attn_impl is not None:
            model.set_attn_implementation(self.manager._original_attn_impl)

    def add(self, ids: list[int], tokens: int, **how: Any) -> str:
        """Ask for so many tokens; the request's id."""
        name = str(next(self._numbers))
        how = {"temperature": 0.0, "seed": 1, **how, "max_new_tokens": tokens, "min_new_tokens": tokens}
        self.batch._draws[name] = Draw.begin(SamplingParams.model_validate(how), ids)
        self.batch._add(name, ids, tokens)
        return name

    def cancel(self, name: str) -> None:
        self.manager.cancel_request(name)

    def step(self) -> dict[str, int]:
        """Take one; how many tokens of each request were read in it. Nothing if there is nothing to do."""
        if not self.processor.prepare_next_batch():
            return {}
        read = {
            one.state.request_id: one.query_length
            for one in self.processor.inputs_and_outputs.requests_in_batch
        }
        self.processor._generation_step(self.manager.model)
        self.processor.update_batch()
        while not self.manager.output_router.output_queue.empty():
            output = self.manager.output_router.output_queue.get()
            self.said[output.request_id] = output.generated_tokens
            if output.is_finished():
                self.ended[output.request_id] = output.error
        return read

    def steps(self, limit: int = 3_000) -> list[dict[str, int]]:
        """Take steps to the end."""
        taken = list(itertools.takewhile(bool, (self.step() for _ in range(limit))))
        assert len(taken) < limit
        assert not self.processor.has_pending_requests()
        return taken

    @property
    def free_blocks(self) -> int:
        """How many blocks of the cache nobody uses now; some may be kept for those who begin likewise."""
        cache = self.processor.cache
        kept = sum(len(one.ledger.cached_blocks) for one in cache.cache_allocators.values())
        held = len(cache.pool.free_sectors) + sum(
            cache.pool.count_free_blocks(one.index) for one in cache.cache_allocators.values()
        )
        return int(kept + held)


def alone(loaded: LoadedModel, ids: list[int], tokens: int, **how: Any) -> list[int]:
    """What a request is answered when nobody else is there or was before."""
    with Stepped(loaded) as batch:
        name = batch.add(ids, tokens, **how)
        batch.steps()
        return batch.said[name]
