"""A tokenizer is read once, which stops the event loop, and anew when its files have changed. One that is not there is
not made up."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

from bot.errors import ModelUnavailable
from bot.inference.anatomy import examine
from bot.inference.catalog import ModelSpec
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.tokenizers import TOKENIZER_FILES, has_tokenizer
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


def test_a_vocabulary_is_the_same_one_at_the_next_load_whatever_its_file_says_of_padding(
    folder: Path,
) -> None:
    """Else an answer would not go on from its tokens once its model was unloaded."""
    file = folder / "tokenizer.json"
    padding = {
        "strategy": {"Fixed": 32},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    truncation = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding": padding, "truncation": truncation}))
    first = load(folder)
    assert first.count("Hello " * 20) > 100
    assert load(folder).vocabulary == first.vocabulary


# --- What counts as one ---------------------------------------------------------------------------------------

CONFIG = "tokenizer_config.json"


@pytest.mark.parametrize("family", ["llama", "phi", "gemma", "qwen", "qwen3", "mixtral", "gpt-oss"])
@pytest.mark.parametrize(
    "gone", [("tokenizer.json",), ("tokenizer.json", CONFIG)], ids=["with a config", "without"]
)
def test_a_folder_without_a_tokenizer_is_refused_with_the_file_that_is_missing(
    tmp_path: Path, family: str, gone: tuple[str, ...]
) -> None:
    folder = save_checkpoint(family, tmp_path / family)
    for name in gone:
        (folder / name).unlink()
    for look in (load, lambda folder: examine(folder, spec_of(folder))):
        with pytest.raises(
            ModelUnavailable, match=r"tiny .*: its tokenizer is missing, there is no tokenizer\.json"
        ):
            look(folder)


@pytest.mark.parametrize(
    "named",
    [
        "LlamaTokenizer",
        "LlamaTokenizerFast",
        "GemmaTokenizer",
        "Qwen2Tokenizer",
        "GPT2Tokenizer",
        "T5Tokenizer",
        "XLNetTokenizer",
        "BertTokenizer",
    ],
)
def test_no_class_that_a_config_names_makes_a_tokenizer_of_nothing(folder: Path, named: str) -> None:
    """Some make one of three words: what a model then says is nonsense."""
    (folder / "tokenizer.json").unlink()
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"tokenizer_class": named}))
    with pytest.raises(ModelUnavailable, match="its tokenizer is missing"):
        load(folder)


def test_a_vocabulary_without_its_merges_is_no_tokenizer(folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / CONFIG).write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(ModelUnavailable, match=r"there is no merges\.txt"):
        load(folder)


def test_a_vocabulary_with_its_merges_is_one(tmp_path: Path) -> None:
    folder = save_checkpoint("qwen", tmp_path / "qwen")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / CONFIG).write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "</s>"}))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    assert has_tokenizer(folder)
    loaded = load(folder)
    assert loaded.decode(loaded.tokenizer("Hello", add_special_tokens=False)["input_ids"]) == "Hello"


def test_a_tokenizer_that_needs_no_files_is_one(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / CONFIG).write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    assert load(folder).count("Hello") == 5


def test_the_files_of_every_causal_language_models_tokenizer_are_known() -> None:
    kinds = {TOKENIZER_MAPPING_NAMES.get(kind) for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} - {None}
    looked_at = 0
    for kind in sorted(map(str, kinds)):
        try:
            files = dict(getattr(tokenizer_class_from_name(kind), "vocab_files_names", {}))
        except ImportError:  # it needs a package that is not installed
            continue
        whole = {files.pop("tokenizer_file", "tokenizer.json")}
        looked_at += 1
        assert any(set(names) <= whole | set(files.values()) for names in TOKENIZER_FILES), kind
        rest = set(files.values()) - {
            "emoji.json",
            "normalizer.json",
            "word_shape.json",
            "word_pronunciation.json",
        }
        assert not rest or any(set(names) <= rest for names in TOKENIZER_FILES), (kind, rest)
    assert looked_at > 15
