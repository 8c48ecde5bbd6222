"""Attention by rows and by prompts gives what transformers' attention gives, in every kind of step."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from bot.chat.messages import ChatMessage, Role
from bot.inference import attention as ours
from bot.inference import batch
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import FinishReason, GenerationRequest
from bot.inference.local import LocalEngine
from bot.inference.queue import InferenceQueue
from tests.inference.checkpoints import save_checkpoint
from tests.inference.reading import ending, read


class Compared:
    """Takes the place of the attention, computes both, and counts the kinds of steps."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.worst = 0.0

    def __call__(self, module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        found, _ = ours.attention(module, query, key, value, mask, **kwargs)
        cache = kwargs.get("cache")
        if cache is None:
            return found, None
        layouts = getattr(cache, ours._LAYOUTS, {})
        layout = layouts.get(cache.layer_to_allocator[module.layer_idx].index)
        if layout is None:
            self.kinds["transformers'"] += 1
            return found, None
        expected, _ = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
        self.worst = max(self.worst, float((found - expected).abs().max()))
        kind = [name for name, one in (("rows", layout.rows), ("prompts", layout.prompts)) if one]
        self.kinds[" and ".join(kind)] += 1
        if any(prompt.pages is not None for prompt in layout.prompts):
            self.kinds["a prompt that goes on"] += 1
        return found, None


LONG = (1, 3, 90, 30, 5, 130)
SHORT = (1, 3, 5, 2, 8, 12)  # within a window of 100 tokens


@pytest.mark.parametrize(
    ("alias", "words"), [("llama", LONG), ("qwen", LONG), ("qwen3", LONG), ("phi", SHORT)]
)
async def test_people_who_come_and_go_get_the_attention_of_transformers(
    alias: str, words: tuple[int, ...], engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = Compared()
    monkeypatch.setattr(batch, "use_rows", lambda: ALL_ATTENTION_FUNCTIONS.__setitem__("sdpa", compared))
    monkeypatch.setattr(batch.Batch.__init__, "__kwdefaults__", {"step_tokens": 48})
    folder = save_checkpoint(alias, tmp_path / alias)
    spec = ModelSpec(alias="tiny", source=str(folder), context_tokens=512, description="a model")

    def ask(length: int, tokens: int) -> GenerationRequest:
        how = SamplingParams(max_new_tokens=tokens, min_new_tokens=tokens, seed=length)
        return GenerationRequest(spec, (ChatMessage(Role.USER, "x" * length),), how)

    async with InferenceQueue(engine, slots=16) as queue:
        asked = [queue.submit(ask(length, 10 + length % 7)) for length in words]
        everybody = await asyncio.gather(*map(read, asked))
    ALL_ATTENTION_FUNCTIONS["sdpa"] = sdpa_attention_forward
    assert all(ending(events).reason is FinishReason.LENGTH for events in everybody)
    assert {"rows", "rows and prompts", "a prompt that goes on"} <= set(compared.kinds)
    assert compared.worst < 0.02
