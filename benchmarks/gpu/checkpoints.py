"""Random checkpoints with the true dimensions of real models: nothing can be fetched where this runs.

Their words are nonsense; loading, memory and speed are those of the real ones. A tokenizer whose every token is a word
is made in place: whatever such a model draws is text.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.stage import Context

_STD = 0.02  # of all weights that are drawn
_SHARD = "4GB"
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<turn>", "<end>")
_PAD, _BEGIN, _STOP, _UNKNOWN, _TURN, _END = range(len(_SPECIAL))
_WORDS = """
tell me a an the story joke about word number times time you are is it to of in on for and or not no yes with what who
how why when where your my we they he she one two three answer question short long be can do does will would should say
said make made as at by from this that these those funny please people room system user assistant
"""
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<turn> {{ message.role }} {{ message.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<turn> assistant {% endif %}"
)
# So much variance have a random Gemma 2's attention scores then: its soft cap of 50 bends them, and what ignores it is
# seen in the tokens. With weights as they are drawn, scores stay near 0, and the cap would change nothing.
_CAPPED_SCORE_STD = 30.0


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's dimensions.

    Attributes:
        config: the name of its config class in transformers.
        true: what its config says, with fewer layers where all of them would not add anything.
        tiny: what is different with `--tiny`.
        context_tokens: as the bot's catalogue has it.
    """

    config: str
    true: dict[str, Any]
    tiny: dict[str, Any] = field(default_factory=dict)
    context_tokens: int = 8192


_TINY = {
    "vocab_size": 640,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
TINY_CONTEXT_TOKENS = 512

SHAPES = {
    "llama": Shape(
        "LlamaConfig",
        {
            "vocab_size": 128_256,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
    ),
    "gemma": Shape(
        "Gemma2Config",
        {
            "vocab_size": 256_000,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
        {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64},
        context_tokens=4096,
    ),
    "phi": Shape(
        "Phi3Config",
        {
            "vocab_size": 32_064,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 8,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "sliding_window": 2047,
            "tie_word_embeddings": False,
        },
        {"sliding_window": 100, "original_max_position_embeddings": 512},
        context_tokens=4096,
    ),
    "qwen": Shape(
        "Qwen2Config",
        {
            "vocab_size": 152_064,
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 8,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32_768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "tie_word_embeddings": False,
        },
    ),
    "mixtral": Shape(
        "MixtralConfig",
        {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 2,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 32_768,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "tie_word_embeddings": False,
        },
        {"num_local_experts": 4},
    ),
}


def words(vocabulary: int) -> Iterator[str]:
    """So many different words, none of which is a part of another token."""
    made = itertools.chain(
        _SPECIAL, string.digits, string.punctuation, dict.fromkeys(_WORDS.split()), _syllables(vocabulary)
    )
    return itertools.islice(made, vocabulary)


def _syllables(count: int) -> Iterator[str]:
    """Words such as "xabac": letters alone, so that they are not taken apart at digits."""
    letters = "abcdefghij"
    return ("x" + "".join(letters[int(digit)] for digit in str(number)) for number in range(count))


def save_tokenizer(folder: Path, vocabulary: int) -> None:
    """A tokenizer whose every token is a word, a digit or a mark, into a checkpoint's folder."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate(words(vocabulary))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=_SPECIAL[_UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_SPECIAL[_PAD],
        bos_token=_SPECIAL[_BEGIN],
        eos_token=_SPECIAL[_STOP],
        unk_token=_SPECIAL[_UNKNOWN],
        chat_template=_TEMPLATE,
    )
    wrapped.save_pretrained(folder)


def make(alias: str, folder: Path, *, tiny: bool, device: str) -> None:
    """Draw a model's weights on the device and save it with its tokenizer: whole, or nothing is left."""
    import torch
    import transformers

    shape = SHAPES[alias]
    told: dict[str, Any] = {"tie_word_embeddings": False, **shape.true}
    if tiny:
        told |= _TINY | shape.tiny
        if "rope_parameters" in told and "original_max_position_embeddings" in told["rope_parameters"]:
            told["rope_parameters"] = told["rope_parameters"] | {"original_max_position_embeddings": 128}
    config: Any = getattr(transformers, shape.config)(
        **told,
        initializer_range=_STD,
        pad_token_id=_PAD,
        bos_token_id=_BEGIN,
        eos_token_id=[_STOP, _END],
    )
    begun = folder.with_name(f".{folder.name}")
    shutil.rmtree(begun, ignore_errors=True)
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if alias == "gemma":
        _sharpen(model)
    model.save_pretrained(begun, max_shard_size=_SHARD)
    del model
    save_tokenizer(begun, config.vocab_size)
    begun.rename(folder)


def _sharpen(model: Any) -> None:
    """Let a random Gemma 2 be moved by its soft cap, and not just repeat its last word."""
    import torch

    config = model.config
    factor = math.sqrt(_CAPPED_SCORE_STD) / (_STD * math.sqrt(config.hidden_size))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(factor)
            layer.self_attn.k_proj.weight.mul_(factor)
            # What a layer adds has this weight and 1 beside the word that it stands on: the embedding is the head too.
            layer.post_attention_layernorm.weight.fill_(2.0)
            layer.post_feedforward_layernorm.weight.fill_(2.0)


async def make_all(context: Context) -> None:
    """The stage: all of them."""
    made = dict[str, dict[str, float]]()
    for alias, shape in SHAPES.items():
        began_s = time.perf_counter()
        if context.lab.checkpoint(alias) is None:
            context.check(
                f"there is room for {alias}", False, f"in {context.folder}", judged=not context.tiny
            )
            continue
        size = context.lab.checkpoint_bytes(alias)
        took_s = time.perf_counter() - began_s
        made[alias] = {"bytes": size, "seconds": round(took_s, 2), "bytes_per_s": round(size / took_s)}
        context.tell(checkpoints=made, free_bytes=shutil.disk_usage(context.folder).free)
        layers = json.loads((context.folder / alias / "config.json").read_text())["num_hidden_layers"]
        context.say(f"{alias:<8} {size / 1e9:6.2f} GB in {took_s:5.1f} s, {layers} layers ({shape.config})")
