"""A look inside a model without loading it: its dimensions, its parts, and the memory it will take.

Everything comes from `config.json` and the headers of the safetensors files. The real class is built on torch's
meta device, where tensors have shapes and no data: no weight is read and no OpenMP work is done, so it may
happen on any thread, beside a model that is talking.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.errors import BotError, ModelUnavailable
from bot.inference.batch import is_batchable
from bot.inference.catalog import ModelSpec
from bot.inference.chat_template import TakesNoQuestion, TemplateTraits, probe, takes_no_question
from bot.inference.config_file import skeleton, values
from bot.inference.headers import Headers, read_headers
from bot.inference.load_errors import Step, refuse_non_writers, why_not, without_config
from bot.inference.memory import Footprint
from bot.inference.paging import Paging
from bot.inference.parts import Kind, Matrix, Part, last_layer, take_apart
from bot.inference.precision import Precision
from bot.inference.prompting import renderer
from bot.inference.sizes import PAGE_TOKENS, STEP_TOKENS
from bot.inference.tokenizers import TokenizerMissing, read_tokenizer, tokenizer_missing
from bot.inference.weights import precision_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_FLOAT32_BYTES = 4
# What one row of logits takes while a token is drawn: the logits in float32 (4), and beside them what top-k and
# top-p keep at a time: sorted values (4), their order (8), probabilities, their sums and a copy (12).
_DRAWING_BYTES = 28


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How many different tokens the model reads and writes, from the shapes of its first and last matrix."""

    input_size: int
    output_size: int
    tied: bool

    @property
    def agree(self) -> bool:
        """Whether every token that can be written can be read again."""
        return self.input_size == self.output_size


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What a model is made of.

    Attributes:
        intermediate_size: the width inside an MLP, or inside one expert.
        key_dim: the width of a key of one head; `value_dim` of a value. Usually both are `head_dim`.
        experts: how many a layer has; 0 for none.
        model_context_tokens: the longest context the model was built for; None if its config does not say.
        windows: for each layer how many tokens its attention looks back; None for all, 0 for a layer that keeps
            no keys and values.
        attention: how attention is computed: "sdpa", or "eager", which holds every score at once.
        parameters: of the architecture, tied ones counted once.
        stored_parameters: of the files, the same way; another number means that the files are not for this
            architecture, or hold packed weights.
        layer: the tensors of one layer.
        template: what the chat template takes; None for a base model, which has none.
        batched: whether several requests are answered together.
        precision: what it computes with on this machine's device.
        paging: how the cache is laid out that those share; None where it is another one.
        loading_bytes: what loading it takes beside the weights, at its worst.
    """

    alias: str
    architecture: str
    model_type: str
    layers: int
    hidden_size: int
    intermediate_size: int
    attention_heads: int
    key_value_heads: int
    head_dim: int
    key_dim: int
    value_dim: int
    experts: int
    experts_per_token: int
    vocabulary: Vocabulary
    model_context_tokens: int | None
    catalogue_context_tokens: int
    windows: tuple[int | None, ...]
    attention: str
    parameters: int
    stored_parameters: int
    parts: tuple[Part, ...]
    layer: tuple[Matrix, ...]
    template: TemplateTraits | None
    batched: bool
    precision: Precision
    paging: Paging | None
    loading_bytes: int

    @property
    def context_tokens(self) -> int:
        """What can be used: the smaller of what the catalogue allows and what the model was built for."""
        return min(self.catalogue_context_tokens, self.model_context_tokens or self.catalogue_context_tokens)

    @property
    def sliding_window(self) -> int | None:
        """The shortest window any layer has, in tokens; None if every layer looks back at everything."""
        return min((window for window in self.windows if window), default=None)

    @property
    def sliding_layers(self) -> tuple[int, ...]:
        """The numbers of the layers with a window, from 0."""
        return tuple(number for number, window in enumerate(self.windows) if window)

    @property
    def weights_bytes(self) -> int:
        """What the weights take when the loader has made them what the catalogue says."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def accepts_system(self) -> bool:
        """Whether a system message may be given as such; else it goes in front of the first question."""
        return self.template is not None and self.template.accepts_system

    def cache_bytes(self, tokens: int, batch: int = 1) -> int:
        """The KV cache for `tokens` tokens in each of `batch` conversations, with the tables that go with it."""
        if self.paging is None:
            return self.kept_bytes(tokens, batch)
        return self.paging.cache_bytes(tokens * batch) + self.paging.tables_bytes(tokens * batch)

    def kept_bytes(self, tokens: int, batch: int = 1) -> int:
        """What a cache keeps that grows as it is written, and where it has a window, no more than that."""
        kept = sum(tokens if window is None else min(tokens, window) for window in self.windows)
        return (
            batch * kept * self.key_value_heads * (self.key_dim + self.value_dim) * self.precision.size_bytes
        )

    def working_bytes(self, tokens: int, batch: int = 1) -> int:
        """What a forward pass takes beside, at its worst: a prompt of `tokens` tokens read in one go.

        An estimate from what transformers' decoder layers hold at a time, in the model's precision: the residual
        and the normed states, which RMSNorm works on in float32; then the larger of attention (queries, keys, values
        with their rotated copies, and the output) and MLP (gate, up, and their product; for experts, with the
        tokens' states going in, coming out, and weighted). Eager attention holds all scores, once in that precision
        and twice in float32; it, and windows, need masks of tokens by tokens, and keys and values repeated for every
        head. Beside them stand one NF4 matrix unpacked, which is how bitsandbytes multiplies more than one token, and
        the logits of the last token in float32 with what sampling sorts. A test holds it to a measured peak.
        """
        rows, number_bytes = tokens * batch, self.precision.size_bytes
        hidden = rows * self.hidden_size * (2 * number_bytes + 2 * _FLOAT32_BYTES)
        queries = self.attention_heads * (2 * self.key_dim + self.value_dim)
        keys = self.key_value_heads * (2 * self.key_dim + self.value_dim)
        attention = rows * (queries + keys) * number_bytes
        if self.attention == "eager":
            scores = batch * self.attention_heads * tokens * tokens
            attention += scores * (number_bytes + 2 * _FLOAT32_BYTES)
        masked = self.attention == "eager" or (self.sliding_window or tokens) < tokens
        if masked:
            attention += rows * self.attention_heads * (self.key_dim + self.value_dim) * number_bytes
        masks = 2 * batch * tokens * tokens * number_bytes if masked else 0
        packed = any(part.kind is Kind.EXPERTS and part.storage == "NF4" for part in self.parts)
        at_a_time = min(1, self.experts) if packed else self.experts_per_token  # `experts.py` goes one by one
        mlp = rows * 3 * self.intermediate_size * max(1, at_a_time) * number_bytes
        mlp += rows * 3 * self.hidden_size * at_a_time * number_bytes
        unpacked = max((part.largest_matrix for part in self.parts), default=0) * number_bytes
        drawing = batch * self.vocabulary.output_size * _DRAWING_BYTES
        return hidden + masks + max(attention, mlp) + unpacked + drawing

    def footprint(self, tokens: int, batch: int = 1) -> Footprint:
        """All that the model needs to answer with a context of `tokens` tokens, `batch` at a time."""
        return Footprint(
            self.weights_bytes,
            self.cache_bytes(tokens, batch),
            self.working_bytes(tokens, batch),
            self.loading_bytes,
        )


