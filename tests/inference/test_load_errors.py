"""Whatever keeps a model from being loaded or looked at is one sentence about that model."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from bot.errors import ModelUnavailable
from bot.inference.anatomy import examine
from bot.inference.catalog import ModelSpec
from bot.inference.load_errors import Step, why_not
from bot.inference.loader import ModelLoader
from bot.inference.quantized import QuantizedCopies
from tests.inference import tiny
from tests.inference.checkpoints import save_checkpoint
from tests.inference.test_loader import changed, spec_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def own(made: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(made, tmp_path / "own"))


def said_of(act: Callable[[], Any]) -> str:
    """What is said of a model; a sentence for everybody, that names it."""
    with pytest.raises(ModelUnavailable) as caught:
        act()
    said = str(caught.value)
    assert said.startswith("tiny ")
    assert said.endswith(".")
    assert ".." not in said
    assert "\n" not in said
    assert len(said) < 400
    for technical in ("Traceback", "Error", "Exception", "File ", "_"):
        assert technical not in said.replace("adapter_config", "").replace("context_tokens", "")
    return said


def load(folder: Path, quantization: str = "none") -> str:
    spec = spec_of(folder, quantization=quantization)
    return said_of(lambda: ModelLoader(folder / "no cache").load(spec, lambda *_: None))


def look(folder: Path) -> str:
    return said_of(lambda: examine(folder, spec_of(folder)))


QUANTIZED: dict[str, tuple[dict[str, Any], str]] = {
    "GPTQ": ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, "optimum"),
    "AWQ": ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "gptqmodel"),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {}},
        "compressed-tensors",
    ),
    "torchao": ({"quant_method": "torchao", "quant_type": {"default": {}}}, "torchao"),
    "Quanto": ({"quant_method": "quanto", "weights": "int8"}, "optimum-quanto"),
    "AQLM": ({"quant_method": "aqlm"}, "aqlm"),
    "HQQ": ({"quant_method": "hqq", "quant_config": {}}, ""),
    "BitNet": ({"quant_method": "bitnet"}, ""),
    "FP8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, ""),
    "NVFP4": ({"quant_method": "nvfp4"}, ""),
    "nothing known": ({"bits": 4}, ""),
}


@pytest.mark.parametrize("method", QUANTIZED)
def test_a_model_that_is_quantized_already_is_said_to_be_and_what_it_needs_is_named(
    own: Path, method: str
) -> None:
    config, package = QUANTIZED[method]
    changed(own / "config.json", quantization_config=config)
    under_nf4 = load(own, "nf4")
    # FP8 and BitNet are read by transformers itself, and lack their scales here.
    as_it_is = load(own, "none") if method not in ("BitNet", "FP8") else under_nf4
    for said in (under_nf4, as_it_is):
        if method != "nothing known":
            assert f"quantized already, with {method}" in said
        assert "not quantized" in said
    assert 'set quantization = "none"' in under_nf4
    assert (f"`pip install {package}" if package else "GPU") in as_it_is or not package


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_weights_that_are_packed_in_a_way_that_is_not_known_are_called_quantized(
    own: Path, key: str, quantization: str
) -> None:
    """transformers takes no notice of such a config, and misses the weights."""
    weights = load_file(own / "model.safetensors")
    packed = {name.replace("up_proj.weight", "up_proj.packed"): weight for name, weight in weights.items()}
    save_file(packed, own / "model.safetensors", metadata={"format": "pt"})
    changed(own / "config.json", **{key: {"quant_method": "of tomorrow"}})
    assert "quantized already, with of tomorrow" in load(own, quantization)


def unknown(folder: Path) -> None:
    changed(folder / "config.json", model_type="tomorrow", architectures=["TomorrowForCausalLM"])


def with_code(folder: Path) -> None:
    unknown(folder)
    changed(
        folder / "config.json", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    )


def vision(folder: Path) -> None:
    (folder / "config.json").write_text(
        '{"model_type": "vit", "architectures": ["ViTForImageClassification"]}'
    )


def speech(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}')


def translator(folder: Path) -> None:
    (folder / "config.json").write_text(
        '{"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}'
    )


def classifier(folder: Path) -> None:
    changed(folder / "config.json", architectures=["LlamaForSequenceClassification"])


def adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def gguf(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    (folder / "tiny-Q4_K_M.gguf").write_bytes(b"GGUF")


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama",')


def config_of_a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[1, 2]")


def config_without_end(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def config_of_nothing(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def named_in_markup(folder: Path) -> None:
    changed(folder / "config.json", model_type="x", architectures=["a\n# Big @everyone <@1>"])


KINDS: dict[Callable[[Path], None], tuple[str, ...]] = {
    unknown: ("TomorrowForCausalLM", "of a kind that is not supported", "transformers 5"),
    with_code: ("TomorrowForCausalLM", "Code that comes with it is never run"),
    vision: ("ViTForImageClassification", "not a language model"),
    speech: ("Wav2Vec2ForCTC", "not a language model"),
    translator: ("T5ForConditionalGeneration", "not a language model"),
    classifier: ("LlamaForSequenceClassification", "not a language model that writes text"),
    broken_config: ("config.json is broken",),
    config_of_a_list: ("config.json is broken",),
    config_without_end: ("config.json is broken",),
    config_of_nothing: ("does not name a model type",),
    named_in_markup: ("cannot be", "of a kind that is not supported"),
}


@pytest.mark.parametrize("act", [load, look])
@pytest.mark.parametrize("broken", KINDS, ids=lambda one: str(one.__name__))
def test_a_model_of_another_kind_is_called_by_its_kind(
    own: Path, broken: Callable[[Path], None], act: Callable[[Path], str]
) -> None:
    broken(own)
    said = act(own)
    for part in KINDS[broken]:
        assert part in said
    assert "@" not in said


@pytest.mark.parametrize(("broken", "part"), [(adapter, "an adapter (LoRA)"), (gguf, "in the GGUF format")])
def test_a_folder_with_something_else_than_a_model_says_what_it_is(
    own: Path, broken: Callable[[Path], None], part: str
) -> None:
    broken(own)
    with pytest.raises(ModelUnavailable, match=r"(?s)tiny is not in .*") as caught:
        ModelLoader(own / "no cache").load(spec_of(own), lambda *_: None)
    assert part in str(caught.value)
    assert str(own) not in caught.value.for_people
    if broken is adapter:
        assert part in look(own)


def test_an_encoder_that_transformers_would_take_for_a_writer_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    tokenizer = tiny.byte_level()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert "BertForMaskedLM is not a language model that writes text" in load(folder)
    assert "BertForMaskedLM is not a language model that writes text" in look(folder)


def emptied(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes(b"")
    return "damaged"


def older(folder: Path) -> str:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return "no safetensors weights"


def half(folder: Path) -> str:
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return "model-00002-of-00002.safetensors is missing"


def lacking(folder: Path) -> str:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return "1 weights are not in its files"


def of_another_shape(folder: Path) -> str:
    changed(folder / "config.json", intermediate_size=128)
    return "other shapes than its config.json says"


def without_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").write_text("{}")
    return "its tokenizer is missing, broken"


def with_broken_template(folder: Path) -> str:
    (folder / "chat_template.jinja").write_text("{% if messages %}")
    return "its chat template is broken"


@pytest.mark.parametrize(
    "damage", [emptied, older, half, lacking, of_another_shape, without_tokenizer, with_broken_template]
)
def test_damaged_files_are_told_by_what_is_wrong_with_them(own: Path, damage: Callable[[Path], str]) -> None:
    part = damage(own)
    said = load_allowing_names(own)
    assert "tiny cannot be loaded: " in said
    assert part in said


def load_allowing_names(folder: Path) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        ModelLoader(folder / "no cache").load(spec_of(folder), lambda *_: None)
    return str(caught.value)


# --- Errors that cannot be had on demand ----------------------------------------------------------------------

ERRORS: dict[str, tuple[BaseException, str]] = {
    "a package": (ModuleNotFoundError("No module named 'einops'", name="einops"), "`pip install einops`"),
    "a part of one": (ModuleNotFoundError("No module named 'a.b'", name="a.b"), "`pip install a`"),
    "advice": (
        ImportError("Loading this requires foo (`pip install foo-bar>=1.2`)"),
        "`pip install foo-bar`",
    ),
    "advice with extras": (ImportError("please run pip install spqr_quant[gpu]"), "spqr_quant[gpu]"),
    "a backend": (
        ImportError("LlamaTokenizer requires the SentencePiece library but it was not found"),
        "`pip install sentencepiece`",
    ),
    "a tokenizer's": (
        ValueError("You need to have sentencepiece or tiktoken installed"),
        "`pip install sentencepiece`",
    ),
    "TypeError": (TypeError("unhashable type: 'list'"), "The operator finds the reason in the log"),
    "AttributeError": (AttributeError("'NoneType' has no attribute 'x'"), "reason in the log"),
    "IndexError": (IndexError("list index out of range"), "reason in the log"),
    "AssertionError": (AssertionError(), "reason in the log"),
    "NotImplementedError": (NotImplementedError("one day"), "reason in the log"),
    "RecursionError": (RecursionError("too deep"), "reason in the log"),
    "ZeroDivisionError": (ZeroDivisionError("by zero"), "reason in the log"),
    "UnicodeDecodeError": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "reason in the log"),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), "no space is left"),
    "memory": (MemoryError(), "does not fit into the memory"),
}


@pytest.mark.parametrize(("error", "part"), ERRORS.values(), ids=ERRORS)
def test_no_kind_of_error_is_without_a_sentence(
    own: Path,
    error: BaseException,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    assert part in load_allowing_names(own)
    assert any(record.exc_info for record in caplog.records)  # for the operator


@pytest.mark.parametrize("kind", [TypeError, IndexError, ImportError, RecursionError])
def test_a_look_that_fails_is_a_sentence_whatever_was_raised(
    own: Path, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("no")

    monkeypatch.setattr("bot.inference.anatomy.take_apart", fail)
    assert "tiny cannot be examined: " in look(own)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_whoever_ends_the_process_ends_the_load(
    own: Path, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(kind):
        ModelLoader(own / "no cache").load(spec_of(own), lambda *_: None)


def test_whoever_ends_a_load_from_a_quantized_copy_leaves_the_copy(own: Path) -> None:
    class EnoughError(Exception):
        pass

    def report(_: str, fraction: float | None) -> None:
        if fraction:
            raise EnoughError

    cache = own.with_name("cache")
    spec = spec_of(own, quantization="nf4")
    ModelLoader(cache).load(spec, lambda *_: None)
    copies = list((cache / "quantized").iterdir())
    assert len(copies) == 1
    with pytest.raises(EnoughError):
        ModelLoader(cache).load(spec, report)
    assert list((cache / "quantized").iterdir()) == copies


@pytest.mark.parametrize("error", [TypeError("no"), KeyError("no"), OSError(errno.ENOSPC, "full")])
def test_a_copy_that_cannot_be_kept_keeps_nobody_from_an_answer(
    own: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("bot.inference.quantized._save", fail)
    cache = own.with_name("cache")
    assert ModelLoader(cache).load(spec_of(own, quantization="nf4"), lambda *_: None).model is not None
    assert list((cache / "quantized").iterdir()) == []
    assert "tiny is not kept quantized" in caplog.text
    assert QuantizedCopies(cache / "quantized").find(spec_of(own, quantization="nf4"), own) is None


def test_a_fetch_that_fails_in_an_unforeseen_way_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = ModelSpec(alias="tiny", repository="a/b..c", context_tokens=256, description="a model")
    with pytest.raises(ModelUnavailable, match=r"tiny cannot be fetched.*'repository'"):
        ModelLoader(tmp_path).fetch(spec, lambda *_: None)


def test_the_sentence_of_a_step_does_not_blame_another(made: Path) -> None:
    said = why_not(spec_of(made), made, TypeError("no"), Step.TEMPLATE)
    assert str(said).startswith("tiny cannot be loaded: its files are missing, broken or of a kind")


# --- Who is to blame ------------------------------------------------------------------------------------------

UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a string for a number": ({"hidden_size": "256"}, "its config.json is broken"),
    "no heads": ({"num_attention_heads": 0}, "its config.json is broken"),
    "no key and value heads": ({"num_key_value_heads": 0}, "its config.json is broken"),
    "heads that do not divide": ({"hidden_size": 255}, "its config.json is broken"),
    "unknown positions": ({"rope_parameters": {"rope_type": "nonsense"}}, "its config.json is broken"),
    "positions of text": ({"rope_parameters": "x"}, "its config.json is broken"),
    "an unknown type": ({"dtype": "float99"}, "its config.json is broken"),
    "an end of text": ({"eos_token_id": "</s>"}, "its config.json is broken"),
    "no layers": ({"num_hidden_layers": 0}, "its number of layers cannot be 0"),
    "fewer than no layers": ({"num_hidden_layers": -1}, "its number of layers cannot be -1"),
    "layers without end": ({"num_hidden_layers": 10**9}, "its number of layers cannot be 1000000000"),
    "fewer than no positions": ({"max_position_embeddings": -5}, "its number of positions cannot be -5"),
    "a huge hidden size": ({"hidden_size": 1 << 40}, "its hidden size cannot be"),
    "a huge vocabulary": ({"vocab_size": 10**300}, "its vocabulary size cannot be so large"),
}


@pytest.mark.parametrize("act", [load, look])
@pytest.mark.parametrize(("values", "part"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_config_is_blamed_itself_and_not_the_tokenizer(
    own: Path, values: dict[str, Any], part: str, act: Callable[[Path], str]
) -> None:
    changed(own / "config.json", **values)
    said = act(own)
    assert "config.json is" in said
    assert part in said


def with_adapter(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return "it is an adapter (LoRA)"


def with_gguf(folder: Path) -> str:
    (folder / "model.safetensors").rename(folder / "tiny.gguf")
    return "it is in the GGUF format"


def with_shard_in_markup(folder: Path) -> str:
    index = {"weight_map": {"lm_head.weight": "**x** @everyone\n# .safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return "??x?? ?everyone?? .safetensors is missing"


@pytest.mark.parametrize("act", [load, look])
@pytest.mark.parametrize("damage", [with_adapter, with_gguf, with_shard_in_markup])
def test_what_lies_beside_a_config_in_the_place_of_weights_is_named(
    own: Path, damage: Callable[[Path], str], act: Callable[[Path], str]
) -> None:
    part = damage(own)
    said = act(own)
    assert part in said
    assert ": is " not in said
    assert "@everyone" not in said


@pytest.mark.parametrize("damage", [emptied, lambda folder: (folder / "tokenizer.json").unlink()])
def test_only_a_model_of_a_repository_is_advised_to_be_fetched(
    own: Path, damage: Callable[[Path], Any]
) -> None:
    damage(own)
    said = load_allowing_names(own)
    assert "bot pull" not in said  # it fetches nothing into the operator's own folder
    assert "The operator can" in said
    fetched = ModelSpec(alias="tiny", repository="a/b", context_tokens=256, description="a model")
    with pytest.raises(ModelUnavailable, match="`python -m bot pull tiny`"):
        loader = ModelLoader(own / "no cache")
        loader.fetch = lambda *_: own  # type: ignore[method-assign]
        loader.load(fetched, lambda *_: None)


def test_a_tokenizer_without_words_is_not_called_missing(own: Path) -> None:
    tokenizer = json.loads((own / "tokenizer.json").read_text())
    tokenizer["model"] |= {"vocab": {}, "merges": []}
    tokenizer["added_tokens"] = []
    (own / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = load(own)
    assert "there is no tokenizer.json" not in said
    assert "its tokenizer is missing, broken" in said


@pytest.mark.parametrize("step", [Step.CONFIG, Step.TOKENIZER, Step.WEIGHTS])
def test_files_that_may_not_be_read_are_said_to_be_there(made: Path, step: Step) -> None:
    said = str(why_not(spec_of(made), made, PermissionError(errno.EACCES, "Permission denied"), step))
    assert "the bot may not read its files" in said


def test_weights_that_may_not_be_read_are_said_to_be_there(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("bot.inference.headers._of_file", fail)
    assert "the bot may not read its files" in look(own)


def test_a_folder_that_vanishes_during_a_load_is_said_to_be_gone(own: Path) -> None:
    def vanish(*_: object) -> None:
        shutil.rmtree(own, ignore_errors=True)

    with pytest.raises(ModelUnavailable, match="tiny cannot be loaded: its folder is gone"):
        ModelLoader(own.with_name("cache")).load(spec_of(own), vanish)
