"""A tokenizer is read once, which stops the event loop, and anew when its files have changed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers

from bot.inference.anatomy import examine
from bot.inference.catalog import ModelSpec
from bot.inference.loader import LoadedModel, ModelLoader
from tests.inference.checkpoints import save_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_checkpoint("llama", tmp_path / "llama")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read by the library, which holds on to the interpreter while it does that."""
    files: list[str] = []

    def from_file(path: str) -> tokenizers.Tokenizer:
        files.append(path)
        return tokenizers.Tokenizer.from_file(path)

    counted = SimpleNamespace(from_file=from_file)
    monkeypatch.setattr("transformers.tokenization_utils_tokenizers.TokenizerFast", counted)
    return files


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(alias="tiny", source=str(folder), context_tokens=256, description="a model")


def load(folder: Path) -> LoadedModel:
    return ModelLoader(folder.parent).load(spec_of(folder), lambda *_: None)


def test_a_look_at_a_model_its_load_and_the_next_one_read_its_tokenizer_once(
    folder: Path, reads: list[str]
) -> None:
    examine(folder, spec_of(folder))
    first, second = load(folder), load(folder)
    assert reads == [str(folder / "tokenizer.json")]
    assert first.tokenizer("Hello")["input_ids"] == second.tokenizer("Hello")["input_ids"]


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_tokenizer_whose_files_have_changed_is_read_anew(folder: Path, reads: list[str], file: str) -> None:
    load(folder)
    path = folder / file
    path.write_text(
        path.read_text() + " " if file.endswith("jinja") else json.dumps(json.loads(path.read_text()))
    )
    load(folder)
    assert len(reads) == 2
