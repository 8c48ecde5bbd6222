"""Mixture-of-experts models in NF4: the same answers as their weights unpacked, in a quarter of the memory."""

from __future__ import annotations

import gc
import logging
import re
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

from bot.errors import ModelUnavailable
from bot.inference.catalog import ModelSpec
from bot.inference.experts import understood
from bot.inference.loader import LoadedModel, ModelLoader
from tests.inference.checkpoints import save_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("mixtral", tmp_path_factory.mktemp("experts") / "mixtral")


def load(folder: Path, quantization: str = "nf4") -> LoadedModel:
    spec = ModelSpec.model_validate(
        {
            "alias": "mixtral",
            "source": str(folder),
            "quantization": quantization,
            "context_tokens": 256,
            "description": "a model",
        }
    )
    return ModelLoader(folder, plain=True).load(spec, lambda *_: None)  # whose weights can be unpacked


def unpacked(layer: Any) -> torch.Tensor:
    """The weight of a 4-bit layer [out, in] in bfloat16."""
    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight.reshape(layer.out_features, layer.in_features).to(torch.bfloat16)


def with_the_weights_of(quantized: Any, folder: Path) -> Any:
    """transformers' own eager model, whose weights are the quantized one's unpacked."""
    plain: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(quantized.device)
    modules: list[tuple[str, Any]] = list(quantized.named_modules())
    for name, module in modules:
        if not isinstance(module, Linear4bit):
            continue
        path, _, last = name.rpartition(".")
        if last.isdigit():
            parent, _, weight = path.rpartition(".")
            getattr(plain.get_submodule(parent), weight).data[int(last)] = unpacked(module)
        else:
            plain.get_submodule(name).weight.data = unpacked(module)
    return plain


@contextmanager
def same_experts_chosen(first: Any, second: Any) -> Iterator[None]:
    """Whatever experts `first` chooses in its next forward, `second` takes too.

    Where two experts score within a rounding of each other, each processor's kernels may choose differently, and the
    answers are then not comparable.
    """
    chosen: dict[str, Any] = {}

    def keep(name: str, _module: Any, _inputs: Any, output: Any) -> None:
        chosen[name] = output

    def replay(name: str, _module: Any, _inputs: Any, _output: Any) -> Any:
        return chosen.pop(name)

    hooks = [
        module.register_forward_hook(partial(does, name))
        for model, does in ((first, keep), (second, replay))
        for name, module in model.named_modules()
        if isinstance(module, MixtralTopKRouter)
    ]
    assert hooks
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    assert not chosen


def test_every_expert_is_in_nf4_with_double_quantization(folder: Path) -> None:
    model: Any = load(folder).model
    experts = model.model.layers[0].mlp.experts
    assert len(experts.gate_up_proj) == len(experts.down_proj) == 4
    assert all(isinstance(one, Linear4bit) for one in (*experts.gate_up_proj, *experts.down_proj))
    layers: list[Any] = [*experts.gate_up_proj, *experts.down_proj]
    for layer in layers:
        assert layer.weight.quant_state.quant_type == "nf4"
        assert layer.weight.dtype == torch.uint8
        assert layer.compute_dtype == torch.bfloat16
    assert not any(weight.dim() == 3 for weight in model.parameters())


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (3, 9)], ids=["a token", "a prompt", "three at once"])
def test_the_answers_are_those_of_the_same_weights_unpacked(folder: Path, shape: tuple[int, int]) -> None:
    quantized: Any = load(folder).model
    plain = with_the_weights_of(
        quantized, folder
    ).eval()  # before its first use: on a CPU that packs weights anew
    read = torch.randint(3, 500, shape, generator=torch.Generator().manual_seed(1))
    read = read.to(quantized.device)
    with torch.inference_mode(), same_experts_chosen(quantized, plain):
        ours = quantized(input_ids=read).logits
        theirs = plain(input_ids=read).logits
    assert torch.allclose(ours.float(), theirs.float(), atol=0.02 * float(theirs.float().abs().max()))
    assert ours.float().sub(theirs.float()).abs().mean() < 0.01 * theirs.float().abs().mean()


def test_a_token_after_the_cache_is_as_if_all_were_read_at_once(folder: Path) -> None:
    model: Any = load(folder).model
    read = torch.randint(3, 500, (2, 12), generator=torch.Generator().manual_seed(2)).to(model.device)
    with torch.inference_mode():
        cache = model(input_ids=read[:, :-1], use_cache=True).past_key_values
        after = model(input_ids=read[:, -1:], past_key_values=cache).logits[:, -1].float()
        at_once = model(input_ids=read).logits[:, -1].float()
    assert torch.allclose(after, at_once, atol=0.03 * float(at_once.abs().max()))


