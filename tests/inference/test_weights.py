"""Weights on their way to a device: what is there at a time, in which kind of number, and what is said when memory is
short."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from transformers import core_model_loading

from bot.errors import ModelUnavailable
from bot.inference import device, weights
from bot.inference.anatomy import examine
from bot.inference.catalog import ModelSpec
from bot.inference.device_failure import is_device_failure
from bot.inference.loader import ModelLoader
from bot.inference.memory import Footprint
from bot.inference.precision import Precision, precision_of
from bot.inference.weights import read_weights
from tests.inference.checkpoints import save_checkpoint

OLD, NEW = (7, 5), (9, 0)


def spec_of(folder: Path, quantization: str = "nf4") -> ModelSpec:
    values = {"alias": "tiny", "source": str(folder), "context_tokens": 256, "description": "a model"}
    return ModelSpec.model_validate(values | {"quantization": quantization})


# --- What a load takes ----------------------------------------------------------------------------------------


def arrivals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the weights in full that come to the device while a model is quantized. The device is torch's
    "meta", in place of a GPU; what is on it computes nothing."""
    came: list[int] = []
    materialize: Callable[..., torch.Tensor] = core_model_loading._materialize_copy
    to = Params4bit.to

    def materialized(tensor: torch.Tensor, where: Any = None, dtype: Any = None) -> torch.Tensor:
        made = materialize(tensor, "cpu", dtype)
        if torch.device(where).type == "meta":
            came.append(made.nbytes)
        return made

    def moved(self: Any, where: Any) -> Any:
        if torch.device(where).type == "meta":
            came.append(self.data.nbytes)
        return to(self, "cpu")

    monkeypatch.setattr(weights, "gpu", lambda: torch.device("meta"))
    monkeypatch.setattr(core_model_loading, "_materialize_copy", materialized)
    monkeypatch.setattr(Params4bit, "to", moved)
    read_weights(folder, quantize=True)
    return came


@pytest.mark.parametrize("alias", ["llama", "phi", "mixtral"])
def test_no_more_than_one_matrix_is_on_the_device_in_full_while_it_is_quantized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alias: str
) -> None:
    folder = save_checkpoint(alias, tmp_path / alias)
    expected = examine(folder, spec_of(folder)).loading_bytes
    assert max(arrivals(folder, monkeypatch)) == expected


def test_experts_that_the_files_have_together_are_counted_together(tmp_path: Path) -> None:
    apart = save_checkpoint("mixtral", tmp_path / "apart")
    together = save_checkpoint("mixtral", tmp_path / "together", save_original_format=False)
    one_bytes = examine(apart, spec_of(apart)).loading_bytes
    assert examine(together, spec_of(together)).loading_bytes == 4 * one_bytes
    assert examine(apart, spec_of(apart, "none")).loading_bytes == 2 * 4 * one_bytes


def test_a_load_that_takes_more_than_an_answer_is_what_there_must_be_room_for() -> None:
    assert Footprint(100, 10, 5, loading_bytes=20).peak_bytes == 120
    assert Footprint(100, 10, 5, loading_bytes=14).peak_bytes == 115


# --- Memory is short ------------------------------------------------------------------------------------------

SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("alias", "quantization", "where"),
    [
        ("llama", "nf4", (bitsandbytes.functional, "quantize_4bit")),
        ("mixtral", "nf4", (core_model_loading.MergeModulelist, "convert")),
        ("mixtral", "none", (core_model_loading.Concatenate, "convert")),
        ("llama", "none", (core_model_loading, "_materialize_copy")),
    ],
    ids=["quantizing", "merging", "joining", "copying"],
)
def test_whoever_loads_what_memory_is_too_short_for_reads_that_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    alias: str,
    quantization: str,
    where: tuple[object, str],
) -> None:
    folder = save_checkpoint(alias, tmp_path / alias)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patched, pytest.raises(ModelUnavailable) as caught:
        patched.setattr(*where, fail)
        ModelLoader(tmp_path).load(spec_of(folder, quantization), lambda *_: None)
    assert "tiny does not fit into the memory that is free now" in str(caught.value)
    ModelLoader(tmp_path).load(spec_of(folder, quantization), lambda *_: None)


