"""Attention for a batch, without looking at each other's keys.

Without Flash Attention, transformers' paged attention lays the keys of all requests in one row and masks the others'
out: sixteen people cost sixteen times what one does, each. Here those who add one token have a row of keys each, beside
others of about the same length; and a prompt, or a piece of one, is computed by itself. Keys are taken from the cache
by pages. Layers whose sliding window somebody's text has outgrown, and padded steps, go the way of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_DISTRUSTED = "may_hold_what_is_no_number"  # kept on the cache
_LAYOUTS = "layouts_of_this_step"  # kept on the cache from a step's first layer to its last
# Rows are padded to the longest beside them by so many keys together: more of them cost more than a call of their own.
_PADDING_KEYS = 512


def use_rows() -> None:
    """Have transformers use this in the place of its attention by PyTorch, for all models. The name stays, because its
    batching decides by that what else is needed."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
    ALL_ATTENTION_FUNCTIONS["paged|eager"] = eager_attention


def distrust(cache: Any) -> None:
    """From now on nothing is computed with what earlier requests left in this cache, not even to be masked.

    A mask is added to the scores, and NaN stays NaN whatever is added. It costs a pass over the keys and values of rows
    that are padded, so it is done only for a cache that may hold NaN.
    """
    vars(cache)[_DISTRUSTED] = True


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
        attention_mask: of all tokens and all keys; a prompt takes its own part of it.
        scaling: what products are multiplied with.
        cache: transformers' paged cache.
        kwargs: where what is in the cache, as its batching tells.

    Returns:
        1 x tokens x heads x width.
    """
    import torch
    from transformers.generation.continuous_batching.cache_allocators.full_attention import (
        FullAttentionCacheAllocator,
    )
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    allocator = None if cache is None else cache.layer_to_allocator[module.layer_idx]
    layout: _Layout | None = None
    if isinstance(allocator, FullAttentionCacheAllocator):
        layout = _layout(module.layer_idx, allocator, cache, query, kwargs)
    if allocator is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if layout is None:
        options = {"scaling": scaling, "cache": cache, **kwargs}
        return _over_all_keys(
            sdpa_attention_forward, module, query, (key, value), attention_mask, options
        ), None
    queries, keys, values = (one[0].transpose(0, 1) for one in (query, key, value))
    nothing = kwargs["read_index"][allocator.index][:0]  # what is written only
    allocator.update(keys, values, module.layer_idx, nothing, kwargs["write_index"][allocator.index])
    cached = allocator._kv_page_views[module.layer_idx]
    if layout.whole is not None:
        return layout.whole.attend(queries, cached, scaling).unsqueeze(0), None
    seen = torch.empty_like(queries)
    for rows in layout.rows:
        seen[rows.tokens] = rows.attend(queries, cached, scaling)
    for prompt in layout.prompts:
        seen[prompt.tokens] = prompt.attend(queries, (keys, values), cached, attention_mask, scaling)
    return seen.unsqueeze(0), None


_Pair = tuple["torch.Tensor", "torch.Tensor"]  # keys and values


def eager_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention for models that transformers computes without PyTorch's, such as Gemma 2; see `attention`."""
    from transformers.integrations.eager_paged import eager_paged_attention_forward

    return _over_all_keys(
        eager_paged_attention_forward, module, query, (key, value), attention_mask, kwargs
    ), None


