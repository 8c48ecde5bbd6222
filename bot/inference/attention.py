"""Attention for a batch in which everybody adds one token, without looking at each other's keys.

Without Flash Attention, transformers' paged attention lays the keys of all requests in one row and masks the others'
out: sixteen people cost sixteen times what one does, each. Here each request has a row of its own, padded to the
longest. Steps in which a prompt is read, and layers with a sliding window, go the way of transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_ROWS = "rows_of_this_step"  # kept on the cache from a step's first layer to its last


def use_rows() -> None:
    """Have transformers use rows where that is less work: in the place of its attention by PyTorch, for all models. The
    name stays, because its batching decides by that what else is needed."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it, for a flat batch with a paged cache.

    Args:
        module: the layer.
        query: 1 x heads x tokens x width; `key` and `value` likewise, with their own number of heads.
        key, value: of the tokens of this step.
        attention_mask: of all tokens and all keys; not used for rows.
        scaling: what products are multiplied with.
        cache: transformers' paged cache.
        kwargs: where what is in the cache, as its batching tells.

    Returns:
        1 x tokens x heads x width.
    """
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.generation.continuous_batching.cache_allocators.full_attention import (
        FullAttentionCacheAllocator,
    )
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    allocator = None if cache is None else cache.layer_to_allocator[module.layer_idx]
    read_index = kwargs.get("read_index")
    if (
        not isinstance(allocator, FullAttentionCacheAllocator)
        or kwargs.get("max_length_q") != 1
        or read_index is None
        or not read_index[allocator.index].numel()
    ):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, cache=cache, **kwargs
        )
    where, mask = _rows(module.layer_idx, allocator, cache, kwargs)
    keys, values = (one[0].transpose(0, 1) for one in (key, value))
    write_index = kwargs["write_index"][allocator.index]
    keys, values = allocator.update(keys, values, module.layer_idx, where, write_index)
    requests, heads, width = query.shape[2], key.shape[1], query.shape[3]
    keys, values = (one.view(requests, -1, heads, one.shape[-1]).transpose(1, 2) for one in (keys, values))
    # Queries that share a head of keys stand beside each other: no copy of the keys for each of them.
    queries = query[0].transpose(0, 1).reshape(requests, heads, -1, width)
    seen = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
    return seen.reshape(1, requests, query.shape[1], -1), None


def _rows(
    layer: int, allocator: Any, cache: Any, kwargs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where in the cache each request's keys are, padded and flat, and which of them count; made once a step."""
    import torch

    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = cache.__dict__.setdefault(_ROWS, {})
    if layer == 0:
        made.clear()
    if allocator.index not in made:
        ends = kwargs["cu_seq_lens_k"][allocator.layer_type].long()
        longest = kwargs["max_length_k"][allocator.layer_type]
        places = torch.arange(longest, device=ends.device)
        index = kwargs["read_index"][allocator.index]
        flat = (ends[:-1, None] + places).clamp_(max=index.numel() - 1)
        mask = places < (ends[1:] - ends[:-1])[:, None]
        made[allocator.index] = index[flat].flatten(), mask[:, None, None, :]
    return made[allocator.index]
