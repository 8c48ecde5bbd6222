"""Tokenizers small enough to make in a test, of the kinds that real models come with."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# How byte-level tokenizers write each byte: printable ones as they are, the others from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_NAMES = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(0x100 + i) for i, byte in enumerate(_OTHERS)
}

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_end|>")

# Templates that behave like the ones of well-known models, in our own words.
CHATML = """
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
LLAMA_3 = """
{{- bos_token -}}
{%- if messages and messages[0].role == "system" -%}
  {%- set system = messages[0].content -%}
  {%- set messages = messages[1:] -%}
{%- else -%}
  {%- set system = "" -%}
{%- endif -%}
{{- "[system] Today is some day.\n" + system -}}
{%- for message in messages -%}
  {{- "\n[" + message.role + "] " + message.content | trim -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "\n[assistant] " -}}{%- endif -%}
"""
GEMMA_2 = """
{{- bos_token -}}
{%- if messages[0].role == "system" -%}{{- raise_exception("a system message is not taken") -}}{%- endif -%}
{%- for message in messages -%}
  {%- if loop.index0 is even and message.role != "user" or loop.index0 is odd and message.role != "assistant" -%}
    {{- raise_exception("it must be user, assistant, user, and so on") -}}
  {%- endif -%}
  {{- "<turn " + ("model" if message.role == "assistant" else message.role) + ">" + message.content | trim + "\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<turn model>" -}}{%- endif -%}
"""
MIXTRAL_1 = """
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message.role != ("user" if loop.index0 is even else "assistant") -%}
    {{- raise_exception("user and assistant must take turns") -}}
  {%- elif message.role == "user" -%}
    {{- "[ASK] " + message.content + " [/ASK]" -}}
  {%- else -%}
    {{- message.content + eos_token -}}
  {%- endif -%}
{%- endfor -%}
"""
QWEN_3 = """
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking -%}<think>

</think>

{% endif -%}
{%- endif -%}
"""
PHI_3_EARLY = """
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message.role == "user" -%}
    {{- "<|user|>\n" + message.content + "<|end|>\n<|assistant|>\n" -}}
  {%- elif message.role == "assistant" -%}
    {{- message.content + "<|end|>\n" -}}
  {%- endif -%}
{%- endfor -%}
"""


def wrapped(tokenizer: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers has it: it puts a beginning in front by itself and has no padding, as Llama's."""
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", **options
    )


def id_of(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of one token."""
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def byte_level(*corpus: str, merges: int = 0, **options: Any) -> PreTrainedTokenizerFast:
    """As GPT-2's, Llama 3's and Qwen's: pieces of bytes, so that one character may take several tokens.

    Args:
        corpus: what the merges are learned from.
        merges: how many of them; with none, a token is a byte.
        options: passed on, `chat_template` for one.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + merges, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return wrapped(tokenizer, **options)


def byte_level_across(character: str) -> PreTrainedTokenizerFast:
    """The same, with a token that is the end of `character` and the beginning of another one."""
    first, *rest = (BYTE_NAMES[byte] for byte in character.encode())
    vocabulary = {name: i for i, name in enumerate(BYTE_NAMES.values())}
    merges = []
    token = rest[0]
    for name in (*rest[1:], first):
        merges.append((token, name))
        token += name
        vocabulary[token] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return wrapped(tokenizer)


def sentencepiece_like(*words: str) -> PreTrainedTokenizerFast:
    """As Llama 2's, Mistral's and Phi-3's: `▁` is a space, and what is no known word falls back to bytes."""
    characters = sorted({character for word in words for character in word} | {"▁"})
    merged = {f"▁{word}": -1.0 - i / 100 for i, word in enumerate(words)}
    bytes_ = {f"<0x{value:02X}>": -20.0 for value in range(256)}
    vocabulary = [("<unk>", 0.0), *bytes_.items(), *((c, -10.0) for c in characters), *merged.items()]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return wrapped(tokenizer)
