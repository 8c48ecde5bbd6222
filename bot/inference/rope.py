"""Frequencies of rotary positions that do not depend on who else is in the batch.

Some models rotate long texts otherwise than short ones: "longrope" (Phi-3 with 128k, Phi-4 mini) has two sets of
frequencies. transformers chooses one by the longest position of a step, for all in it, so that somebody's long text
changes everybody's; and whoever grows beyond the first context goes on with keys that were rotated by the other set.
Here one is chosen when a model is loaded, by the context that the catalogue allows: the short one for a context that
the model was first made for, else the long one, for short texts too. "dynamic" models change theirs beyond a context
that no answer gets to; asking for it in each step would have a GPU waited for.
"""

from __future__ import annotations

from typing import Any

_SETTLED = "settled"  # no kind of transformers': nothing is chosen any more


def settle_frequencies(model: Any, context_tokens: int) -> None:
    """Have all texts rotated by the frequencies for a context of so many tokens."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        # Of models whose kinds of layers differ, one for each.
        if isinstance(kinds, dict):
            module.rope_type = {
                layers: _settled(module, kind, context_tokens, layers, ROPE_INIT_FUNCTIONS)
                for layers, kind in kinds.items()
            }
        elif isinstance(kinds, str):
            module.rope_type = _settled(module, kinds, context_tokens, None, ROPE_INIT_FUNCTIONS)


def _settled(module: Any, kind: str, context_tokens: int, layers: str | None, made_by: Any) -> str:
    """What to call the kind from now on."""
    if "dynamic" in kind:
        return _SETTLED
    if kind != "longrope":
        return kind
    parameters = module.config.rope_parameters if layers is None else module.config.rope_parameters[layers]
    if context_tokens > parameters["original_max_position_embeddings"]:
        frequencies = getattr(module, "inv_freq" if layers is None else f"{layers}_inv_freq")
        long, _ = made_by[kind](module.config, frequencies.device, seq_len=context_tokens, layer_type=layers)
        frequencies.copy_(long)
    return _SETTLED
