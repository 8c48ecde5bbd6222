"""Quantized weights on disk, so that a model is quantized once.

Reading a checkpoint and quantizing it takes most of a load. After the first one the model is saved as it is
then, in NF4, a quarter of the bytes; the next load reads that. What is kept is only ever a copy: where it is missing,
stale or damaged, the load goes the long way again, and nobody sees more of it than a longer wait.

A copy is for one kind of number (`precision.py`): another GPU may compute with another, and puts its own copy in the
place of this.

Experts that are quantized here (`experts.py`) are in it as the layers that they became, and read as such. Not kept are
models whose experts stay as they are.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bot.inference import files
from bot.inference.catalog import ModelSpec
from bot.inference.experts import left_as_they_are
from bot.inference.weights import held_bytes, precision_in

log = logging.getLogger(__name__)

# What a copy depends on beside the files: how it is written and read, and what `loader.py` asks for.
_MADE_WITH = ("transformers", "bitsandbytes", "torch")
_FORM = "nf4, double quantization; experts as layers; in shards"

# What is in one file. Its weights are copied from the GPU to RAM before they are written, which takes so much of it.
_SHARD_BYTES = 10**9

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
        try:
            copy = self._folder / _name(spec, source)
        except (OSError, ValueError):  # a config that cannot be read, of which the load will say so
            return None
        return copy if copy.is_dir() else None

    def keep(self, model: Any, spec: ModelSpec, source: Path) -> None:
        """Save a model that was just quantized, and remove older copies of it. What goes wrong is one line in the log.

        To be called before the model's first answer: on some processors bitsandbytes then changes the weights' order.
        """
        partial = None
        try:
            copy = self._folder / _name(spec, source)
            partial = copy.with_name(f".{copy.name}.{os.getpid()}")
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_others(copy)
            if held_bytes(model) > shutil.disk_usage(self._folder).free * _FREE_SHARE:
                log.warning("%s is not kept quantized: the disk of CACHE_DIR is nearly full", spec.alias)
                return
            _save(model, partial)
            partial.rename(copy)
        except (
            Exception
        ) as error:  # whatever it is, the model is loaded: a full disk is a SafetensorError, for one
            log.warning("%s is not kept quantized: %s", spec.alias, error)
        finally:
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)

    def drop(self, copy: Path) -> None:
        """Remove a copy that cannot be read. It loses its name first: one that is half removed is never read."""
        gone = copy.with_name(f".{copy.name}.{os.getpid()}.gone")
        with suppress(OSError):
            copy.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _remove_others(self, copy: Path) -> None:
        """What was kept of the same checkpoint before, and what a killed process left of it."""
        checkpoint = copy.name.partition("-")[0]
        for left in self._folder.glob(f".{checkpoint}-*"):
            shutil.rmtree(left, ignore_errors=True)
        for other in self._folder.glob(f"{checkpoint}-*"):
            self.drop(other)


def keepable(model: Any) -> bool:
    """Whether a model just loaded could be read again: bitsandbytes quantized it, and no fused weights were left as
    they are, some of which transformers looks for in another form where a checkpoint is quantized (Llama 4's)."""
    config = getattr(model.config, "quantization_config", None)
    return getattr(config, "quant_method", None) == "bitsandbytes" and not left_as_they_are(model)


def _save(model: Any, folder: Path) -> None:
    """Write a model so that it is on the disk, and not only on its way there: after a power failure a file that was
    renamed may else have its length and none of its data, and the model would talk nonsense."""
    dtype = model.config.dtype
    try:
        # Under the model's own names: what experts became has none in the checkpoint's form.
        model.save_pretrained(folder, save_original_format=False, max_shard_size=_SHARD_BYTES)
    finally:
        model.config.dtype = dtype  # which transformers has made a word of
    for file in folder.iterdir():
        with file.open("rb+") as written:
            os.fsync(written.fileno())


def _name(spec: ModelSpec, source: Path) -> str:
    """Of which checkpoint a copy is, and of which state of it. One of the Hub's is the same in its next revision, whose
    files are in another folder."""
    state = [f"{name} {version(name)}" for name in _MADE_WITH] + [
        _FORM,
        spec.quantization,
        precision_in(source),
    ]
    state += files.state(source, {".json", ".safetensors"})
    checkpoint = f"Hub {spec.repository}" if spec.repository else str(source.resolve())
    return f"{_digest(checkpoint)}-{_digest(*state)}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
