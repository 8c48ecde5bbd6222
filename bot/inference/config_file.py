"""A model's config.json, read by itself: transformers reads it for the tokenizer first, which would get the blame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# What a size may be, from and to. The classes build a module for each layer, and take a size below 1 for granted:
# no layers load as a model that talks nonsense, a billion of them never end.
_SIZES: dict[str, tuple[int, int, str]] = {
    "num_hidden_layers": (1, 4_096, "number of layers"),
    "hidden_size": (1, 1 << 20, "hidden size"),
    "vocab_size": (1, 1 << 24, "vocabulary size"),
    "intermediate_size": (0, 1 << 24, "intermediate size"),
    "num_attention_heads": (0, 1 << 16, "number of attention heads"),
    "num_key_value_heads": (0, 1 << 16, "number of key and value heads"),
    "head_dim": (0, 1 << 16, "head size"),
    "num_local_experts": (0, 1 << 16, "number of experts"),
    "num_experts": (0, 1 << 16, "number of experts"),
    "max_position_embeddings": (0, 1 << 40, "number of positions"),
}


class UnusableSize(ValueError):
    """A config names a size that no model has."""


def read_config(folder: Path) -> PretrainedConfig:
    """The config of a model as transformers reads it, with sizes that a model can have.

    Raises:
        UnusableSize: one of them is not.
        Exception: it is broken, or of no kind that is known; transformers' own.
    """
    from transformers import AutoConfig

    config: PretrainedConfig = AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    text: Any = config.get_text_config(decoder=True)
    for name, (least, most, words) in _SIZES.items():
        for one in values(text, name):
            if isinstance(one, int) and not least <= one <= most:
                raise UnusableSize(f"its {words} cannot be {one if abs(one) < 10**15 else 'so large'}")
    return config


def values(config: Any, name: str) -> list[Any]:
    """A setting's value, or its values, where a config has one for each layer; none where there is no such setting."""
    try:
        value = getattr(config, name, None)
    except RuntimeError:  # what transformers says where layers differ in it
        value = [getattr(one, name, None) for one in config.per_layer_config]
    found = value if isinstance(value, list | tuple) else [value]
    return [one for one in found if one is not None]


def skeleton(folder: Path) -> PreTrainedModel:
    """The real class with shapes and no data.

    Raises:
        Exception: as `read_config`, and whatever a class raises that cannot be built of its config.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = read_config(folder)
    with torch.device("meta"):
        # No dtype: transformers would set torch's default for the whole process, under a model that talks.
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=None, trust_remote_code=False)
    return model
