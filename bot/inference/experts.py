"""Mixture-of-experts weights in NF4.

transformers keeps the experts of a layer as fused three-dimensional parameters, and its bitsandbytes quantizer looks at
linear layers only: Mixtral 8x7B would take over 90 GB. Here they are quantized expert by expert while they are
loaded, and each becomes a 4-bit linear layer, of which only those that were hit are computed. A layer's experts are put
together in RAM, so that a GPU holds no more than one of them in full; Mixtral's would take 5.6 GB of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_QUANTIZER = "bitsandbytes_4bit"  # transformers' name for the one that is extended
_WEIGHTS = ("gate_up_proj", "down_proj")
_FORWARD = ["self", "hidden_states", "top_k_index", "top_k_weights"]


def understood(module: torch.nn.Module) -> bool:
    """Whether a module holds experts as fused weights, [experts, out, in] with gate and up one after the other, and
    nothing else that would have to be computed: told by its structure, not by its name."""
    weights = [getattr(module, name, None) for name in _WEIGHTS]
    plain = getattr(module, "has_gate", False) and getattr(module, "is_concatenated", False)
    special = any(
        getattr(module, name, True) for name in ("has_bias", "has_post_expert_norm", "is_transposed")
    )
    fused = all(getattr(weight, "ndim", None) == 3 for weight in weights)
    return bool(
        plain and not special and fused and list(signature(type(module).forward).parameters) == _FORWARD
    )


def becomes_nf4(module: torch.nn.Module, name: str) -> bool:
    """Whether the parameter `name` of a module is fused weights that are quantized here."""
    return name in _WEIGHTS and understood(module)


@contextmanager
def experts_quantized(*, already: bool = False) -> Iterator[None]:
    """While the block runs, transformers' 4-bit quantizer takes experts too. It is the whole process's.

    Args:
        already: what is read was saved from such a model, so its experts are layers in the files.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    quantizers: dict[str, Any] = AUTO_QUANTIZER_MAPPING
    before = quantizers[_QUANTIZER]
    quantizers[_QUANTIZER] = _reader_class() if already else _quantizer_class()
    try:
        yield
    finally:
        quantizers[_QUANTIZER] = before


@cache
def _experts_class() -> type[Any]:
    """The module that takes the place of the fused experts; made when torch is there."""
    import torch

    class Nf4Experts(torch.nn.Module):
        """Experts as 4-bit linear layers; `forward` does what the eager forward of transformers' modules does."""

        def __init__(self, fused: torch.nn.Module, gate_up: list[Any], down: list[Any]) -> None:
            super().__init__()
            for name in _WEIGHTS:
                setattr(fused, name, None)
            self.fused = fused  # without its weights; it knows how its gate is applied
            self.gate_up_proj = torch.nn.ModuleList(gate_up)
            self.down_proj = torch.nn.ModuleList(down)

        def forward(
            self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
        ) -> torch.Tensor:
            """Hidden states [tokens, hidden], each token's experts and their weights [tokens, k] → [tokens, hidden]."""
            fused: Any = self.fused
            result = torch.zeros_like(hidden_states)
            ordered, order = top_k_index.flatten().sort(stable=True)
            tokens, weights = order // top_k_index.shape[-1], top_k_weights.flatten()[order]
            experts = torch.arange(len(self.down_proj) + 1, device=ordered.device)
            # Where each expert's tokens begin. What is read back here is all that the host waits for. Numbers of more
            # experts than there are stand behind: where experts are spread over devices, somebody else's.
            begins = torch.searchsorted(ordered, experts).tolist()
            for expert, (begin, end) in enumerate(pairwise(begins)):
                if begin == end:
                    continue
                mine = tokens[begin:end]
                gated = fused._apply_gate(self.gate_up_proj[expert](hidden_states[mine]))
                answer = self.down_proj[expert](gated) * weights[begin:end, None]
                result.index_add_(0, mine, answer.to(result.dtype))
            return result

    return Nf4Experts


