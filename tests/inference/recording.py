"""What a CUDA graph does, on the CPU: a step is recorded once, and repeated by the same operations on the same memory.

Nothing of Python happens in a repeated step. Each operation gets the numbers it had, and the tensors with what is in
them now, and writes its result where it wrote it before. Views are no operations. What a device would have to be waited
for, or what was copied from the host in the middle, is refused, as CUDA refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bot.inference.graphs import Repeat

_aten: Any = torch.ops.aten
_REFUSED = {
    _aten._local_scalar_dense.default,
    _aten.lift_fresh.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
}


class Recorder:
    """Takes the place of `CudaCapture`.

    Attributes:
        tapes: all that was recorded.
    """

    is_able = True

    def __init__(self) -> None:
        self.tapes: list[Tape] = []

    def taken(self, run: Callable[[], None]) -> Repeat:
        """See `Capture.taken`."""
        tape = Tape()
        with tape:
            run()
        self.tapes.append(tape)
        return tape.play


class Tape(TorchDispatchMode):
    """The operations of one step.

    Attributes:
        given: where the memory begins of all tensors that the step uses and did not make.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[tuple[Any, Sequence[Any], dict[str, Any], Any]] = []
        self._made: set[int] = set()
        self.given: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        is_by_mask = func in (_aten.index.Tensor, _aten.index_put_.default) and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        if func in _REFUSED or is_by_mask:
            raise RuntimeError(f"{func} cannot be recorded")
        self.given |= _memory((args, kwargs)) - self._made
        result = func(*args, **kwargs)
        self._made |= _memory(result) - self.given
        if not func.is_view:
            self._calls.append((func, args, kwargs, result))
        return result

    def play(self) -> None:
        """Take the step once more."""
        for func, args, kwargs, before in self._calls:
            result = func(*args, **kwargs)
            if func._schema.is_mutable:
                continue
            for old, new in zip(tree_leaves(before), tree_leaves(result), strict=True):
                if isinstance(old, torch.Tensor):
                    assert old.shape == new.shape
                    old.copy_(new)


def _memory(tree: Any) -> set[int]:
    return {
        one.untyped_storage().data_ptr()
        for one in tree_leaves(tree)
        if isinstance(one, torch.Tensor) and one.numel()
    }
