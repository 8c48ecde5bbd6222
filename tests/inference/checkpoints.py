"""Small random checkpoints of the real architecture classes, in the shape of the models of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    DiffLlamaConfig,
    Gemma2Config,
    Gemma4TextConfig,
    GptOssConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from tests.inference import tiny


def called(alias: str, folder: Path) -> Path:
    """A checkpoint's folder under a name of its own: to the bot, another model with the same weights."""
    link = folder.with_name(f"{folder.name}-{alias}")
    if not link.is_symlink():
        link.symlink_to(folder, target_is_directory=True)
    return link


VOCABULARY = 512
# Where the loader puts models, and so where tests must have what they give to them.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_COMMON, tie_word_embeddings=False, rope_parameters=_LLAMA_3_ROPE),
    "phi": lambda: Phi3Config(**_COMMON, sliding_window=100, tie_word_embeddings=False),
    "gemma": lambda: Gemma2Config(**_COMMON, head_dim=64, sliding_window=64),
    "qwen": lambda: Qwen2Config(**_COMMON, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**_COMMON, head_dim=64, tie_word_embeddings=True),
    "mixtral": lambda: MixtralConfig(**_COMMON, num_local_experts=4, num_experts_per_tok=2),
}
# Phi-3 with 128k: other frequencies beyond its first context, which is of 128 tokens here.
LONG_PHI: dict[str, Callable[[], PretrainedConfig]] = {
    "long-phi": lambda: Phi3Config(
        **_COMMON,
        tie_word_embeddings=False,
        original_max_position_embeddings=128,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "original_max_position_embeddings": 128,
            "short_factor": [1.0] * 32,
            "long_factor": [4.0] * 32,
        },
    )
}
# Not in the catalogue, but an operator may have one: their fused experts are not understood, and stay bfloat16.
NOT_UNDERSTOOD: dict[str, Callable[[], PretrainedConfig]] = {
    "gpt-oss": lambda: GptOssConfig(**_COMMON, head_dim=64, num_local_experts=4, num_experts_per_tok=2),
    "llama-4": lambda: Llama4TextConfig(
        **_COMMON, intermediate_size_mlp=512, head_dim=64, num_local_experts=4, num_experts_per_tok=1
    ),
}
_GEMMA_4: dict[str, Any] = {
    "head_dim": 64,
    "global_head_dim": 128,
    "sliding_window": 64,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"],
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 0,
}
# What a batch would compute wrongly: layers of different shapes, and layers that attend twice with other values.
ONE_AT_A_TIME: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma-4": lambda: Gemma4TextConfig(**_COMMON, **_GEMMA_4),
    "diffllama": lambda: DiffLlamaConfig(**_COMMON),
}
_TEMPLATES = {
    "llama": tiny.LLAMA_3,
    "phi": tiny.PHI_3_EARLY,
    "gemma": tiny.GEMMA_2,
    "qwen": tiny.CHATML,
    "qwen3": tiny.QWEN_3,
    "mixtral": tiny.MIXTRAL_1,
}


def save_checkpoint(
    alias: str,
    folder: Path,
    *,
    context_tokens: int = 512,
    seed: int = 0,
    softcap: float | None = None,
    is_attentive: bool = False,
    **options: Any,
) -> Path:
    """Make one; `options` go to `save_pretrained`, `max_shard_size` for one.

    What an attentive one says depends on which words it looks at, as a real model's does; noise looks at all alike.
    """
    torch.manual_seed(seed)
    config: Any = (CONFIGS | NOT_UNDERSTOOD | LONG_PHI | ONE_AT_A_TIME)[alias]()
    config.max_position_embeddings = context_tokens
    if softcap is not None:
        config.attn_logit_softcapping = softcap
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for name, weights in model.named_parameters():
        if is_attentive and name.endswith(("q_proj.weight", "k_proj.weight", "qkv_proj.weight")):
            weights.data *= 12
    model.save_pretrained(folder, **options)
    tiny.byte_level(chat_template=_TEMPLATES.get(alias, tiny.CHATML)).save_pretrained(folder)
    return folder


def save_mamba(folder: Path, **changes: Any) -> Path:
    """A model that keeps a state, and so answers one request at a time; `changes` go into its config."""
    tokenizer = tiny.byte_level("Tell me a joke.", chat_template=tiny.CHATML)
    config = MambaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        state_size=4,
        num_hidden_layers=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        **changes,
    )
    torch.manual_seed(0)
    MambaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
