"""The kind of number that a model computes with: bfloat16, unless the GPU has none.

GPUs before compute capability 8.0 have no units for bfloat16; it is emulated there, many times slower than float16.
That has the same size and more digits, but ends at 65,504. Some families grow larger numbers than that inside: Gemma
multiplies its embeddings by the root of their width and its norms by one plus their weights, and its residual stream
passes the limit in the first layers; gpt-oss has single activations of that size. They would become infinite, and the
answers nonsense. So these families compute in float32 on such a GPU, which takes twice the memory for all that is not
NF4.
"""

from __future__ import annotations

from enum import StrEnum

BFLOAT16_CAPABILITY = (8, 0)  # from Ampere on

_TOO_LARGE_FOR_FLOAT16 = ("gemma", "gpt_oss")  # in the model's type, as its config has it


class Precision(StrEnum):
    """Under PyTorch's names."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"

    @property
    def size_bytes(self) -> int:
        """Of one number."""
        return 4 if self is Precision.FLOAT32 else 2


def precision_of(model_type: str, capability: tuple[int, int] | None) -> Precision:
    """What a model computes with.

    Args:
        model_type: as its config.json has it.
        capability: the GPU's; None for the CPU.
    """
    if capability is None or capability >= BFLOAT16_CAPABILITY:
        return Precision.BFLOAT16
    too_large = any(name in model_type.lower() for name in _TOO_LARGE_FOR_FLOAT16)
    return Precision.FLOAT32 if too_large else Precision.FLOAT16