def examine(folder: Path, spec: ModelSpec, headers: Headers | None = None) -> Anatomy:
    """Look at the model in `folder`; takes less than a second once transformers is imported.

    Args:
        folder: config and tokenizer, and the safetensors files unless `headers` are given.
        spec: how the catalogue wants it run.
        headers: of weights that are elsewhere.

    Raises:
        ModelUnavailable: files are missing or broken, or the architecture is not supported.
    """
    try:
        return _examined(folder, spec, headers)
    except BotError:
        raise
    except Exception as error:  # hundreds of classes read a config, each in its own way
        log.exception("cannot examine %s", spec.alias)
        raise why_not(spec, folder, error, Step.CONFIG, done="examined") from error


def _examined(folder: Path, spec: ModelSpec, headers: Headers | None) -> Anatomy:
    tensors = read_headers(folder, spec.alias) if headers is None else headers
    model = _skeleton(folder, spec)
    config: Any = model.config.get_text_config(decoder=True)
    nf4, precision = spec.quantization == "nf4", precision_in(folder)
    parts = take_apart(model, nf4=nf4, precision=precision)
    batched = is_batchable(model)
    heads = _number(config, "num_attention_heads")
    head_dim = _number(config, "head_dim") or _number(config, "hidden_size") // max(1, heads)
    return Anatomy(
        alias=spec.alias,
        architecture=type(model).__name__,
        model_type=str(config.model_type),
        layers=_number(config, "num_hidden_layers"),
        hidden_size=_number(config, "hidden_size"),
        intermediate_size=_number(config, "moe_intermediate_size") or _number(config, "intermediate_size"),
        attention_heads=heads,
        key_value_heads=_number(config, "num_key_value_heads") or heads,
        head_dim=head_dim,
        key_dim=_number(config, "qk_head_dim") or head_dim,
        value_dim=_number(config, "v_head_dim") or head_dim,
        experts=_number(config, "num_local_experts") or _number(config, "num_experts"),
        experts_per_token=_number(config, "num_experts_per_tok"),
        vocabulary=_vocabulary(model, tensors),
        model_context_tokens=_number(config, "max_position_embeddings") or None,
        catalogue_context_tokens=spec.context_tokens,
        windows=_windows(config),
        attention=str(config._attn_implementation),
        parameters=sum(part.parameters for part in parts),
        stored_parameters=_stored(model, tensors),
        parts=parts,
        layer=last_layer(model),
        template=_template(folder, spec),
        batched=batched,
        precision=precision,
        paging=_paging(config, precision) if batched else None,
        loading_bytes=_loading_bytes(model, parts, tensors, precision, nf4=nf4),
    )


