"""What safetensors files say of themselves: each tensor's name, type and shape, without its weights.

A file begins with the length of its header (8 bytes, little-endian), then the header as JSON, then the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.errors import ModelUnavailable
from bot.inference.files import NOT_READABLE, instead_of_weights, plain

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_LONGEST_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """One tensor: its type as the format names it ("BF16"), and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


Headers = Mapping[str, TensorHeader]


def read_headers(folder: Path, alias: str) -> Headers:
    """The tensors of a checkpoint by name, of all its shards.

    Raises:
        ModelUnavailable: there are no safetensors weights, a shard is missing, or a header is broken or longer
            than its file.
    """
    tensors: dict[str, TensorHeader] = {}
    for name in shard_names(folder, alias):
        try:
            tensors |= _of_file(folder / name)
        except PermissionError as error:
            raise ModelUnavailable(f"{alias} cannot be used: {NOT_READABLE}.") from error
        except OSError as error:
            raise ModelUnavailable(
                f"{alias} is not whole: {plain(name)} is missing or cannot be read. Fetch it again."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise broken(alias, plain(name)) from error
    return tensors


def shard_names(folder: Path, alias: str) -> tuple[str, ...]:
    """The files that hold the weights: those of the index where there is one, as transformers takes them.

    Raises:
        ModelUnavailable: there are none, or the index is broken.
    """
    if (folder / SINGLE_FILE).is_file():
        return (SINGLE_FILE,)
    try:
        index = json.loads((folder / INDEX_FILE).read_bytes())
        names = tuple(sorted({str(name) for name in index["weight_map"].values()}))
    except FileNotFoundError:
        names = ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise broken(alias, INDEX_FILE) from error
    if not names:
        raise no_safetensors(alias, instead_of_weights(folder))
    if any(Path(name).name != name for name in names):  # it must not lead out of the folder
        raise broken(alias, INDEX_FILE)
    return names


def broken(alias: str, file: str) -> ModelUnavailable:
    """The sentence for a file that cannot be what it should be."""
    return ModelUnavailable(f"{alias} cannot be used: {file} is broken or was cut off. Fetch it again.")


def no_safetensors(alias: str, instead: str | None = None) -> ModelUnavailable:
    """The sentence for a model that has none; `instead` is what it is, where that is known."""
    if instead is not None:
        return ModelUnavailable(f"{alias} cannot be used: {instead}.")
    return ModelUnavailable(
        f"{alias} has no safetensors weights, and older formats, which can hold code, are not opened: choose a "
        "repository or folder with *.safetensors files."
    )


def _of_file(path: Path) -> dict[str, TensorHeader]:
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER_BYTES, size_bytes - 8):
            raise ValueError("a header of an impossible length")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    ends = [int(entry["data_offsets"][1]) for entry in header.values()]
    if 8 + length + max(ends, default=0) > size_bytes:
        raise ValueError("the data end before their time")
    return {name: _tensor(entry) for name, entry in header.items()}


def _tensor(entry: Mapping[str, Any]) -> TensorHeader:
    return TensorHeader(str(entry["dtype"]), tuple(int(size) for size in entry["shape"]))
