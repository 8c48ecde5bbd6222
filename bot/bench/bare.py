"""transformers' `generate` by itself, for the same questions: one by one, and as one padded batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bot.bench.work import Result, Work
from bot.inference.catalog import SamplingParams
from bot.inference.loader import LoadedModel


def generate(loaded: LoadedModel, work: Work, users: int) -> Result:
    """The better of the two ways, in tokens per second. Runs on the thread that calls it."""
    prompts = [loaded.encode(work.messages(user)) for user in range(users)]
    padded_s = min(padded(loaded, prompts, work.sampling) for _ in range(2))
    alone_s = padded_s if users == 1 else sum(padded(loaded, [one], work.sampling) for one in prompts)
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
