"""From a folder to a model that is ready, and a sentence when the folder does not hold one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bot.chat.messages import ChatMessage, Role
from bot.chat.prompt import joke_messages
from bot.errors import ModelUnavailable
from bot.inference.catalog import ModelSpec
from bot.inference.chat_template import TemplateTraits
from bot.inference.embedded import checkpoint_path
from bot.inference.loader import LoadedModel, ModelLoader
from tests.inference import tiny

SPOKEN = "Tell me a joke about pandas. You are a comedian."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of the real class; never changed, tests that break things take a copy."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = tiny.byte_level(SPOKEN, chat_template=tiny.GEMMA_2)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
    ]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def own(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "own"))


def spec_of(folder: Path, *, quantization: str = "none", context_tokens: int = 256) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "alias": "tiny",
            "source": str(folder),
            "quantization": quantization,
            "context_tokens": context_tokens,
            "description": "a model",
        }
    )


def load(folder: Path, *, quantization: str = "none", context_tokens: int = 256) -> LoadedModel:
    loader = ModelLoader(folder / "no cache")
    loader.prepare()
    spec = spec_of(folder, quantization=quantization, context_tokens=context_tokens)
    return loader.load(spec, lambda *_: None)


def why_not(folder: Path) -> str:
    """What a person reads when a model cannot be loaded."""
    with pytest.raises(ModelUnavailable) as caught:
        load(folder)
    said = str(caught.value)
    assert "\n" not in said
    for technical in ("Traceback", "Error", "Exception", "File "):
        assert technical not in said
    return said


def changed(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# --- It works -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_a_checkpoint_is_loaded_as_the_catalogue_says_and_answers(
    checkpoint: Path, quantization: str
) -> None:
    loaded = load(checkpoint, quantization=quantization)
    layer = loaded.model.get_submodule("model.layers.0.mlp.up_proj")
    packed = next(layer.parameters()).dtype
    assert packed == (torch.uint8 if quantization == "nf4" else torch.bfloat16)
    assert not loaded.model.training
    prompt = torch.tensor([loaded.encode(joke_messages(topic="pandas", audience="cats"))])
    with torch.inference_mode():
        logits = loaded.model(input_ids=prompt, attention_mask=torch.ones_like(prompt)).logits
    assert logits.shape == (1, prompt.shape[1], len(loaded.tokenizer))
    assert bool(logits.isfinite().all())


def test_nf4_is_doubly_quantized_and_computes_in_bfloat16(checkpoint: Path) -> None:
    config = load(checkpoint, quantization="nf4").model.config.quantization_config
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def test_what_is_done_is_told_before_the_slow_part(checkpoint: Path) -> None:
    steps: list[tuple[str, float | None]] = []
    ModelLoader(checkpoint).load(spec_of(checkpoint), lambda step, fraction: steps.append((step, fraction)))
    assert steps[0] == ("loading tiny", None)
    assert {step for step, _ in steps} == {"loading tiny"}


def test_progress_is_the_part_of_the_weights_that_is_in_place(checkpoint: Path) -> None:
    told: list[float | None] = []
    ModelLoader(checkpoint).load(spec_of(checkpoint), lambda _, fraction: told.append(fraction))
    fractions = [fraction for fraction in told if fraction is not None]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert 0.8 < fractions[-1] < 1.0
    assert len(fractions) > 15  # one for each of its tensors


@pytest.mark.parametrize("at", [0.0, 0.5])
def test_whoever_hears_of_the_progress_can_end_the_load(checkpoint: Path, at: float) -> None:
    class EnoughError(Exception):
        pass

    def report(_: str, fraction: float | None) -> None:
        if fraction is not None and fraction >= at:
            raise EnoughError

    with pytest.raises(EnoughError):
        ModelLoader(checkpoint).load(spec_of(checkpoint), report)
    assert load(checkpoint).model is not None


def test_a_tokenizer_without_padding_pads_with_its_end(checkpoint: Path) -> None:
    tokenizer = load(checkpoint).tokenizer
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_a_tokenizer_with_padding_keeps_it(own: Path) -> None:
    changed(own / "tokenizer_config.json", pad_token="<unk>")
    tokenizer = load(own).tokenizer
    assert tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("<unk>") != tokenizer.eos_token_id


def test_every_token_that_ends_an_answer_is_known(own: Path) -> None:
    loaded = load(own)
    ends = [tiny.id_of(loaded.tokenizer, token) for token in ("</s>", "<|im_end|>")]
    assert loaded.eos_token_ids == tuple(sorted(ends))
    changed(own / "generation_config.json", eos_token_id=ends[1])
    assert load(own).eos_token_ids == tuple(sorted(ends))


@pytest.mark.parametrize(("allowed", "usable"), [(64, 64), (128, 128), (4096, 128)])
def test_the_context_is_the_smaller_of_what_is_allowed_and_what_the_model_was_built_for(
    checkpoint: Path, allowed: int, usable: int
) -> None:
    assert load(checkpoint, context_tokens=allowed).context_tokens == usable


def test_the_messages_are_put_as_the_template_takes_them_with_one_beginning(checkpoint: Path) -> None:
    loaded = load(checkpoint)
    assert loaded.traits == TemplateTraits(accepts_system=False, needs_alternation=True)
    ids = loaded.encode((ChatMessage(Role.SYSTEM, "Be brief."), ChatMessage(Role.USER, "Hi")))
    assert ids.count(loaded.tokenizer.bos_token_id) == 1
    assert loaded.decode(ids) == "<turn user>Be brief.\n\nHi\n<turn model>"


def test_an_answer_that_was_cut_is_gone_on_with_as_if_it_had_not_been(checkpoint: Path) -> None:
    loaded = load(checkpoint)
    question = (ChatMessage(Role.USER, "Hi"),)
    ids = loaded.encode((*question, ChatMessage(Role.ASSISTANT, "Hello the")))
    begun = loaded.encode(question)
    assert ids[: len(begun)] == begun
    assert loaded.decode(ids[len(begun) :]) == "Hello the"


def test_without_a_template_the_model_goes_on_from_a_plain_question(own: Path) -> None:
    (own / "chat_template.jinja").unlink()
    loaded = load(own)
    assert loaded.traits is None
    ids = loaded.encode((ChatMessage(Role.SYSTEM, "Be brief."), ChatMessage(Role.USER, "Hi")))
    assert loaded.decode(ids) == "Be brief.\n\nQuestion: Hi\n\nAnswer:"


# --- It does not ----------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_named_with_the_key_to_check(tmp_path: Path) -> None:
    said = why_not(tmp_path / "nowhere")
    assert f"tiny is not in {tmp_path}/nowhere" in said
    assert "'source'" in said


def test_weights_that_could_run_code_when_opened_are_not_opened(own: Path) -> None:
    (own / "model.safetensors").unlink()
    marker = own / "marker"

    class Opened:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (marker,)  # type: ignore[return-value]

    torch.save({"weight": Opened()}, own / "pytorch_model.bin")
    assert "tiny cannot be loaded" in why_not(own)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a header at all", b"\xff" * 64], ids=["empty", "garbage", "huge header"]
)
def test_broken_weights_are_a_sentence(own: Path, content: bytes) -> None:
    (own / "model.safetensors").write_bytes(content)
    said = why_not(own)
    assert "tiny cannot be loaded: its files are damaged" in said
    assert "copy whole files of it into the folder" in said  # `pull` fetches nothing into a 'source'


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["GPU", "CPU"],
)
def test_too_little_memory_for_the_weights_is_said_to_be_that(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def allocate(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", allocate)
    said = why_not(checkpoint)
    assert "does not fit into the memory that is free now" in said
    assert "GPU_MEMORY_BUDGET" in said


def test_weights_that_were_cut_off_are_a_sentence(own: Path) -> None:
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "tiny cannot be loaded" in why_not(own)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_broken_description_is_a_sentence(own: Path, file: str) -> None:
    (own / file).write_text("{")
    assert "tiny cannot be loaded" in why_not(own)


def test_a_missing_tokenizer_is_a_sentence(own: Path) -> None:
    for file in own.glob("*token*"):
        file.unlink()
    assert "tiny cannot be loaded" in why_not(own)


def test_a_shard_that_is_missing_is_a_sentence(own: Path) -> None:
    (own / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (own / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "tiny cannot be loaded" in why_not(own)


def test_a_weight_that_is_in_none_of_the_files_is_a_sentence_and_not_made_up(
    own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(own / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    assert "tiny cannot be loaded" in why_not(own)
    assert "model.layers.1.mlp.up_proj.weight" in caplog.text


def test_a_template_that_cannot_be_read_is_a_sentence(own: Path) -> None:
    (own / "chat_template.jinja").write_text("{% if messages %}")
    assert "tiny cannot be loaded" in why_not(own)


def test_a_failed_load_is_in_the_log_with_its_reason(own: Path, caplog: pytest.LogCaptureFixture) -> None:
    (own / "model.safetensors").unlink()
    why_not(own)
    assert "cannot load tiny" in caplog.text
    assert "model.safetensors" in caplog.text


# --- Code that comes with a checkpoint ------------------------------------------------------------------------


def put_code_into(folder: Path) -> Path:
    """Code that a config asks to be run for everything; the marker is there when it was."""
    marker = folder / "marker"
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    changed(
        folder / "config.json",
        auto_map={"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"},
    )
    changed(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.EvilTokenizer", None]})
    return marker


def test_code_of_an_unknown_architecture_is_never_run(own: Path) -> None:
    marker = put_code_into(own)
    changed(own / "config.json", model_type="evil", architectures=["EvilModel"])
    assert "of a kind that is not supported" in why_not(own)
    assert not marker.exists()


def test_code_beside_a_known_architecture_is_never_run_either(own: Path) -> None:
    marker = put_code_into(own)
    assert isinstance(load(own).model, LlamaForCausalLM)
    assert not marker.exists()


# --- What is on the disk --------------------------------------------------------------------------------------


def test_what_is_present_is_told_without_loading_it(checkpoint: Path, tmp_path: Path) -> None:
    loader = ModelLoader(tmp_path)
    smol = ModelSpec(alias="smol", source="embedded", context_tokens=256, description="a model")
    assert loader.present(spec_of(checkpoint)) == checkpoint
    assert loader.present(smol) is None
    checkpoint_path(tmp_path).mkdir(parents=True)
    assert loader.present(smol) == checkpoint_path(tmp_path)
    assert loader.fetch(smol, lambda *_: None) == checkpoint_path(tmp_path)
