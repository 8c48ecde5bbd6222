"""Attention for a batch, without looking at each other's keys.

Without Flash Attention, transformers' paged attention lays the keys of all requests in one row and masks the others'
out: sixteen people cost sixteen times what one does, each, and a mask takes no NaN away. Here each request looks at its
own pages of the cache alone; `layout.py` says where they are. So nobody needs transformers' masks and lists of keys.

Scores are PyTorch's, in one kernel, except where a model does to them what that cannot: Gemma 2 caps them, gpt-oss has
sinks beside the keys. What neither knows is refused, before a batch where its config tells (`is_understood`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bot.inference.layout import Piece, Rows, Step, on_gpu

if TYPE_CHECKING:
    import torch

NAME = "punchline_rows"  # of this attention in transformers' list, and in the config of a model in a batch
STEP = "punchline_step"  # the argument in which a model hands the step on to its layers

_LAYERS = {"full_attention", "sliding_attention"}  # what transformers' paged cache holds
# Arguments with which models change which keys count or how much; each is another attention than the one here.
_NOT_UNDERSTOOD = ("position_bias", "indices", "block_indices")
_SELECTIVE = {  # models whose layers give such arguments, or a mask of their own
    "axk2",
    "deepseek_v32",
    "doge",
    "dots3_note",
    "glm_moe_dsa",
    "hy_v4",
    "inkling",
    "inkling2",
    "minimax_m3_vl_text",
}
# Models whose layers attend several times in a pass, with other keys or values each: a page holds one of them.
_REPEATED = {"diffllama", "hrm_text"}


def is_understood(config: Any) -> bool:
    """Whether this is the attention of a model with this config, and transformers' paged cache holds its keys."""
    if getattr(config, "is_heterogeneous", False):
        return False  # layers of different shapes, as Gemma 4 has: a page has one
    kinds = set(getattr(config, "layer_types", None) or ())
    # Of keys and values in the width of others the cache takes none: those of DeepSeek are put together from two parts.
    widths = {getattr(config, name, None) for name in ("qk_head_dim", "v_head_dim")} - {None}
    return (
        kinds <= _LAYERS
        and widths <= {getattr(config, "head_dim", None)}
        and config.model_type not in _SELECTIVE | _REPEATED
        and not getattr(config, "use_bidirectional_attention", False)
    )


def register() -> None:
    """Tell transformers of it. It makes no masks for an attention that it knows no form of masks for."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS[NAME] = attention


def use_cudnn(enabled: bool) -> None:
    """Whether PyTorch may take cuDNN's attention. On Hopper it prefers that, which plans anew for each shape and keeps
    every plan, for each thread; and the keys of our rows grow by one with each token."""
    import torch

    torch.backends.cuda.enable_cudnn_sdp(enabled)


@dataclass(frozen=True, slots=True)
class _Scores:
    """What a layer does to products of queries and keys.

    Attributes:
        scaling: what they are multiplied with.
        softcap: they are bent to stay between this and its negative; None leaves them.
        sinks: for each head a score of no key, which takes its share.
    """

    scaling: float | None
    softcap: float | None
    sinks: torch.Tensor | None

    @property
    def is_plain(self) -> bool:
        """Whether PyTorch's attention does it."""
        return self.softcap is None and self.sinks is None


_Pair = tuple["torch.Tensor", "torch.Tensor"]  # keys and values


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cache: Any = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it, for a flat batch with a paged cache.

    Args:
        module: the layer.
        query: 1 x heads x tokens x width; `key` and `value` likewise, with their own number of heads.
        key, value: of the tokens of this step.
        attention_mask: none; a model that makes one itself is not understood.
        scaling: what products are multiplied with.
        cache: transformers' paged cache.
        softcap, s_aux: see `_Scores`.
        kwargs: the step, and where its tokens go in the cache.

    Returns:
        1 x tokens x heads x width.
    """
    import torch

    step: Step | None = kwargs.get(STEP)
    if (
        step is None
        or attention_mask is not None
        or any(kwargs.get(one) is not None for one in _NOT_UNDERSTOOD)
    ):
        raise NotImplementedError(f"{type(module).__name__} cannot be computed by {NAME}")
    allocator = cache.layer_to_allocator[module.layer_idx]
    layout = step.layout(allocator, query)
    scores = _Scores(scaling, softcap or None, s_aux)
    queries, keys, values = (one[0].transpose(0, 1) for one in (query, key, value))
    by_token: _Pair = allocator._kv_token_views[module.layer_idx]
    taken = [_taken(piece, (keys, values), by_token) for piece in layout.pieces]
    if layout.stale is not None:
        for one in by_token:
            one.index_fill_(0, layout.stale, 0)
    written = kwargs["write_index"][allocator.index]
    allocator.update(keys, values, module.layer_idx, written[:0], written)
    cached = allocator._kv_page_views[module.layer_idx]
    if layout.whole is not None:
        return _of_rows(layout.whole, queries, cached, scores).unsqueeze(0), None
    seen = torch.empty_like(queries)
    for rows in layout.rows:
        seen[rows.tokens] = _of_rows(rows, queries, cached, scores)
    for piece, new in zip(layout.pieces, taken, strict=True):
        seen[piece.tokens] = _of_piece(piece, queries[piece.tokens], new, cached, scores)
    return seen.unsqueeze(0), None


def _of_rows(rows: Rows, queries: torch.Tensor, cached: _Pair, scores: _Scores) -> torch.Tensor:
    """Requests x heads x width; `queries` are all of the step, tokens x heads x width."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    mine = queries if rows.tokens is None else queries[rows.tokens]
    requests, heads, width = mine.shape
    pages = (torch.index_select(one, 0, rows.pages) for one in cached)
    keys, values = (
        one.flatten(0, 1).unflatten(0, (requests, -1))[:, : rows.longest].transpose(1, 2) for one in pages
    )
    # Queries that share a head of keys stand beside each other: no copy of the keys for each of them. A kernel of a GPU
    # that takes a mask takes as many heads of keys as of queries only.
    grouped = mine.reshape(requests, keys.shape[1], -1, width)
    if scores.is_plain:
        seen = scaled_dot_product_attention(grouped, keys, values, attn_mask=rows.mask, scale=scores.scaling)
    else:
        mask = None if rows.mask is None else rows.mask.unsqueeze(3)
        seen = _explicit(grouped.unsqueeze(3), keys, values, mask, scores)
    return seen.reshape(requests, heads, -1)


