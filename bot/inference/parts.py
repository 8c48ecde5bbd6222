"""A model taken apart by kind of module: how many, how many parameters, and what they take once loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bot.inference.experts import becomes_nf4
from bot.inference.precision import Precision

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

# NF4 with double quantization: 4 bits, for each block of 64 a scale of 8 bits, and for each 256 of those scales
# one of 32 bits (Dettmers et al., QLoRA, 2023, section 3). The two tables of values, about a kilobyte for each
# matrix, are left out.
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
_BYTES = {"NF4": NF4_BITS / 8} | {precision.value: float(precision.size_bytes) for precision in Precision}


class Kind(StrEnum):
    """What a module is for; the order is the one in which a token meets them."""

    EMBEDDING = "embedding"
    NORM = "norms"
    ATTENTION = "attention"
    ROUTER = "router"
    EXPERTS = "experts"
    MLP = "MLP"
    OTHER = "other"
    HEAD = "output head"


@dataclass(frozen=True, slots=True)
class Part:
    """All modules of one kind.

    Attributes:
        count: how many modules; each expert counts as one, a head that is tied to the embedding as none.
        storage: "NF4", or the kind of number in which most of it is kept. Biases have that beside NF4.
        size_bytes: what it takes when loaded.
        largest_matrix: the parameters of its largest matrix that is kept as NF4; 0 if there is none.
    """

    kind: Kind
    count: int
    parameters: int
    storage: str
    size_bytes: int
    largest_matrix: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """One tensor of a layer: its name inside the layer, and its shape as torch has it (out, in)."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Tensor:
    kind: Kind
    module: str
    shape: tuple[int, ...]
    storage: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def take_apart(
    model: PreTrainedModel, *, nf4: bool, precision: Precision = Precision.BFLOAT16
) -> tuple[Part, ...]:
    """The parts of a model that was built on the meta device; what is tied counts once.

    With `nf4`, storage is what the loader makes of it: linear layers and those experts that `experts.py`
    understands are quantized; embeddings, norms, the output head and whatever the architecture excludes are not.
    """
    tensors = list(_tensors(model, nf4=nf4, precision=precision))
    parts = []
    for kind in Kind:
        own = [tensor for tensor in tensors if tensor.kind is kind]
        if not own:
            continue
        storages = {tensor.storage for tensor in own}
        by_storage = {name: sum(t.elements for t in own if t.storage == name) for name in storages}
        parts.append(
            Part(
                kind=kind,
                count=_count(own),
                parameters=sum(by_storage.values()),
                storage=max(by_storage, key=lambda name: by_storage[name]),
                size_bytes=math.ceil(sum(_BYTES[name] * count for name, count in by_storage.items())),
                largest_matrix=max(
                    (math.prod(t.shape[-2:]) for t in own if t.storage == "NF4"),
                    default=0,
                ),
            )
        )
    return tuple(parts)


def last_layer(model: PreTrainedModel) -> tuple[Matrix, ...]:
    """The tensors of the last layer: where layers differ, the first ones are the odd ones."""
    found: dict[int, list[Matrix]] = {}
    for name, parameter in model.named_parameters():
        if inside := re.search(r"\.(?:layers|h|blocks|block)\.(\d+)\.(.+)", name):
            found.setdefault(int(inside[1]), []).append(Matrix(inside[2], tuple(parameter.shape)))
    return tuple(found[max(found)]) if found else ()


def _count(tensors: list[_Tensor]) -> int:
    """Modules, experts one by one: a fused weight holds one matrix for each."""
    fused = {tensor.module: tensor.shape[0] for tensor in tensors if len(tensor.shape) == 3}
    return sum(fused.values()) + len({tensor.module for tensor in tensors} - fused.keys())


def _tensors(model: PreTrainedModel, *, nf4: bool, precision: Precision) -> Iterator[_Tensor]:
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    modules = dict(model.named_modules())
    # The map of what is tied, and not whether it is tied now: another thread that loads a model keeps
    # transformers from tying for as long as that takes.
    tied = set(model.all_tied_weights_keys or {})
    excluded = HfQuantizer.get_modules_to_not_convert(
        model, None, list(getattr(model, "_keep_in_fp32_modules", None) or [])
    )
    strict = tuple(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in tied:
            continue
        path, _, own_name = name.rpartition(".")
        module = modules[path]
        kind = _kind(model, path, module)
        if any(word in name.split(".") for word in strict):
            storage = "float32"
        elif nf4 and _is_quantized(module, own_name) and should_convert_module(path, excluded):
            storage = "NF4"
        else:
            storage = precision.value
        yield _Tensor(kind, path, tuple(parameter.shape), storage)


def _is_quantized(module: nn.Module, own_name: str) -> bool:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    linear = type(module) is nn.Linear or isinstance(module, Conv1D)
    return (linear and own_name == "weight") or becomes_nf4(module, own_name)


def _kind(model: PreTrainedModel, path: str, module: nn.Module) -> Kind:
    from torch import nn

    words = path.lower().split(".")
    if module is model.get_output_embeddings():
        return Kind.HEAD
    if module is model.get_input_embeddings() or isinstance(module, nn.Embedding):
        return Kind.EMBEDDING
    if "norm" in type(module).__name__.lower() or "norm" in words[-1] or words[-1].startswith("ln_"):
        return Kind.NORM
    if any("expert" in word for word in words):
        return Kind.EXPERTS
    if "router" in words[-1] or words[-1] == "gate":
        return Kind.ROUTER
    if any("attn" in word or "attention" in word for word in words):
        return Kind.ATTENTION
    if any(word in ("mlp", "ffn") or "feed_forward" in word for word in words):
        return Kind.MLP
    return Kind.OTHER
