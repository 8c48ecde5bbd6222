"""Make this process compute as on a processor without AVX512: bitsandbytes' NF4 kernel for CPUs is not there.

bitsandbytes asks one function of its C++ library whether the kernel can run. It is answered here, as soon as that
library is loaded, so that every module that asks later hears the same. PyTorch and oneDNN read their switches
(`ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA`) from the environment by themselves.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LIBRARY = "bitsandbytes.cextension"


def no_kernel() -> bool:
    """Stands in for the library's `has_avx512bf16_cpu`."""
    return False


class _Loader(importlib.abc.Loader):
    """Runs the module, then answers the question."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        library: Any = module.__dict__["lib"]
        library.has_avx512bf16_cpu = no_kernel


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != LIBRARY:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