class Waits(TorchDispatchMode):
    """Counts the operators whose results the host must have before it can go on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, operator: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        if name in {"nonzero", "_unique2", "unique_dim", "_local_scalar_dense", "bincount", "masked_select"}:
            self.names.append(name)
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("tokens", [1, 17])
def test_the_host_waits_once_a_layer_for_which_experts_were_chosen(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    model: Any = load(folder).model
    experts = model.model.layers[0].mlp.experts
    read_back: list[int] = []
    tolist = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> Any:
        read_back.append(tensor.numel())
        return tolist(tensor)

    chosen = torch.randint(0, 4, (tokens, 2), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    with torch.inference_mode(), Waits() as waits:
        states = torch.randn(tokens, 256, dtype=torch.bfloat16)
        experts(states, chosen, torch.full((tokens, 2), 0.5, dtype=torch.bfloat16))
    assert waits.names == []
    assert read_back == [5]  # where the tokens of each of four experts begin, and where the last ones end


def test_it_takes_a_quarter_of_the_memory_and_leaves_nothing_behind(folder: Path) -> None:
    def experts_bytes(model: Any) -> int:
        weights = model.model.layers[0].mlp.experts.parameters()
        return sum(weight.numel() * weight.element_size() for weight in weights)

    plain = load(folder, "none")
    quantized = load(folder)
    assert experts_bytes(quantized.model) == experts_bytes(plain.model) / 4
    gone = weakref.ref(quantized.model)
    del quantized
    gc.collect()
    assert gone() is None


def test_experts_of_another_kind_stay_as_they_are_and_the_log_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bot.inference.experts.understood", lambda _: False)
    with caplog.at_level(logging.WARNING):
        model: Any = load(folder).model
    assert model.model.layers[0].mlp.experts.gate_up_proj.dim() == 3
    assert "8 fused weights are not quantized" in caplog.text


@pytest.mark.parametrize(
    ("flag", "value"),
    [("has_bias", True), ("is_transposed", True), ("has_gate", False), ("is_concatenated", False)],
)
def test_what_would_have_to_be_computed_otherwise_is_not_taken_for_understood(
    folder: Path, flag: str, value: bool
) -> None:
    experts = load(folder, "none").model.get_submodule("model.layers.0.mlp.experts")
    assert understood(experts)
    setattr(experts, flag, value)
    assert not understood(experts)


def without(folder: Path, to: Path, *endings: str) -> Path:
    """A copy whose files lack the weights of the second layer's experts that end like this."""
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    lacking = [
        name for name in weights if "layers.1.block_sparse_moe.experts" in name and name.endswith(endings)
    ]
    assert lacking
    for name in lacking:
        del weights[name]
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize(
    "lacking",
    [
        pytest.param(["3.w1.weight", "3.w2.weight", "3.w3.weight"], id="the last expert"),
        pytest.param(["1.w1.weight", "1.w2.weight", "1.w3.weight"], id="one in the middle"),
        pytest.param(["3.w2.weight"], id="its way down"),
        pytest.param(["3.w1.weight", "3.w3.weight"], id="its gate and way up"),
        pytest.param(["3.w1.weight"], id="its gate"),
        pytest.param([".w2.weight"], id="all ways down"),
        pytest.param([".weight"], id="all experts"),
    ],
)
def test_a_checkpoint_that_lacks_an_expert_is_refused_with_a_sentence(
    folder: Path, tmp_path: Path, quantization: str, lacking: list[str]
) -> None:
    broken = without(folder, tmp_path / "broken", *lacking)
    said = (
        r"mixtral cannot be loaded: (its files are missing|its weights are not whole|\d+ weights are not in)"
    )
    with pytest.raises(ModelUnavailable, match=said):
        load(broken, quantization)


@pytest.mark.parametrize(
    ("lacking", "reason"),
    [
        pytest.param(
            ["3.w1.weight", "3.w2.weight", "3.w3.weight"],
            r"2 weights are not whole in its files, such as model\.layers\.1\.mlp\.experts\.\w+: \[3, .* not \[4, ",
            id="one",
        ),
        pytest.param(
            [".w2.weight"], r"1 weights are not in its files, such as .*experts\.down_proj", id="all"
        ),
    ],
)
def test_the_log_says_which_experts_are_missing(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, lacking: list[str], reason: str
) -> None:
    with pytest.raises(ModelUnavailable):
        load(without(folder, tmp_path / "broken", *lacking))
    assert re.search(reason, caplog.text)


def test_the_quantizer_of_other_programs_in_this_process_is_left_as_it_was(folder: Path) -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    load(folder)
    assert AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"] is Bnb4BitHfQuantizer