def _over_all_keys(
    forward: Callable[..., tuple[torch.Tensor, Any]],
    module: Any,
    query: torch.Tensor,
    new: _Pair,
    mask: torch.Tensor | None,
    options: dict[str, Any],
) -> torch.Tensor:
    """transformers' attention, which looks at the keys of all requests and masks the others' out.

    A mask takes no NaN away. So it is given finite keys and values, and NaN is put back for those requests alone whose
    own keys or values of this step are not finite.

    Returns:
        1 x tokens x heads x width.
    """
    import torch

    ends = options["cu_seq_lens_q"]  # where each request's tokens begin, and where the last one's end
    finite = (one.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for one in new)
    seen, _ = forward(module, query, *finite, mask, **options)
    broken = torch.zeros(seen.shape[1], dtype=torch.bool, device=seen.device)
    for one in new:
        broken |= one.isfinite().all(dim=3).all(dim=1)[0].logical_not()
    owners = torch.bucketize(torch.arange(seen.shape[1], device=seen.device), ends[1:], right=True)
    counts = torch.zeros(len(ends), device=seen.device).index_add_(0, owners, broken.float())
    return seen.masked_fill((counts[owners] > 0)[None, :, None, None], math.nan)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Those who add one token, of about the same length.

    Attributes:
        tokens: which of the step's tokens are theirs; None where all are, in their order.
        pages: where in the cache the keys of each are, as many pages for each, flat.
        longest: how many keys a row has.
        mask: what is added to the scores of each, so that only their own keys count; None where all do.
        padding: which keys are nobody's, requests x longest, where those may be NaN; else None.
    """

    tokens: torch.Tensor | None
    pages: torch.Tensor
    longest: int
    mask: torch.Tensor | None
    padding: torch.Tensor | None = None

    def attend(self, queries: torch.Tensor, cached: _Pair, scaling: float | None) -> torch.Tensor:
        """Requests x heads x width; `queries` are all of the step, tokens x heads x width."""
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        mine = queries if self.tokens is None else queries[self.tokens]
        requests, heads, width = mine.shape
        pages = (torch.index_select(one, 0, self.pages) for one in cached)
        keys, values = (
            one.flatten(0, 1).unflatten(0, (requests, -1))[:, : self.longest].transpose(1, 2) for one in pages
        )
        if self.padding is not None:
            padding = self.padding[:, None, :, None]
            keys, values = keys.masked_fill(padding, 0), values.masked_fill(padding, 0)
        # Queries that share a head of keys stand beside each other: no copy of the keys for each of them.
        grouped = mine.reshape(requests, keys.shape[1], -1, width)
        seen = scaled_dot_product_attention(grouped, keys, values, attn_mask=self.mask, scale=scaling)
        return seen.reshape(requests, heads, -1)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One whose prompt is being read.

    Attributes:
        tokens: which of the step's tokens are its own.
        pages: where in the cache its keys are; None if it has no others than those of this step.
        length: how many keys those are.
        masked: where they are in transformers' mask.
    """

    tokens: slice
    pages: torch.Tensor | None
    length: int
    masked: slice

    def attend(
        self,
        queries: torch.Tensor,
        new: _Pair,
        cached: _Pair,
        mask: torch.Tensor | None,
        scaling: float | None,
    ) -> torch.Tensor:
        """Tokens x heads x width; `queries`, the new keys and values, and the mask are all of the step."""
        from torch.nn.functional import scaled_dot_product_attention

        own_mask = None
        if self.pages is None:
            keys, values = (one[self.tokens] for one in new)
        else:
            keys, values = (one[self.pages].flatten(0, 1)[: self.length] for one in cached)
            own_mask = mask[..., self.tokens, self.masked] if mask is not None else None
        mine, keys, values = (
            one.transpose(0, 1).unsqueeze(0) for one in (queries[self.tokens], keys, values)
        )
        seen = scaled_dot_product_attention(
            mine, keys, values, own_mask, is_causal=self.pages is None, scale=scaling, enable_gqa=True
        )
        return seen[0].transpose(0, 1)


@dataclass(frozen=True, slots=True)
class _Layout:
    """A step, for the layers of one kind."""

    rows: tuple[_Rows, ...]
    prompts: tuple[_Prompt, ...]

    @property
    def whole(self) -> _Rows | None:
        """The rows that are all of the step, if some are."""
        return self.rows[0] if self.rows and self.rows[0].tokens is None else None


