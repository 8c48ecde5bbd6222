"""Tiny real checkpoints that say what a test wants: each token is followed by one that the test names.

The weights are a table of successors: embeddings are one-hot, all layers add nothing, the head names the next token. So
the answer goes through transformers' own sampling, batching and decoding, and needs no training.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerBase

from bot.inference.catalog import ModelSpec
from tests.inference import tiny

SIZE = 512  # words and hidden units


def with_words(
    tokenizer: PreTrainedTokenizerBase, *words: str, special: Sequence[str] = ()
) -> PreTrainedTokenizerBase:
    """The tokenizer with further tokens; decoding leaves out those that are special."""
    tokenizer.add_tokens(
        [AddedToken(one, special=True, normalized=False) for one in special], special_tokens=True
    )
    tokenizer.add_tokens([AddedToken(one, special=False, normalized=False) for one in words])
    return tokenizer


def save_saying(folder: Path, tokenizer: PreTrainedTokenizerBase, says: Sequence[str], template: str) -> Path:
    """Make a checkpoint whose answer to any question is these tokens, and then the end.

    Args:
        folder: where.
        tokenizer: has these tokens.
        says: tokens, each at most once. None of them may be the one that the prompt ends with.
        template: the chat template; what it writes last is the same for each question.
    """
    tokenizer.chat_template = template
    prompt = str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "Why?"}], tokenize=False, add_generation_prompt=True
        )
    )
    begin = tokenizer(prompt, add_special_tokens=False)["input_ids"][-1]
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    chain = [begin, *(tiny.id_of(tokenizer, one) for one in says), end]
    assert len(set(chain)) == len(chain) and max(chain) < SIZE >= len(tokenizer)
    config: Any = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=SIZE,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(SIZE))
        model.lm_head.weight.zero_()
        model.lm_head.weight[end] = 1.0  # what has no successor is the end
        for one, following in itertools.pairwise(chain):
            model.lm_head.weight[following, one] = 2.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def spec_of(folder: Path, **options: Any) -> ModelSpec:
    """A catalogue entry for such a checkpoint."""
    entry: dict[str, Any] = {
        "alias": "saying",
        "source": str(folder),
        "context_tokens": 512,
        "description": "a model",
        "quantization": "none",
    }
    return ModelSpec.model_validate(entry | options)
