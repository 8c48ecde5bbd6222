"""Attention for a batch, without looking at each other's keys.

Without Flash Attention, transformers' paged attention lays the keys of all requests in one row and masks the others'
out: sixteen people cost sixteen times what one does, each. Here those who add one token have a row of keys each, beside
others of about the same length; and a prompt, or a piece of one, is computed by itself. Keys are taken from the cache
by pages. Layers whose sliding window somebody's text has outgrown, and padded steps, go the way of transformers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LAYOUTS = "layouts_of_this_step"  # kept on the cache from a step's first layer to its last
# Rows are padded to the longest beside them by so many keys together: more of them cost more than a call of their own.
_PADDING_KEYS = 512


def use_rows() -> None:
    """Have transformers use this in the place of its attention by PyTorch, for all models. The name stays, because its
    batching decides by that what else is needed."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
    ALL_ATTENTION_FUNCTIONS["paged|eager"] = eager_attention


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
    if layout is not None and layout.stale is not None:
        for one in allocator._kv_token_views[module.layer_idx]:
            one.index_fill_(0, layout.stale, 0)
    if layout is None or layout.is_over_all_keys:
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

    A mask takes no NaN away. So it is given finite keys and values, and NaN is put back for those requests alone of
    whose own keys or values some are not finite: of this step, or read in an earlier one.

    Returns:
        1 x tokens x heads x width.
    """
    import torch

    cache = _finite_cache()(options["cache"])
    # Products of bfloat16 may spread the NaN of a query over the one beside it.
    is_finite = query.isfinite().all(dim=3).all(dim=1)[0]
    query = query.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    seen, _ = forward(module, query, *new, mask, **{**options, "cache": cache})
    ends, ends_of_keys = (
        one[1:] for one in (options["cu_seq_lens_q"], options["cu_seq_lens_k"][cache.layer_type])
    )  # where each request's tokens and keys end
    owners_of_keys = torch.bucketize(cache.broken.nonzero().flatten(), ends_of_keys, right=True)
    is_broken = torch.zeros(len(ends) + 1, dtype=torch.bool, device=seen.device)  # the last is nobody's
    owners = torch.bucketize(torch.arange(seen.shape[1], device=seen.device), ends, right=True)
    is_broken[owners_of_keys] = True
    is_broken[owners[is_finite.logical_not()]] = True
    return seen.masked_fill(is_broken[owners][None, :, None, None], math.nan)


@functools.cache
def _finite_cache() -> Any:
    """The class of caches that tell of no key and value but finite ones; transformers asks for its own class."""
    from transformers.generation.continuous_batching.cache import PagedAttentionCache

    class FiniteCache(PagedAttentionCache):  # type: ignore[misc, unused-ignore]
        """A cache as one layer sees it in one step; `broken` then says which keys or values were not finite."""

        def __init__(self, cache: Any) -> None:
            self._cache = cache

        def update(self, key_states: Any, value_states: Any, layer_idx: int, kwargs: Any) -> Any:
            import torch

            self.layer_type = self._cache.layer_to_allocator[layer_idx].layer_type
            told = self._cache.update(key_states, value_states, layer_idx, kwargs)
            # A sum is not finite if a part of it is not. Not as a product: that may spread NaN over its neighbours.
            sums = [one.sum(dim=(0, 1, 3), dtype=torch.float32) for one in told]
            self.broken = (sums[0] + sums[1]).isfinite().logical_not()
            if self.broken.device.type != "cpu" or self.broken.any():  # elsewhere, to ask is to wait
                told = tuple(one.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0) for one in told)
            return told

    return FiniteCache


@dataclass(frozen=True, slots=True)
class _Rows:
    """Those who add one token, of about the same length.

    Attributes:
        tokens: which of the step's tokens are theirs; None where all are, in their order.
        pages: where in the cache the keys of each are, as many pages for each, flat.
        longest: how many keys a row has.
        mask: what is added to the scores of each, so that only their own keys count; None where all do.
    """

    tokens: torch.Tensor | None
    pages: torch.Tensor
    longest: int
    mask: torch.Tensor | None

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
    """A step, for the layers of one kind.

    Attributes:
        rows, prompts: who is computed how.
        stale: where in the cache the rest of each page is that is begun in this step; None if none is. Somebody else's
            keys may stand there. Rows are padded with it, and a mask is added to the scores: NaN stays NaN.
        is_over_all_keys: transformers is to compute it.
    """

    rows: tuple[_Rows, ...]
    prompts: tuple[_Prompt, ...]
    stale: torch.Tensor | None = None
    is_over_all_keys: bool = False

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
        if padded:
            made[allocator.index] = None
        else:
            page_tokens = allocator.tokens_per_page
            in_order = [span for span in spans if window is None or _length(span[1]) < window]
            stale = _begun_pages(in_order, written, page_tokens)
            made[allocator.index] = (
                _Layout((), (), stale, is_over_all_keys=True)
                if outgrown
                else replace(_found(spans, index, page_tokens, query.dtype), stale=stale)
            )
    return made[allocator.index]


_Span = tuple[slice, slice]  # of one request: its tokens in this step, and its keys


def _with_new(index: torch.Tensor, written: torch.Tensor, spans: list[_Span]) -> torch.Tensor:
    """Where each key is: a layer with a window says of old ones where they are, and of new ones where they go."""
    whole = index.clone()
    for own, keys in spans:
        whole[keys.stop - _length(own) : keys.stop] = written[own]
    return whole


def _begun_pages(spans: list[_Span], written: torch.Tensor, page_tokens: int) -> torch.Tensor | None:
    """What is behind the last token of each page that is begun in this step and not filled."""
    import torch

    behind = []
    for own, keys in spans:
        in_page = (_length(keys) - 1) % page_tokens + 1
        if in_page <= _length(own) and in_page < page_tokens:
            places = torch.arange(1, page_tokens - in_page + 1, device=written.device)
            behind.append(written[own.stop - 1] + places)
    return torch.cat(behind) if behind else None


def _found(spans: list[_Span], index: torch.Tensor, page_tokens: int, dtype: torch.dtype) -> _Layout:
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
        mask = None
        if any(_length(keys) < longest for _, keys in group):
            # Made once in the form in which it is added, and not for each layer.
            mask = torch.zeros(len(group), 1, 1, longest, dtype=dtype, device=index.device)
            mask.masked_fill_((places >= ends)[:, None, None, :], -math.inf)
        tokens = None if len(group) == len(spans) else own.flatten()
        rows.append(_Rows(tokens, pages, longest, mask))
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
