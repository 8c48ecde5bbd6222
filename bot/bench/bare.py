"""transformers' `generate` by itself, for the same questions: one by one, and as one padded batch."""

from __future__ import annotations

import time
from typing import Any

from bot.bench.work import Result, Work
from bot.inference.loader import LoadedModel


def generate(loaded: LoadedModel, work: Work, users: int) -> Result:
    """The better of the two ways, in tokens per second. Runs on the thread that calls it."""
    padded_s = min(_padded(loaded, work, range(users)) for _ in range(2))
    alone_s = padded_s if users == 1 else sum(_padded(loaded, work, [user]) for user in range(users))
    rate = users * work.tokens / min(padded_s, alone_s)
    return Result("generate", users, "once", rate, rate / users if padded_s <= alone_s else rate)


def _padded(loaded: LoadedModel, work: Work, users: Any) -> float:
    """Seconds of one padded batch."""
    import torch

    prompts = [loaded.encode(work.messages(user)) for user in users]
    longest = max(map(len, prompts))
    pad = loaded.tokenizer.pad_token_id
    how = work.sampling
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
            max_new_tokens=work.tokens,
            min_new_tokens=work.tokens,
            pad_token_id=pad,
            eos_token_id=list(loaded.eos_token_ids),
        )
    return time.perf_counter() - began_s