def _paging(config: Any, precision: Precision) -> Paging | None:
    """None for kinds of attention that transformers' batching does not know."""
    from transformers.generation.continuous_batching.cache import group_layers_by_attn_type
    from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

    try:
        groups = group_layers_by_attn_type(config)
    except ValueError:
        return None
    token_bytes = 2 * find_num_key_value_heads(config) * find_head_dim(config) * precision.size_bytes
    layers = tuple(len(group) for group in groups.values())
    return Paging(layers, token_bytes * PAGE_TOKENS, PAGE_TOKENS, STEP_TOKENS)


def _loading_bytes(
    model: PreTrainedModel, parts: tuple[Part, ...], tensors: Headers, precision: Precision, *, nf4: bool
) -> int:
    """What is on the device while the last weights are loaded, and gone then.

    A matrix that is quantized is there whole before it is; experts are put together in RAM, and come one by one, unless
    the files have them together. Where nothing is quantized, experts are put together on the device, which takes as
    much once more for what they are made of, and for what comes between.
    """
    if nf4:
        together = max((one.elements for one in tensors.values() if len(one.shape) == 3), default=0)
        return max(together, *(part.largest_matrix for part in parts)) * precision.size_bytes
    together = max((one.numel() for one in model.parameters() if one.dim() == 3), default=0)
    return 2 * together * precision.size_bytes


def _skeleton(folder: Path, spec: ModelSpec) -> PreTrainedModel:
    """The real class with shapes and no data."""
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"{spec.alias} cannot be examined: {without_config(folder)}. Check 'source'.")
    refuse_non_writers(spec, folder)
    return skeleton(folder)


def _number(config: Any, name: str) -> int:
    """A whole number of the config, 0 where there is none; some configs have one for each layer."""
    return max((value for value in values(config, name) if isinstance(value, int)), default=0)


def _windows(config: Any) -> tuple[int | None, ...]:
    """For each layer, as transformers' own cache will keep it."""
    from transformers.cache_utils import get_layer_types_and_kwargs

    types, options = get_layer_types_and_kwargs(config)
    return tuple(
        option.get("sliding_window") if "attention" in kind and not kind.startswith("linear") else 0
        for kind, option in zip(types, options, strict=True)
    )


def _vocabulary(model: PreTrainedModel, tensors: Headers) -> Vocabulary:
    """From the files where they have the matrix under the model's own name for it."""
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    first: Any = model.get_input_embeddings()
    last: Any = model.get_output_embeddings()
    tied = names.get(id(last)) in (model.all_tied_weights_keys or {})
    stored_first = tensors.get(names[id(first)])
    input_size = (stored_first.shape if stored_first else tuple(first.weight.shape))[0]
    if last is None or tied:
        return Vocabulary(input_size, input_size, tied)
    stored_last = tensors.get(names[id(last)])
    return Vocabulary(input_size, (stored_last.shape if stored_last else tuple(last.weight.shape))[0], tied)


def _stored(model: PreTrainedModel, tensors: Headers) -> int:
    """Parameters of the files; a tied matrix that was written twice counts once."""
    tied = model.all_tied_weights_keys or {}
    doubled = {name for name, source in tied.items() if name in tensors and source in tensors}
    return sum(tensor.elements for name, tensor in tensors.items() if name not in doubled)


def _template(folder: Path, spec: ModelSpec) -> TemplateTraits | None:
    try:
        tokenizer = read_tokenizer(folder)
        if tokenizer.chat_template is None:
            return None
        return probe(renderer(tokenizer))
    except TokenizerMissing as error:
        raise tokenizer_missing(spec, error) from error
    except TakesNoQuestion as error:
        log.warning("cannot use the chat template of %s: %r", spec.alias, error.__cause__ or error)
        raise takes_no_question(spec.alias) from error
    except Exception as error:  # tokenizers raise anything
        log.warning("cannot read the tokenizer of %s: %s", spec.alias, error)
        raise ModelUnavailable(
            f"{spec.alias} cannot be used: its tokenizer or chat template is missing or broken. Fetch it again."
        ) from error


__all__ = ["Anatomy", "Kind", "Part", "Vocabulary", "examine"]
