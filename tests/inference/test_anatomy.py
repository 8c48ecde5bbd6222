"""What a model is made of, told without loading it: right against the model that is loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import DynamicCache

from bot.errors import ModelUnavailable
from bot.inference.anatomy import Anatomy, examine
from bot.inference.catalog import ModelSpec
from bot.inference.chat_template import TemplateTraits
from bot.inference.embedded import checkpoint_path
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.parts import NF4_BITS, Kind
from bot.inference.sizes import STEP_TOKENS
from tests.conftest import CACHE_DIR
from tests.inference.checkpoints import CONFIGS, NOT_UNDERSTOOD, VOCABULARY, save_checkpoint
from tests.inference.stepping import Stepped

ALIASES = tuple(CONFIGS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint for each architecture; never changed."""
    root = tmp_path_factory.mktemp("models")
    return {alias: save_checkpoint(alias, root / alias) for alias in ALIASES}


@pytest.fixture
def own(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(folders["llama"], tmp_path / "own"))


def spec_of(folder: Path, quantization: str = "nf4", context_tokens: int = 256) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "alias": "tiny",
            "source": str(folder),
            "quantization": quantization,
            "context_tokens": context_tokens,
            "description": "a model",
        }
    )


def look(folder: Path, **options: Any) -> Anatomy:
    return examine(folder, spec_of(folder, **options))


def load(folder: Path, **options: Any) -> LoadedModel:
    loader = ModelLoader(folder / "no cache", plain=True)  # as a GPU has it: products.py takes other scales
    loader.prepare()
    return loader.load(spec_of(folder, **options), lambda *_: None)


def why_not(folder: Path) -> str:
    """What a person reads when a model cannot be looked at."""
    with pytest.raises(ModelUnavailable) as caught:
        look(folder)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith("tiny ")
    assert said.endswith(".")
    return said


def real_bytes(model: Any) -> int:
    """What a loaded model's weights take: its own figure, and the scales of NF4, which that leaves out."""
    scales = 0
    for parameter in model.parameters():
        if state := getattr(parameter, "quant_state", None):
            scales += state.absmax.nbytes + state.state2.absmax.nbytes
    return int(model.get_memory_footprint()) + scales


def changed(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# --- Right against the real thing -----------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ALIASES)
def test_the_weights_take_what_the_loaded_model_takes(folders: dict[str, Path], alias: str) -> None:
    expected = look(folders[alias]).weights_bytes
    assert real_bytes(load(folders[alias]).model) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("alias", ALIASES)
def test_the_weights_of_an_unquantized_model_do_too(folders: dict[str, Path], alias: str) -> None:
    expected = look(folders[alias], quantization="none").weights_bytes
    assert real_bytes(load(folders[alias], quantization="none").model) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("alias", ALIASES)
def test_what_is_measured_of_a_loaded_model_is_all_that_its_weights_take(
    folders: dict[str, Path], alias: str
) -> None:
    loaded = load(folders[alias])
    told = loaded.measured(look(folders[alias]).footprint(256)).weights_bytes
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for name, tensor in (*loaded.model.state_dict().items(), *loaded.model.named_buffers())
        if "quant_state.bitsandbytes" not in name  # made when it is asked for
    }
    assert told == pytest.approx(sum(held.values()), rel=0.001)
    assert told > loaded.model.get_memory_footprint()


@pytest.mark.parametrize("alias", NOT_UNDERSTOOD)
def test_experts_that_the_loader_leaves_as_they_are_count_in_full(tmp_path: Path, alias: str) -> None:
    folder = save_checkpoint(alias, tmp_path / alias)
    anatomy = look(folder)
    assert real_bytes(load(folder).model) == pytest.approx(anatomy.weights_bytes, rel=0.02)
    assert [part.storage for part in anatomy.parts if part.kind is Kind.EXPERTS] == ["bfloat16"]


@pytest.mark.model
def test_smol_takes_what_it_takes() -> None:
    if not checkpoint_path(CACHE_DIR).exists():
        pytest.skip("NEEDS THE EMBEDDED MODEL: run `python -m bot pull smol` first, as `make test` does")
    spec = ModelSpec(alias="smol", source="embedded", context_tokens=8192, description="a model")
    loaded = ModelLoader(CACHE_DIR, plain=True).load(spec, lambda *_: None)
    anatomy = examine(checkpoint_path(CACHE_DIR), spec)
    assert real_bytes(loaded.model) == pytest.approx(anatomy.weights_bytes, rel=0.02)
    assert loaded.model.get_memory_footprint() == pytest.approx(anatomy.weights_bytes, rel=0.02)
    assert (anatomy.layers, anatomy.hidden_size, anatomy.vocabulary.input_size) == (30, 576, 49_152)
    assert anatomy.parameters == anatomy.stored_parameters == loaded.model.num_parameters()


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("tokens", [40, 300])
def test_the_cache_takes_what_a_real_cache_takes(folders: dict[str, Path], alias: str, tokens: int) -> None:
    model: Any = load(folders[alias], quantization="none").model
    cache = DynamicCache(config=model.config)
    prompt = torch.randint(0, VOCABULARY, (2, tokens))
    with torch.inference_mode():
        model(input_ids=prompt, past_key_values=cache, use_cache=True)
    kept: list[Any] = cache.layers
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in kept)
    # A layer with a window keeps one token less than the window between two steps.
    assert look(folders[alias]).kept_bytes(tokens, batch=2) == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("tokens", [100, 512])