def _taken(piece: Piece, new: _Pair, cached: _Pair) -> _Pair | None:
    """Its keys and values, before the step's are in the cache; None where they are taken from its pages afterwards."""
    import torch

    if piece.pages is not None:
        return None
    keys, values = (one[piece.tokens] for one in new)
    if (old := piece.overwritten) is not None:
        keys, values = (
            torch.cat((torch.index_select(one, 0, old), own))
            for one, own in zip(cached, (keys, values), strict=True)
        )
    return keys, values


def _of_piece(
    piece: Piece, queries: torch.Tensor, taken: _Pair | None, cached: _Pair, scores: _Scores
) -> torch.Tensor:
    """Tokens x heads x width; `queries` are its own."""
    keys, values = taken or (one[piece.pages].flatten(0, 1)[: piece.length] for one in cached)
    mine, keys, values = (one.transpose(0, 1).unsqueeze(0) for one in (queries, keys, values))
    if scores.is_plain:
        seen = _plain(piece, mine, keys, values, scores.scaling)
    else:
        grouped = mine.unflatten(1, (keys.shape[1], -1))
        seen = _explicit(grouped, keys, values, piece.mask(mine), scores).flatten(1, 2)
    return seen[0].transpose(0, 1)


def _plain(
    piece: Piece, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """By PyTorch's kernels. On a GPU only Flash Attention takes fewer heads of keys than of queries, and no mask. Where
    it cannot, the keys are copied for each head: what no kernel takes is computed in float32, all scores at once.
    """
    from torch.nn.attention.bias import causal_lower_right
    from torch.nn.functional import scaled_dot_product_attention

    is_square = piece.window is None and piece.length == piece.new
    mask: Any = None
    if not is_square:
        use_bias = on_gpu(queries) and piece.window is None
        mask = causal_lower_right(piece.new, piece.length) if use_bias else piece.mask(queries)
    if on_gpu(queries) and not _takes_groups(queries, keys, values, piece):
        keys, values = (one.repeat_interleave(queries.shape[1] // keys.shape[1], 1) for one in (keys, values))
    return scaled_dot_product_attention(
        queries,
        keys,
        values,
        mask,
        is_causal=is_square,
        scale=scaling,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


def _takes_groups(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, piece: Piece) -> bool:
    """Whether a kernel of this GPU computes this with as many heads of keys as there are."""
    from torch.backends.cuda import SDPAParams, can_use_flash_attention

    if queries.shape[1] == keys.shape[1]:
        return True
    return piece.window is None and can_use_flash_attention(
        SDPAParams(queries, keys, values, None, 0.0, False, True)
    )


def _explicit(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scores: _Scores,
) -> torch.Tensor:
    """Step by step, rounded as by transformers' eager attention, with as few passes over the scores as that allows.

    Args:
        queries: requests x heads of keys x queries for each x tokens x width; what is returned likewise.
        keys, values: requests x heads of keys x keys x width.
        mask: what is added, as wide as the scores or broadcast.
        scores: what is done to them.
    """
    import torch

    scaling = queries.shape[-1] ** -0.5 if scores.scaling is None else scores.scaling
    cap = 1.0 if scores.softcap is None else scores.softcap
    is_exact = math.frexp(scaling)[0] == 0.5  # a power of two: it rounds nothing, wherever it is applied
    shape = queries.shape[2:4]
    found = ((queries * scaling if is_exact else queries).flatten(2, 3) @ keys.transpose(2, 3)).unflatten(
        2, shape
    )
    if not is_exact:
        found *= scaling
    if scores.softcap is not None:
        found.div_(cap).tanh_()
    if mask is not None:
        torch.add(mask, found, alpha=cap, out=found)
    elif scores.softcap is not None:
        found *= cap
    if scores.sinks is not None:
        sinks = scores.sinks.to(found.dtype).view(1, *queries.shape[1:3], 1, 1).expand(*found.shape[:-1], 1)
        found = torch.cat((found, sinks), dim=-1)
    found = found.softmax(dim=-1, dtype=torch.float32).to(queries.dtype)
    if scores.sinks is not None:
        found = found[..., :-1]
    seen: torch.Tensor = (found.flatten(2, 3) @ values).unflatten(2, shape)
    return seen
