"""How much a batch holds and reads at a time: on the CPU as little as works well, on a GPU what its memory allows."""

from __future__ import annotations

from typing import Any

PAGE_TOKENS = 32
# The most that one step reads: a long prompt is read in such pieces, beside the others' tokens. On the CPU a piece of
# 256 takes a second; on a GPU each step has a price of its own, whatever it reads, and pieces of 256 leave it idle.
STEP_TOKENS = 256
GPU_STEP_TOKENS = 1024
SPARING_STEP_TOKENS = 64  # the same after memory ran out, on any device

_SPARE_SHARE = (
    0.8  # fragments take the rest, and transformers makes no cache of more than 90 % of what is free
)


def is_on_gpu(model: Any) -> bool:
    """Whether a model computes on a GPU."""
    return bool(model.device.type == "cuda")


def step_tokens_of(model: Any) -> int:
    """How many tokens one step reads at most."""
    return GPU_STEP_TOKENS if is_on_gpu(model) else STEP_TOKENS


def full_cache_tokens(model: Any, context_tokens: int, requests: int, spare_bytes: int) -> int:
    """How many tokens the cache holds that all who are answered together share.

    Args:
        model: what answers.
        context_tokens: of one context, for which its memory is reserved.
        requests: how many are answered at a time.
        spare_bytes: what the device has beside that nobody needs.

    Returns:
        One context on the CPU. On a GPU as many as there is memory for, up to one for each.
    """
    if not is_on_gpu(model):
        return context_tokens
    beside = int(_SPARE_SHARE * max(0, spare_bytes)) // token_bytes(model)
    return min(requests * context_tokens, context_tokens + beside)


def sparing_cache_tokens(cache_tokens: int, context_tokens: int, needed_tokens: int) -> int:
    """The same after memory ran out, in a cache of `cache_tokens`.

    It is half of that, and not more than one context; but everybody who was being answered must find room, one after
    the other if need be.
    """
    return max(min(cache_tokens // 2, context_tokens), min(needed_tokens, cache_tokens))


def token_bytes(model: Any) -> int:
    """What a token of cache takes, with all that transformers makes for it: keys and values of each layer (whole blocks
    are for all layers, those with a window too), its place in the index, and its share of what is read from the cache
    for one layer, which its own check of the memory counts."""
    from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

    config = model.config.get_text_config()
    kinds = len(set(getattr(config, "layer_types", None) or ["all"]))
    head_bytes = find_head_dim(config) * model.dtype.itemsize
    heads = find_num_key_value_heads(config)
    kept = 2 * config.num_hidden_layers * heads * head_bytes
    read = (2 * config.num_attention_heads + heads) * head_bytes
    return int(kept + read + kinds * 8)