def test_the_cache_that_all_share_takes_what_the_batch_allocates(
    folders: dict[str, Path], alias: str, tokens: int
) -> None:
    loaded = load(folders[alias], context_tokens=tokens)
    with Stepped(loaded, step_tokens=STEP_TOKENS) as batch:
        real = batch.processor.cache.cache_tensor.nbytes
        tables: Any = vars(batch.processor.inputs_and_outputs).values()
        storages = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for table in tables
            for tensor in (table.values() if isinstance(table, dict) else [table])
            if isinstance(tensor, torch.Tensor)
        }
    anatomy = look(folders[alias], context_tokens=tokens)
    assert anatomy.paging is not None
    assert anatomy.paging.cache_bytes(tokens) == real
    assert anatomy.paging.tables_bytes(tokens) == pytest.approx(sum(storages.values()), rel=0.01)
    expected = anatomy.footprint(anatomy.context_tokens).cache_bytes
    assert expected == pytest.approx(real + sum(storages.values()), rel=0.01)


def measured_peak_bytes(work: Callable[[], object]) -> int:
    """The most that torch held at a time of what `work` asked for, from the profiler's record of every piece."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    kineto: Any = record.profiler
    pieces = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    held = accumulate(event.nbytes() for event in sorted(pieces, key=lambda event: event.start_ns()))
    return int(max(held))


@pytest.mark.parametrize("alias", ALIASES)
def test_cache_and_working_memory_are_about_what_a_long_prompt_really_takes(
    tmp_path: Path, alias: str
) -> None:
    folder = save_checkpoint(alias, tmp_path / alias, context_tokens=2048)
    model: Any = load(folder).model
    prompt = torch.randint(3, VOCABULARY, (1, 1000))

    def answer() -> None:
        with torch.inference_mode():
            mask = torch.ones_like(prompt)
            model.generate(inputs=prompt, attention_mask=mask, max_new_tokens=1, do_sample=True, top_p=0.9)

    answer()  # the first time makes what then stays
    need = look(folder).footprint(1000)
    taken = look(folder).kept_bytes(1000) + need.working_bytes
    assert 0.9 <= taken / measured_peak_bytes(answer) <= 1.25


# --- What is told ---------------------------------------------------------------------------------------------


def test_the_dimensions_are_those_of_the_model(folders: dict[str, Path]) -> None:
    anatomy = look(folders["llama"])
    assert (anatomy.architecture, anatomy.model_type) == ("LlamaForCausalLM", "llama")
    assert (anatomy.layers, anatomy.hidden_size, anatomy.intermediate_size) == (4, 256, 512)
    assert (anatomy.attention_heads, anatomy.key_value_heads, anatomy.head_dim) == (4, 2, 64)
    assert {matrix.name: matrix.shape for matrix in anatomy.layer}["self_attn.k_proj.weight"] == (128, 256)


def test_the_parts_are_counted_by_kind_with_what_the_loader_makes_of_them(folders: dict[str, Path]) -> None:
    parts = {part.kind: part for part in look(folders["llama"]).parts}
    told = {kind: (part.count, part.parameters, part.storage) for kind, part in parts.items()}
    assert told == {
        Kind.EMBEDDING: (1, 512 * 256, "bfloat16"),
        Kind.NORM: (9, 9 * 256, "bfloat16"),
        Kind.ATTENTION: (16, 4 * (2 * 256 * 256 + 2 * 128 * 256), "NF4"),
        Kind.MLP: (12, 4 * 3 * 256 * 512, "NF4"),
        Kind.HEAD: (1, 512 * 256, "bfloat16"),
    }
    assert parts[Kind.MLP].size_bytes == round(parts[Kind.MLP].parameters * NF4_BITS / 8)
    assert parts[Kind.HEAD].size_bytes == 2 * parts[Kind.HEAD].parameters


def test_every_expert_counts_and_is_quantized_but_the_router_is_not(folders: dict[str, Path]) -> None:
    anatomy = look(folders["mixtral"])
    parts = {part.kind: part for part in anatomy.parts}
    experts, router = parts[Kind.EXPERTS], parts[Kind.ROUTER]
    assert (experts.count, experts.parameters, experts.storage) == (4 * 4 * 1, 4 * 4 * 3 * 256 * 512, "NF4")
    assert (router.count, router.parameters, router.storage) == (4, 4 * 4 * 256, "bfloat16")
    assert (anatomy.experts, anatomy.experts_per_token) == (4, 2)


def test_biases_stay_as_they_are_beside_quantized_matrices(folders: dict[str, Path]) -> None:
    attention = next(part for part in look(folders["qwen"]).parts if part.kind is Kind.ATTENTION)
    biases = 4 * (256 + 128 + 128)
    assert attention.storage == "NF4"
    expected = (attention.parameters - biases) * NF4_BITS / 8 + 2 * biases
    assert attention.size_bytes == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("alias", ALIASES)
def test_the_files_hold_as_many_parameters_as_the_architecture(folders: dict[str, Path], alias: str) -> None:
    anatomy = look(folders[alias])
    assert anatomy.parameters == anatomy.stored_parameters == sum(part.parameters for part in anatomy.parts)
    assert anatomy.parameters == load(folders[alias], quantization="none").model.num_parameters()


def test_files_for_another_architecture_are_noticed(own: Path) -> None:
    changed(own / "config.json", num_hidden_layers=3)
    anatomy = look(own)
    assert anatomy.stored_parameters > anatomy.parameters


@pytest.mark.parametrize(("alias", "tied"), [("llama", False), ("qwen", True), ("gemma", True)])
def test_the_vocabulary_is_the_same_at_both_ends_tied_or_not(
    folders: dict[str, Path], alias: str, tied: bool
) -> None:
    vocabulary = look(folders[alias]).vocabulary
    assert (vocabulary.input_size, vocabulary.output_size, vocabulary.tied) == (VOCABULARY, VOCABULARY, tied)
    assert vocabulary.agree


def test_a_vocabulary_that_differs_in_the_files_is_told_whatever_the_config_says(own: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(own / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][:-12].clone()
    save_file(weights, own / "model.safetensors")
    vocabulary = look(own).vocabulary
    assert (vocabulary.input_size, vocabulary.output_size, vocabulary.agree) == (VOCABULARY, 500, False)


@pytest.mark.parametrize(("allowed", "usable"), [(64, 64), (512, 512), (4096, 512)])
def test_the_context_is_the_smaller_of_the_models_and_the_catalogues(
    folders: dict[str, Path], allowed: int, usable: int
) -> None:
    anatomy = look(folders["llama"], context_tokens=allowed)
    assert (anatomy.model_context_tokens, anatomy.catalogue_context_tokens) == (512, allowed)
    assert anatomy.context_tokens == usable


def test_windows_are_told_with_the_layers_that_have_them(folders: dict[str, Path]) -> None:
    gemma, phi, llama = (look(folders[alias]) for alias in ("gemma", "phi", "llama"))
    assert (gemma.sliding_window, gemma.sliding_layers) == (64, (0, 2))
    assert (phi.sliding_window, phi.sliding_layers) == (100, (0, 1, 2, 3))
    assert (llama.sliding_window, llama.sliding_layers) == (None, ())


@pytest.mark.parametrize(
    ("alias", "traits"),
    [
        ("llama", TemplateTraits(accepts_system=True, needs_alternation=False)),
        ("phi", TemplateTraits(accepts_system=False, needs_alternation=False)),
        ("gemma", TemplateTraits(accepts_system=False, needs_alternation=True)),
        ("qwen", TemplateTraits(accepts_system=True, needs_alternation=False)),
        ("mixtral", TemplateTraits(accepts_system=False, needs_alternation=True)),
    ],
)
def test_what_the_template_takes_is_tried(
    folders: dict[str, Path], alias: str, traits: TemplateTraits
) -> None:
    assert look(folders[alias]).template == traits


def test_a_base_model_has_no_template(own: Path) -> None:
    (own / "chat_template.jinja").unlink()
    assert look(own).template is None


def test_memory_grows_with_tokens_and_conversations(folders: dict[str, Path]) -> None:
    anatomy = look(folders["llama"])
    one = anatomy.footprint(256)
    assert one.total_bytes == one.weights_bytes + one.cache_bytes + one.working_bytes
    assert anatomy.kept_bytes(512) == 2 * anatomy.kept_bytes(256)
    assert anatomy.footprint(512).cache_bytes > one.cache_bytes + anatomy.kept_bytes(256)
    assert anatomy.footprint(256, batch=3).cache_bytes == anatomy.footprint(3 * 256).cache_bytes
    assert anatomy.footprint(256, batch=3).weights_bytes == one.weights_bytes
    assert anatomy.footprint(256, batch=3).working_bytes > one.working_bytes


def test_attention_that_keeps_every_score_is_counted_with_its_square(folders: dict[str, Path]) -> None:
    gemma, llama = look(folders["gemma"]), look(folders["llama"])
    assert (gemma.attention, llama.attention) == ("eager", "sdpa")
    assert gemma.working_bytes(8192) > 8192 * 8192 * 4 * 10 > llama.working_bytes(8192)


def test_shards_are_read_all(tmp_path: Path, folders: dict[str, Path]) -> None:
    sharded = save_checkpoint("llama", tmp_path / "sharded", max_shard_size="500KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert look(sharded) == look(folders["llama"])


# --- Nothing is loaded or disturbed ---------------------------------------------------------------------------


def test_no_weight_is_read(own: Path) -> None:
    whole = look(own)
    weights = own / "model.safetensors"
    size = weights.stat().st_size
    header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    with weights.open("r+b") as file:  # only a hole where the data were
        file.truncate(header)
        file.truncate(size)
    assert look(own) == whole


def test_a_look_starts_no_workers_and_leaves_torch_as_it_was(folders: dict[str, Path]) -> None:
    script = f"""
