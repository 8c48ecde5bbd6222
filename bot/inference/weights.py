"""A checkpoint's weights, read by transformers, and how far it is with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bot.inference.device import capability, gpu, is_out_of_memory
from bot.inference.device_failure import is_of_device
from bot.inference.experts import experts_quantized
from bot.inference.generation_config import read_token_ids
from bot.inference.load_errors import MissingWeights
from bot.inference.precision import Precision, precision_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DESCRIPTION = "Loading weights"  # what transformers calls its own bar


@contextmanager
def weights_reported(report: Callable[[float], None]) -> Iterator[None]:
    """While the block runs, `report` hears what part of the weights is in place, 0 to 1.

    It sits where transformers would draw a progress bar, of which there is one for the whole process. What
    `report` raises ends the load.
    """
    from transformers.utils import logging

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if options.get("desc") == _DESCRIPTION and args:
            return _Counted(args[0], report)
        return factory(*args, **options)

    before = logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


class _Counted:
    """Stands in for a bar that is iterated over."""

    def __init__(self, items: Any, report: Callable[[float], None]) -> None:
        self._items = items
        self._report = report

    def __iter__(self) -> Iterator[Any]:
        total = len(self._items)
        for done, item in enumerate(self._items):
            self._report(done / total)
            yield item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


def precision_in(folder: Path) -> Precision:
    """What the model in a folder computes with on this machine's device.

    Raises:
        OSError, ValueError: its config.json cannot be read.
    """
    config = json.loads((folder / "config.json").read_bytes())
    model_type = config.get("model_type") if isinstance(config, dict) else None
    return precision_of(str(model_type or ""), capability())


def held_bytes(model: PreTrainedModel) -> int:
    """What a model's weights take, with the scales and tables of those that are quantized: transformers does not count
    these, 2.9 % of NF4 with double quantization."""
    storages: dict[int, int] = {}
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        for tensor in _tensors_of(state):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return int(model.get_memory_footprint()) + sum(storages.values())


def _tensors_of(state: Any) -> Iterator[Any]:
    """Of bitsandbytes' quantization state, and of the one that quantizes its scales."""
    while state is not None:  # laid out for a kernel of the CPU, one has fewer of these
        parts = (getattr(state, name, None) for name in ("absmax", "code", "offset"))
        yield from (part for part in parts if part is not None)
        state = getattr(state, "state2", None)


@contextmanager
def _faults_of_the_device_told() -> Iterator[None]:
    """While the block runs, an error that says that memory is short, or that the device has failed, leaves transformers
    as it is. What goes wrong while weights are converted it writes into its log otherwise, and raises that something
    went wrong."""
    from transformers import core_model_loading

    logged = core_model_loading.log_conversion_errors

    @contextmanager
    def log(*args: Any, **options: Any) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_out_of_memory(error) or is_of_device(error):
                raise
            with logged(*args, **options):
                raise

    core_model_loading.log_conversion_errors = log
    try:
        yield
    finally:
        core_model_loading.log_conversion_errors = logged


def read_weights(folder: Path, *, quantize: bool, saved_here: bool = False) -> PreTrainedModel:
    """The model in a folder, with all its weights; of its generation config, token ids alone.

    Args:
        folder: a checkpoint.
        quantize: to NF4, with double quantization; else it is taken as it is.
        saved_here: it is a copy of `quantized.py`'s.

    Raises:
        MissingWeights: weights are not in its files: transformers would make them up, and the model talk nonsense.
        RuntimeError, MemoryError: one that `is_out_of_memory` knows, where memory is short: nothing is put elsewhere.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig

    dtype = getattr(torch, precision_in(folder))
    options: dict[str, Any] = {}  # to transformers, None means that what is quantized cannot be read
    if quantize:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    with experts_quantized(already=saved_here), _faults_of_the_device_told():
        read: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            device_map={"": gpu() or torch.device("cpu")},  # one, whatever it is short of
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
            generation_config=GenerationConfig(**read_token_ids(folder)),
            **options,
        )
    model, told = read
    missing = sorted(told["missing_keys"])
    if missing:
        raise MissingWeights(f"{len(missing)} weights are not in its files, such as {missing[0]}")
    for name in model.config._get_generation_parameters():
        setattr(
            model.config, name, None
        )  # in configs of old checkpoints; `generate` refuses to work with them
    evaluating: PreTrainedModel = model.eval()
    return evaluating
