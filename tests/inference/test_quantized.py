"""A model is quantized once; whatever happens to the copy on disk, the model loads."""

from __future__ import annotations

import logging
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from transformers import PreTrainedModel, modeling_utils

from bot.errors import ModelUnavailable
from bot.inference import loader, quantized
from bot.inference.catalog import ModelSpec
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.quantized import QuantizedCopies
from tests.inference.checkpoints import CONFIGS, NOT_UNDERSTOOD, save_checkpoint

_Usage = namedtuple("_Usage", "total used free")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("quantized") / "llama")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "llama"))


def load(folder: Path, **options: Any) -> LoadedModel:
    spec = ModelSpec(alias="tiny", source=str(folder), context_tokens=256, description="a model")
    return ModelLoader(folder.parent, **options).load(spec, lambda *_: None)


def copies(folder: Path) -> list[Path]:
    return sorted((folder.parent / "quantized").glob("*")) + sorted((folder.parent / "quantized").glob(".*"))


def logits(loaded: LoadedModel) -> torch.Tensor:
    model: Any = loaded.model
    with torch.inference_mode():
        scores: torch.Tensor = model(torch.arange(3, 60, device=model.device)[None]).logits
    return scores


def no_quantizing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("it was quantized again")

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", fail)


@pytest.mark.parametrize("alias", CONFIGS)
def test_the_second_load_quantizes_nothing_and_the_model_says_the_same(
    alias: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(alias, tmp_path / alias)
    first = load(folder)
    assert len(copies(folder)) == 1
    no_quantizing(monkeypatch)
    second = load(folder)
    assert torch.equal(logits(first), logits(second))
    assert first.eos_token_ids == second.eos_token_ids
    assert first.model.config.dtype == second.model.config.dtype
    assert first.model.get_memory_footprint() == second.model.get_memory_footprint()


@pytest.mark.parametrize("alias", NOT_UNDERSTOOD)
def test_a_model_whose_experts_stay_as_they_are_is_not_kept(alias: str, tmp_path: Path) -> None:
    folder = save_checkpoint(alias, tmp_path / alias)
    first, second = load(folder), load(folder)
    assert copies(folder) == []
    assert torch.equal(logits(first), logits(second))


def test_the_next_revision_of_a_models_repository_takes_the_place_of_the_one_before(
    made: Path, tmp_path: Path
) -> None:
    spec = ModelSpec(alias="tiny", repository="somebody/tiny", context_tokens=256, description="a model")
    kept = QuantizedCopies(tmp_path / "quantized")
    model = load(made, keep_quantized=False, plain=True).model
    first, second = (Path(shutil.copytree(made, tmp_path / name)) for name in ("first", "second"))
    (second / "config.json").touch()
    kept.keep(model, spec, first)
    assert kept.find(spec, first) is not None
    kept.keep(model, spec, second)
    assert kept.find(spec, first) is None
    assert kept.find(spec, second) is not None


def test_a_copy_that_is_being_removed_when_the_bot_is_killed_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def kill(gone: Path, **_: Any) -> None:
        (Path(gone) / "generation_config.json").unlink()
        raise KilledError

    load(folder)
    (copy,) = copies(folder)
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(shutil, "rmtree", kill)
        QuantizedCopies(copy.parent).drop(copy)
    load(folder)
    assert [one.name for one in copies(folder)] == [copy.name]
    assert (copy / "generation_config.json").exists()


def test_a_gpu_that_cannot_compute_costs_no_copy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(folder)

    def fail(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device")

    with monkeypatch.context() as patched, pytest.raises(ModelUnavailable, match="not built for this GPU"):
        patched.setattr(loader, "read_weights", fail)
        load(folder)
    assert len(copies(folder)) == 1


@pytest.mark.parametrize("damage", ["cut", "emptied", "gone"])
def test_a_damaged_copy_is_made_anew(
    damage: str, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = load(folder)
    (copy,) = copies(folder)
    weights = copy / "model.safetensors"
    match damage:
        case "cut":
            os.truncate(weights, weights.stat().st_size // 2)
        case "emptied":
            (copy / "config.json").write_text("")
        case "gone":
            weights.unlink()
    assert torch.equal(logits(load(folder)), logits(first))
    assert "is damaged, and made anew" in caplog.text
    no_quantizing(monkeypatch)
    assert torch.equal(logits(load(folder)), logits(first))


def test_a_copy_is_written_file_by_file_and_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[int] = []
    save: Any = vars(modeling_utils)["safe_save_file"]

    def save_one(tensors: dict[str, torch.Tensor], *args: Any, **options: Any) -> None:
        # What is in RAM at a time: safetensors copies a file's weights from a GPU, and lets go of them.
        written.append(sum(tensor.nbytes for tensor in tensors.values()))
        save(tensors, *args, **options)

    assert quantized._SHARD_BYTES == 10**9
    monkeypatch.setattr(quantized, "_SHARD_BYTES", 300_000)  # a little more than the embedding
    monkeypatch.setattr(modeling_utils, "safe_save_file", save_one)
    first = load(folder)
    (copy,) = copies(folder)
    assert len(written) == len(list(copy.glob("*.safetensors"))) > 3
    assert max(written) <= 300_000
    with monkeypatch.context() as patched:
        no_quantizing(patched)
        assert torch.equal(logits(load(folder)), logits(first))
    sorted(copy.glob("*.safetensors"))[1].unlink()
    assert torch.equal(logits(load(folder)), logits(first))
    assert "is damaged, and made anew" in caplog.text


def test_other_files_in_the_models_folder_are_other_weights(folder: Path, tmp_path: Path) -> None:
    load(folder)
    (old,) = copies(folder)
    other = save_checkpoint("llama", tmp_path / "other", seed=7)
    shutil.copy(other / "model.safetensors", folder / "model.safetensors")
    expected = load(folder, keep_quantized=False)
    assert torch.equal(logits(load(folder)), logits(expected))
    (new,) = copies(folder)
    assert new != old


def test_a_disk_that_is_nearly_full_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(100, 0, 10_000))
    assert logits(load(folder)).shape[-1] > 0
    assert copies(folder) == []
    assert "the disk of CACHE_DIR is nearly full" in caplog.text


def test_a_disk_that_becomes_full_while_a_copy_is_written_is_a_line_in_the_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(self: PreTrainedModel, target: Path, **_: Any) -> None:
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fill)
    assert logits(load(folder)).shape[-1] > 0
    assert copies(folder) == []
    assert [record.levelno for record in caplog.records if "not kept" in record.message] == [logging.WARNING]


def test_what_a_killed_process_left_of_a_copy_is_removed(folder: Path) -> None:
    load(folder)
    (copy,) = copies(folder)
    copy.rename(copy.with_name(f".{copy.name}.12345"))
    load(folder)
    assert copies(folder) == [copy]


def test_nothing_is_kept_where_the_operator_does_not_want_it_or_nothing_is_quantized(folder: Path) -> None:
    load(folder, keep_quantized=False)
    spec = ModelSpec(
        alias="tiny", source=str(folder), context_tokens=256, description="a model", quantization="none"
    )
    ModelLoader(folder.parent).load(spec, lambda *_: None)
    assert copies(folder) == []