import psutil, torch
from pathlib import Path
from bot.inference.anatomy import examine
from bot.inference.catalog import ModelSpec
import transformers
folder = Path({str(folders["llama"])!r})
spec = ModelSpec(alias="tiny", source=str(folder), context_tokens=256, description="a model")
examine(folder, spec)
before = psutil.Process().num_threads()
seen = []
torch.set_default_dtype, real = lambda dtype: seen.append(dtype), torch.set_default_dtype
examine(folder, spec)
print(psutil.Process().num_threads() - before, torch.get_default_dtype(), seen)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "0 torch.float32 []\n", done.stderr


# --- It cannot be looked at -----------------------------------------------------------------------------------


def test_an_architecture_that_is_not_known_is_a_sentence_and_its_code_is_not_run(own: Path) -> None:
    marker = own / "marker"
    (own / "evil.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    changed(
        own / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel"},
    )
    assert "not a language model transformers" in why_not(own)
    assert not marker.exists()


def test_a_model_that_is_no_language_model_is_a_sentence(own: Path) -> None:
    (own / "config.json").write_text('{"model_type": "vit"}')
    assert "not a language model" in why_not(own)


@pytest.mark.parametrize(
    "content", ["{", "[]", "null", '{"model_type": "llama", "hidden_size": "wide"}', '{"model_type": 7}']
)
def test_a_broken_config_is_a_sentence(own: Path, content: str) -> None:
    (own / "config.json").write_text(content)
    assert "config.json is broken" in why_not(own)


