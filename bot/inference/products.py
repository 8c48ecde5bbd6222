"""The matrix products of a model on the CPU, with less around each.

A small model's step on a CPU is some two hundred products, and bitsandbytes' way from a layer to its kernel takes two
to three times as long as the kernel. Here a layer's `forward` calls the kernel itself, layers that read the same input
are one product, and the output head keeps its weights in the order in which they are read.

Nothing else changes: the layers, their weights and the results are bitsandbytes'. On a GPU, and wherever a layer's
shape or the processor does not suit the kernel, everything stays as transformers and bitsandbytes have it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from ctypes import CFUNCTYPE, c_int64, c_void_p, cast
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# What transformers' models compute from one and the same input, by the layers' names.
_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))

# The kernel takes weights in blocks of so many rows, and columns in the blocks that have a scale each.
_ROWS = 32
_COLUMNS = 64

# The head of a model whose embedding is the same tensor is kept twice, once in each order: only where that is little.
HEAD_COPY_LIMIT_BYTES = 64 * 2**20

_Kernel = Callable[..., None]


def use_direct_products(model: Any) -> None:
    """Give the 4-bit layers of a model on the CPU, and its output head, a `forward` of ours.

    Takes a pass over all weights: bitsandbytes lays them out for its kernel with the first product, which is now.
    """
    import torch
    from bitsandbytes.nn.modules import Linear4bit

    with torch.inference_mode():
        for module in model.modules():
            if isinstance(module, Linear4bit) and not _laid_out(module):
                # bitsandbytes tries its kernel on every shape, and fails: now it computes as on older processors.
                module.support_avx512bf16_for_cpu = False
        for parent in model.modules():
            for names in _TOGETHER:
                layers = [getattr(parent, name, None) for name in names]
                if all(_suits(layer) for layer in layers):
                    _join(layers)
        for module in model.modules():
            if _suits(module):
                _join([module])
    _pack_head(model)


def _laid_out(layer: Any) -> bool:
    """Have bitsandbytes lay a layer's weights out for its kernel; whether it did."""
    import torch

    if layer.weight.device.type != "cpu" or not layer.support_avx512bf16_for_cpu:
        return True  # no such kernel here
    if layer.out_features % _ROWS or layer.in_features % _COLUMNS:
        return False
    layer(torch.zeros(1, layer.in_features, dtype=torch.bfloat16))
    return True


def _suits(layer: Any) -> bool:
    """Whether a module is a 4-bit layer that the kernel computes, and has no `forward` of ours yet."""
    state: Any = getattr(getattr(layer, "weight", None), "quant_state", None)
    return bool(
        getattr(state, "packing_format_for_cpu", False)
        and state.quant_type == "nf4"
        and "forward" not in vars(layer)
    )


def _join(layers: Sequence[Any]) -> None:
    if len({(layer.in_features, layer.bias is None) for layer in layers}) > 1:
        return
    product = _Product(layers, _kernel())
    for place, layer in enumerate(layers):
        layer.forward = _Part(product, place)


@cache
def _kernel() -> _Kernel:
    """bitsandbytes' product of bfloat16 rows and NF4 weights, under a type of our own: bitsandbytes' stays as it is.

    Its arguments: rows, outputs, inputs; addresses of the rows, the weights, their scales, and the result; weights a
    scale; and from one row to the next, of input and result.
    """
    from bitsandbytes.cextension import lib

    found: Any = lib.gemv_4bit_inference_cpu_nf4_bf16
    kind = CFUNCTYPE(None, *[c_int64] * 3, *[c_void_p] * 4, *[c_int64] * 3)
    address: int = cast(found, c_void_p).value or 0
    return kind(address)


class _Product:
    """The product of one input and the weights of one or several layers.

    Whichever layer comes first computes all; the others, asked with the same tensor, get their part.
    """

    def __init__(self, layers: Sequence[Any], kernel: _Kernel) -> None:
        import torch

        self._kernel = kernel
        self._empty = torch.empty
        self._dtype = torch.bfloat16
        self._sizes = [layer.out_features for layer in layers]
        self._in_features = layers[0].in_features
        self._block = layers[0].weight.quant_state.blocksize
        self._weight = _joined([layer.weight.data for layer in layers], 0)
        self._scales = _joined([layer.weight.quant_state.absmax for layer in layers], 1)
        has_bias = layers[0].bias is not None
        self._bias = torch.cat([layer.bias.data for layer in layers]).to(self._dtype) if has_bias else None
        if len(layers) > 1:  # what was theirs is now a view of what is joined, so that there is one copy
            rows = self._weight.split(self._sizes)
            scales = self._scales.split(self._sizes, 1)
            for layer, own, scale in zip(layers, rows, scales, strict=True):
                layer.weight.data = own
                layer.weight.quant_state.absmax = scale
        self._out_features = sum(self._sizes)
        self._addresses = self._weight.data_ptr(), self._scales.data_ptr()
        self._input: torch.Tensor | None = None
        self._waiting: dict[int, torch.Tensor] = {}

    def part(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """What layer `place` makes of x, [..., in] → [..., out]."""
        if x is self._input and place in self._waiting:
            waiting = self._waiting.pop(place)
            if not self._waiting:
                self._input = None
            return waiting
        whole = self._computed(x)
        if len(self._sizes) == 1:
            return whole
        parts: tuple[torch.Tensor, ...] = whole.split(self._sizes, -1)
        self._input = x
        self._waiting = {n: part for n, part in enumerate(parts) if n != place}
        return parts[place]

    def _computed(self, x: torch.Tensor) -> torch.Tensor:
        is_plain = x.dtype is self._dtype and x.is_contiguous()
        rows = x if is_plain else x.to(self._dtype).contiguous()
        count = rows.numel() // self._in_features
        out: torch.Tensor = self._empty((*x.shape[:-1], self._out_features), dtype=self._dtype)
        weight, scales = self._addresses
        inputs, outputs = self._in_features, self._out_features
        if not count:
            return out
        self._kernel(
            count,
            outputs,
            inputs,
            rows.data_ptr(),
            weight,
            scales,
            out.data_ptr(),
            self._block,
            inputs,
            outputs,
        )
        if self._bias is not None:
            out += self._bias
        return out if is_plain else out.to(x.dtype)


class _Part:
    """A layer's `forward`."""

    __slots__ = ("_place", "_product")

    def __init__(self, product: _Product, place: int) -> None:
        self._product = product
        self._place = place

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._product.part(self._place, x)


def _joined(parts: list[torch.Tensor], dim: int) -> torch.Tensor:
    import torch

    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim)).contiguous()


def _pack_head(model: Any) -> None:
    """Keep the output head's weights in the order in which oneDNN reads them, which else it makes for every product."""
    import torch

    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or "forward" in vars(head):
        return
    weight = head.weight
    if (
        weight.device.type != "cpu"
        or weight.dtype is not torch.bfloat16
        or weight.nbytes > HEAD_COPY_LIMIT_BYTES
        or not torch.backends.mkldnn.is_available()
        or not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.data, 1)
        multiply = torch.ops.mkldnn._linear_pointwise
    except (AttributeError, RuntimeError) as error:  # not part of torch's public interface
        log.debug("the output head stays as it is: %s", error)
        return
    bias = head.bias

    def forward(x: torch.Tensor) -> torch.Tensor:
        if x.dtype is not weight.dtype:
            return torch.nn.functional.linear(x, weight, bias)
        result: torch.Tensor = multiply(x, packed, bias, "none", [], "")
        return result

    vars(head)["forward"] = forward