def _layout(
    layer: int, allocator: Any, cache: Any, query: torch.Tensor, kwargs: dict[str, Any]
) -> _Layout | None:
    """How this step is laid out, found once for all its layers; None where transformers is to compute it."""
    made: dict[int, _Layout | None] = cache.__dict__.setdefault(_LAYOUTS, {})
    if layer == 0:
        made.clear()
    if allocator.index not in made:
        ends_q, ends_k = (
            ends.tolist() for ends in (kwargs["cu_seq_lens_q"], kwargs["cu_seq_lens_k"][allocator.layer_type])
        )
        spans = [(slice(*q), slice(*k)) for q, k in zip(pairwise(ends_q), pairwise(ends_k), strict=True)]
        index, written = (kwargs[name][allocator.index] for name in ("read_index", "write_index"))
        window = getattr(allocator, "sliding_window", None)
        padded = ends_q[-1] != query.shape[2] or index.numel() not in (0, ends_k[-1])
        # Of a text that has outgrown the window, no more keys are told of than the window holds.
        outgrown = window is not None and any(_length(keys) >= window for _, keys in spans)
        if window is not None and index.numel() and not outgrown and not padded:
            index = _with_new(index, written, spans)
        made[allocator.index] = (
            None
            if padded or outgrown
            else _found(
                spans,
                index,
                allocator.tokens_per_page,
                query.dtype,
                is_distrusted=vars(cache).get(_DISTRUSTED, False),
            )
        )
    return made[allocator.index]


_Span = tuple[slice, slice]  # of one request: its tokens in this step, and its keys


def _with_new(index: torch.Tensor, written: torch.Tensor, spans: list[_Span]) -> torch.Tensor:
    """Where each key is: a layer with a window says of old ones where they are, and of new ones where they go."""
    whole = index.clone()
    for own, keys in spans:
        whole[keys.stop - _length(own) : keys.stop] = written[own]
    return whole


def _found(
    spans: list[_Span], index: torch.Tensor, page_tokens: int, dtype: torch.dtype, *, is_distrusted: bool
) -> _Layout:
    """The layout of a step, from where in the cache each key is; that is empty if nobody has read anything before."""
    import torch

    rows, prompts = list[_Rows](), list[_Prompt]()
    alone, reading = list[_Span](), list[_Span]()
    for span in spans:
        (alone if index.numel() and _length(span[0]) == 1 else reading).append(span)
    for group in _groups(alone):
        longest = max(_length(keys) for _, keys in group)
        begins, ends, own = (
            torch.tensor(values, device=index.device).unsqueeze(1)
            for values in zip(*((keys.start, keys.stop, one.start) for one, keys in group), strict=True)
        )
        first = begins + torch.arange(0, longest, page_tokens, device=index.device)
        # A row is padded with its own last page: the next one in the index is somebody else's, and may hold NaN.
        pages = index[torch.minimum(first, ends - 1)].flatten() // page_tokens
        places = begins + torch.arange(longest, device=index.device)
        mask = padding = None
        if any(_length(keys) < longest for _, keys in group):
            # Made once in the form in which it is added, and not for each layer.
            mask = torch.zeros(len(group), 1, 1, longest, dtype=dtype, device=index.device)
            mask.masked_fill_((places >= ends)[:, None, None, :], -math.inf)
            padding = places >= ends if is_distrusted else None
        tokens = None if len(group) == len(spans) else own.flatten()
        rows.append(_Rows(tokens, pages, longest, mask, padding))
    for own_tokens, keys in reading:
        length, new = _length(keys), _length(own_tokens)
        where = None if length == new else index[keys][::page_tokens] // page_tokens
        prompts.append(_Prompt(own_tokens, where, length, keys))
    return _Layout(tuple(rows), tuple(prompts))


def _groups(spans: list[_Span]) -> list[list[_Span]]:
    """By length, the longest first: who would need too much padding begins another group.

    In a group they stand as in the step.
    """
    groups = list[list[_Span]]()
    padding = 0
    for span in sorted(spans, key=lambda one: _length(one[1]), reverse=True):
        missing = _length(groups[-1][0][1]) - _length(span[1]) if groups else 0
        padding += missing
        if groups and padding <= _PADDING_KEYS:
            groups[-1].append(span)
        else:
            groups.append([span])
            padding = 0
    return [sorted(group, key=lambda one: one[0].start) for group in groups]


def _length(span: slice) -> int:
    length: int = span.stop - span.start
    return length