def test_a_missing_config_is_a_sentence(own: Path) -> None:
    (own / "config.json").unlink()
    assert "has no config.json" in why_not(own)


def test_weights_of_an_older_format_are_a_sentence(own: Path) -> None:
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    assert "no safetensors weights" in why_not(own)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05",
        b"\xff" * 64,
        (10).to_bytes(8, "little") + b"not json!!",
        (2).to_bytes(8, "little") + b"[]",
        (7).to_bytes(8, "little") + b'{"a":1}',
        (20).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}}',
    ],
)
def test_a_broken_header_is_a_sentence(own: Path, content: bytes) -> None:
    (own / "model.safetensors").write_bytes(content)
    assert "model.safetensors is broken or was cut off" in why_not(own)


def test_weights_that_were_cut_off_are_a_sentence(own: Path) -> None:
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "was cut off" in why_not(own)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    sharded = save_checkpoint("llama", tmp_path / "sharded", max_shard_size="500KB")
    gone = sorted(sharded.glob("*.safetensors"))[1]
    gone.unlink()
    assert f"{gone.name} is missing" in why_not(sharded)


@pytest.mark.parametrize(
    "index", ["{", "[]", '{"weight_map": []}', '{"weight_map": {"a": "../../model.safetensors"}}']
)
def test_a_broken_index_is_a_sentence(own: Path, index: str) -> None:
    (own / "model.safetensors").rename(own / "elsewhere.safetensors")
    (own / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json is broken" in why_not(own)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_tokenizer_is_a_sentence(own: Path, file: str) -> None:
    (own / file).write_text("{")
    assert "its tokenizer or chat template is missing or broken" in why_not(own)


def test_a_broken_template_is_a_sentence(own: Path) -> None:
    (own / "chat_template.jinja").write_text("{% if messages %}")
    assert "chat template is missing or broken" in why_not(own)