@pytest.mark.parametrize(
    ("said", "has_failed", "told"),
    [
        ("CUDA error: an illegal memory access was encountered", True, "cannot be loaded"),
        (
            "CUDA error: no kernel image is available for execution on the device",
            False,
            "not built for this GPU",
        ),
    ],
)
def test_a_gpu_that_fails_while_weights_are_converted_is_no_fault_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, has_failed: bool, told: str
) -> None:
    folder = save_checkpoint("llama", tmp_path / "llama")

    def fail(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError(said)

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", fail)
    with pytest.raises(ModelUnavailable, match=told) as caught:
        ModelLoader(tmp_path).load(spec_of(folder, "nf4"), lambda *_: None)
    assert is_device_failure(caught.value) is has_failed


# --- Kinds of numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "capability", "precision"),
    [
        ("llama", None, Precision.BFLOAT16),
        ("llama", NEW, Precision.BFLOAT16),
        ("llama", (8, 0), Precision.BFLOAT16),
        ("llama", OLD, Precision.FLOAT16),
        ("mixtral", OLD, Precision.FLOAT16),
        ("gemma2", None, Precision.BFLOAT16),
        ("gemma2", OLD, Precision.FLOAT32),
        ("gemma3_text", OLD, Precision.FLOAT32),
        ("recurrent_gemma", OLD, Precision.FLOAT32),
        ("gpt_oss", OLD, Precision.FLOAT32),
    ],
)
def test_a_gpu_without_bfloat16_computes_in_float16_but_for_families_whose_numbers_are_too_large(
    model_type: str, capability: tuple[int, int] | None, precision: Precision
) -> None:
    assert precision_of(model_type, capability) is precision


def on_an_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are in RAM; all but where they are is as on a T4."""
    monkeypatch.setattr(weights, "capability", lambda: OLD)


@pytest.mark.parametrize(
    ("alias", "dtype"), [("llama", torch.float16), ("mixtral", torch.float16), ("gemma", torch.float32)]
)
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_on_an_old_gpu_a_model_is_loaded_and_estimated_in_the_kind_of_number_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alias: str, quantization: str, dtype: torch.dtype
) -> None:
    folder = save_checkpoint(alias, tmp_path / alias)
    usual = examine(folder, spec_of(folder, quantization))
    on_an_old_gpu(monkeypatch)
    spec = spec_of(folder, quantization)
    loaded = ModelLoader(tmp_path, plain=True).load(spec, lambda *_: None)
    anatomy = examine(folder, spec)
    assert loaded.model.dtype == dtype
    assert str(dtype) == f"torch.{anatomy.precision}"
    for module in loaded.model.modules():
        if isinstance(module, Linear4bit):
            weight: Any = module.weight
            assert (module.compute_dtype, weight.quant_state.dtype) == (dtype, dtype)
    measured = loaded.measured(anatomy.footprint(256))
    assert measured.weights_bytes == pytest.approx(anatomy.weights_bytes, rel=0.03)
    assert anatomy.kept_bytes(256) == usual.kept_bytes(256) * dtype.itemsize // 2
    answer: Any = loaded.model
    with torch.inference_mode():
        assert answer(torch.arange(3, 60)[None]).logits.isfinite().all()


def test_a_copy_that_was_quantized_for_one_gpu_is_not_read_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint("llama", tmp_path / "llama")

    def copies() -> set[str]:
        return {one.name for one in (tmp_path / "quantized").iterdir()}

    def loaded() -> Any:
        return ModelLoader(tmp_path).load(spec_of(folder), lambda *_: None).model

    assert loaded().dtype == torch.bfloat16
    before = copies()
    with monkeypatch.context() as patched:
        on_an_old_gpu(patched)
        assert loaded().dtype == torch.float16
        assert copies() != before
        assert loaded().dtype == torch.float16
    assert loaded().dtype == torch.bfloat16
    assert copies() == before


def test_a_config_that_cannot_be_read_is_the_loads_to_tell_of(tmp_path: Path) -> None:
    folder = save_checkpoint("llama", tmp_path / "llama")
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelUnavailable, match=r"its config\.json is broken or was cut off"):
        ModelLoader(tmp_path).load(spec_of(folder), lambda *_: None)
    (folder / "config.json").write_text(json.dumps([]))
    with pytest.raises(ModelUnavailable, match="tiny cannot be loaded"):
        ModelLoader(tmp_path).load(spec_of(folder), lambda *_: None)


def test_without_a_gpu_there_is_no_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.capability() is None
