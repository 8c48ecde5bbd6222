"""Quantized weights on disk, so that a model is quantized once.

Reading a checkpoint in bfloat16 and quantizing it takes most of a load. After the first one the model is saved as it is
then, in NF4, a quarter of the bytes; the next load reads that. What is kept is only ever a copy: where it is missing,
stale or damaged, the load goes the long way again, and nobody sees more of it than a longer wait.

Not kept are models whose experts are quantized here (`experts.py`): transformers would not know their layers again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bot.inference.catalog import ModelSpec

log = logging.getLogger(__name__)

# What a copy depends on beside the files: how it is written and read, and what `loader.py` asks for.
_MADE_WITH = ("transformers", "bitsandbytes", "torch")
_FORM = "nf4, double quantization, bfloat16"

# A copy may take this share of what is free on its disk: it is worth less than what else is kept there.
_FREE_SHARE = 0.5


class QuantizedCopies:
    """Where copies are kept, a folder for each checkpoint.

    Args:
        folder: made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, spec: ModelSpec, source: Path) -> Path | None:
        """The copy of a checkpoint as it is now, if there is one."""
        copy = self._folder / _name(spec, source)
        return copy if copy.is_dir() else None

    def keep(self, model: Any, spec: ModelSpec, source: Path) -> None:
        """Save a model that was just quantized, and remove older copies of it. What goes wrong is one line in the log.

        To be called before the model's first answer: on some processors bitsandbytes then changes the weights' order.
        """
        copy = self._folder / _name(spec, source)
        partial = copy.with_name(f".{copy.name}.{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_others(copy)
            if model.get_memory_footprint() > shutil.disk_usage(self._folder).free * _FREE_SHARE:
                log.warning("%s is not kept quantized: the disk of CACHE_DIR is nearly full", spec.alias)
                return
            model.save_pretrained(partial)
            partial.rename(copy)
        except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
            log.warning("%s is not kept quantized: %s", spec.alias, error)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def drop(self, copy: Path) -> None:
        """Remove a copy that cannot be read."""
        shutil.rmtree(copy, ignore_errors=True)

    def _remove_others(self, copy: Path) -> None:
        """What was kept of the same checkpoint before, and what a killed process left of it."""
        checkpoint = copy.name.partition("-")[0]
        for other in (*self._folder.glob(f"{checkpoint}-*"), *self._folder.glob(f".{checkpoint}-*")):
            shutil.rmtree(other, ignore_errors=True)


def keepable(model: Any, spec: ModelSpec) -> bool:
    """Whether a model just loaded was quantized in this load, by transformers alone."""
    from bot.inference.experts import has_experts

    config = getattr(model.config, "quantization_config", None)
    by_bitsandbytes = getattr(config, "quant_method", None) == "bitsandbytes"
    return spec.quantization != "none" and by_bitsandbytes and not has_experts(model)


def _name(spec: ModelSpec, source: Path) -> str:
    """Of which checkpoint a copy is, and of which state of it."""
    state = [f"{name} {version(name)}" for name in _MADE_WITH] + [_FORM, spec.quantization]
    for file in sorted(source.iterdir()):
        if file.suffix in {".json", ".safetensors"} and file.is_file():
            told = file.stat()  # of what a link leads to
            state.append(f"{file.name} {told.st_size} {told.st_mtime_ns}")
    return f"{_digest(str(source.resolve()))}-{_digest(*state)}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