@cache
def _quantizer_class() -> type[Any]:  # noqa: C901  a class with all its methods, which needs transformers
    """transformers' quantizer, for experts too; made when transformers is there."""
    import torch
    from bitsandbytes.nn.modules import Linear4bit, Params4bit
    from transformers.core_model_loading import WeightConverter
    from transformers.integrations.bitsandbytes import Bnb4bitQuantize
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
    from transformers.quantizers.quantizers_utils import get_module_from_name

    class Nf4Quantizer(Bnb4BitHfQuantizer):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.packed: dict[str, list[Any]] = {}  # the experts of each fused parameter, quantized
            self.broken: list[str] = []  # fused parameters of another shape than the model's
            self._known: dict[str, bool] = {}  # whether a module's experts are understood, by its path
            self._device = torch.device("cpu")  # where the model will be

        def holds_experts(self, model: Any, name: str) -> bool:
            path, _, last = name.rpartition(".")
            if last not in _WEIGHTS:
                return False  # most weights, without looking for their module
            # Once quantized its weights are empty, and it is still one of them.
            if path not in self._known:
                self._known[path] = becomes_nf4(model.get_submodule(path), last)
            return self._known[path]

        def param_needs_quantization(self, model: Any, param_name: str, **options: Any) -> bool:
            ours = self.holds_experts(model, param_name)
            return ours or super().param_needs_quantization(model, param_name, **options)

        def _process_model_before_weight_loading(
            self, model: Any, device_map: Any = None, **options: Any
        ) -> None:
            self._device = torch.device((device_map or {}).get("", "cpu"))
            super()._process_model_before_weight_loading(model, device_map=device_map, **options)

        def update_weight_conversions(self, weight_conversions: list[Any], model: Any) -> list[Any]:
            conversions = super().update_weight_conversions(weight_conversions, model)  # type: ignore[no-untyped-call]
            for one in conversions:
                if isinstance(one, WeightConverter) and any(
                    target.endswith(_WEIGHTS) for target in one.target_patterns
                ):
                    one.force_cpu = True
            return list(conversions)

        def get_quantize_ops(self) -> Any:
            return Quantize(self)  # type: ignore[no-untyped-call]

        def layer(self, out_features: int, in_features: int) -> Any:
            """A 4-bit linear layer without its weight."""
            config = self.quantization_config
            return Linear4bit(  # type: ignore[no-untyped-call]
                in_features,
                out_features,
                bias=False,
                compute_dtype=config.bnb_4bit_compute_dtype,
                compress_statistics=config.bnb_4bit_use_double_quant,
                quant_type=config.bnb_4bit_quant_type,
                device="meta",
            )

        def pack(self, weight: torch.Tensor) -> Any:
            """One expert's weight [out, in] as a 4-bit linear layer."""
            config = self.quantization_config
            layer = self.layer(*weight.shape)
            packed: Any = Params4bit(
                weight.contiguous(),
                requires_grad=False,
                quant_type=config.bnb_4bit_quant_type,
                compress_statistics=config.bnb_4bit_use_double_quant,
                module=layer,
            )
            layer.weight = packed.to(self._device)
            return layer

        def _process_model_after_weight_loading(self, model: Any, **options: Any) -> Any:
            # transformers compares no shape of what is quantized. It is raised here, after the load, because
            # transformers keeps to itself what goes wrong while it converts weights.
            if self.broken:
                count, first = len(self.broken), self.broken[0]
                raise ValueError(f"{count} weights are not whole in its files, such as {first}")
            for path in sorted({name.rpartition(".")[0] for name in self.packed}):
                parent, last = get_module_from_name(model, path)
                layers = [self.packed.pop(f"{path}.{name}", None) for name in _WEIGHTS]
                if None in layers:
                    continue  # one of them is in no file, which the loader says
                setattr(parent, last, _experts_class()(model.get_submodule(path), *layers))
            _tell_of_the_rest(model)
            return super()._process_model_after_weight_loading(model, **options)

    class Quantize(Bnb4bitQuantize):
        def convert(  # type: ignore[override]  # transformers calls it by names, all of which are passed on
            self, input_dict: dict[str, Any], *, model: Any = None, **options: Any
        ) -> Any:
            quantizer = self.hf_quantizer
            result = {}
            for name, value in list(input_dict.items()):
                if quantizer.holds_experts(model, name):
                    del input_dict[name]
                    fused = value[0] if isinstance(value, list) else value
                    expected = model.get_parameter(name).shape
                    if fused.shape != expected:
                        quantizer.broken.append(f"{name}: {list(fused.shape)} and not {list(expected)}")
                        fused = fused[:0]
                    quantizer.packed[name] = [quantizer.pack(expert) for expert in fused]
                    empty = fused.new_empty(0)
                    result[name] = torch.nn.Parameter(empty, requires_grad=False)
            return result | super().convert(input_dict, model=model, **options)

    return Nf4Quantizer


@cache
def _reader_class() -> type[Any]:
    """The same for what was saved from such a model: the layers are there before their weights are read."""
    from transformers.quantizers.quantizers_utils import get_module_from_name

    class Nf4Reader(_quantizer_class()):  # type: ignore[misc]  # made when transformers is there
        def _process_model_before_weight_loading(self, model: Any, *given: Any, **options: Any) -> None:
            super()._process_model_before_weight_loading(model, *given, **options)
            for path, module in list(model.named_modules()):
                if understood(module):
                    module._is_hf_initialized = True  # it will have no weights to draw
                    parent, last = get_module_from_name(model, path)
                    layers = [
                        [self.layer(*expert.shape) for expert in getattr(module, name)] for name in _WEIGHTS
                    ]
                    setattr(parent, last, _experts_class()(module, *layers))

    return Nf4Reader


def left_as_they_are(model: Any) -> list[str]:
    """The names of fused weights that are not quantized, because they are of a kind that is not known here."""
    return [
        name for name, weight in model.named_parameters() if weight.dim() == 3 and weight.is_floating_point()
    ]


def _tell_of_the_rest(model: Any) -> None:
    if left := left_as_they_are(model):
        log.warning(
            "%d fused weights are not quantized, such as %s: they need four times the memory",
            len(left),
            left[0],
        )
