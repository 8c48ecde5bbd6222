"""The same numbers as bitsandbytes' and transformers' own layers give, on the shorter way to the kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from transformers import LlamaConfig, LlamaForCausalLM

from bot.inference import products
from bot.inference.catalog import ModelSpec
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.products import use_direct_products
from tests.inference.checkpoints import save_checkpoint

PLAIN = Linear4bit.forward
# What people get must be right on both kinds of processors, so every test of numbers runs on both. Only that the kernel
# is used, and how, cannot be shown without it.
HAS_KERNEL = bool(Linear4bit(64, 64).support_avx512bf16_for_cpu)  # type: ignore[no-untyped-call]
needs_kernel = pytest.mark.skipif(
    not HAS_KERNEL,
    reason="NEEDS A PROCESSOR WITH AVX512-BF16: bitsandbytes has no kernel for products of NF4 on another CPU",
)


def load(folder: Path, *, plain: bool = False) -> LoadedModel:
    spec = ModelSpec(alias="tiny", source=str(folder), context_tokens=256, description="a model")
    return ModelLoader(folder, plain=plain).load(spec, lambda *_: None)


def logits(loaded: LoadedModel, *shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    model: Any = loaded.model
    with torch.inference_mode():
        scores: torch.Tensor = model(torch.randint(3, 500, shape)).logits
    return scores


def of_ours(loaded: LoadedModel) -> int:
    """How many 4-bit layers have a `forward` of ours."""
    layers = (module for module in loaded.model.modules() if isinstance(module, Linear4bit))
    return sum("forward" in vars(layer) for layer in layers)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("products")


@pytest.mark.parametrize("alias", ["llama", "phi", "gemma", "qwen", "qwen3", "mixtral"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 16), (3, 7)])
def test_every_family_says_the_same(alias: str, shape: tuple[int, int], folders: Path) -> None:
    folder = folders / alias
    if not folder.exists():
        save_checkpoint(alias, folder)
    ours, plain = load(folder), load(folder, plain=True)
    assert (of_ours(ours) > 4) is HAS_KERNEL
    assert of_ours(plain) == 0
    found, expected = logits(ours, *shape), logits(plain, *shape)
    # The head's products are summed in another order, of bfloat16: all that may differ is their rounding.
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.01)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def layers(*sizes: int, inputs: int = 128, bias: bool = False) -> Any:
    """A parent with 4-bit layers by the names that are one product."""
    torch.manual_seed(1)
    parent = torch.nn.Module()
    for name, outputs in zip(("q_proj", "k_proj", "v_proj"), sizes, strict=True):
        layer: Any = Linear4bit(  # type: ignore[no-untyped-call]
            inputs, outputs, bias=bias, quant_type="nf4", compute_dtype=torch.bfloat16
        )
        torch.nn.init.normal_(layer.weight.data)
        setattr(parent, name, layer.to(torch.bfloat16).to("cpu").eval())
    vars(parent)["get_output_embeddings"] = lambda: None
    return parent.requires_grad_(False)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_layers_with_one_input_say_the_same_in_whatever_order_they_are_asked(
    bias: bool, order: tuple[int, ...]
) -> None:
    parent = layers(128, 64, 64, bias=bias)
    x = torch.randn(2, 5, 128, dtype=torch.bfloat16)
    with torch.inference_mode():
        own = list(parent.children())
        expected, of_one_row = [PLAIN(layer, x) for layer in own], PLAIN(own[1], x[0, :1])
        use_direct_products(parent)
        found = {place: own[place](x) for place in order}
        assert all(torch.equal(found[place], expected[place]) for place in order)
        assert torch.equal(own[1](x[0, :1]), of_one_row)


@needs_kernel
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_layers_with_one_input_are_one_product_in_whatever_order_they_are_asked(
    bias: bool, order: tuple[int, ...]
) -> None:
    parent = layers(128, 64, 64, bias=bias)
    x = torch.randn(2, 5, 128, dtype=torch.bfloat16)
    with torch.inference_mode():
        own = list(parent.children())
        expected = [PLAIN(layer, x) for layer in own]
        calls: list[int] = []
        use_direct_products(parent)
        product = own[0].forward._product
        kernel = product._kernel

        def counted(*given: Any) -> None:
            calls.append(given[0])
            kernel(*given)

        product._kernel = counted
        found = {place: own[place](x) for place in order}
        assert all(torch.equal(found[place], expected[place]) for place in order)
        assert calls == [10]
        own[1](x[0, :1])
        assert calls == [10, 1]


def test_a_second_input_is_not_answered_with_the_first_ones_product() -> None:
    parent = layers(64, 64, 64)
    with torch.inference_mode():
        first, second = (torch.randn(1, 128, dtype=torch.bfloat16) for _ in range(2))
        expected = [PLAIN(layer, one) for layer in parent.children() for one in (first, second)]
        use_direct_products(parent)
        parent.q_proj(first)  # its neighbours are never asked for this one
        found = [layer(one) for layer in parent.children() for one in (first, second)]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_rows_that_lie_apart_and_other_kinds_of_numbers_are_taken_too() -> None:
    parent = layers(64, 64, 64)
    with torch.inference_mode():
        apart = torch.randn(128, 6, dtype=torch.bfloat16).T
        expected = PLAIN(parent.q_proj, apart.contiguous())
        wide = PLAIN(parent.q_proj, apart.contiguous().float())
        use_direct_products(parent)
        assert torch.equal(parent.q_proj(apart), expected)
        assert torch.equal(parent.q_proj(apart.float()), wide)
        assert parent.q_proj(apart[:0]).shape == (0, 64)


@pytest.mark.parametrize(("inputs", "outputs"), [(128, 1), (128, 40), (96, 64)])
def test_a_layer_whose_shape_the_kernel_does_not_take_is_computed_all_the_same(
    inputs: int, outputs: int
) -> None:
    parent = layers(outputs, outputs, outputs, inputs=inputs)
    use_direct_products(parent)
    with torch.inference_mode():
        assert parent.q_proj(torch.randn(3, inputs, dtype=torch.bfloat16)).shape == (3, outputs)


def test_the_shorter_way_takes_no_more_memory(folders: Path) -> None:
    ours, plain = (
        load(save_checkpoint("llama", folders / "no-more"), plain=plain) for plain in (False, True)
    )
    logits(plain, 1, 1)  # bitsandbytes lays its weights out with the first product
    assert ours.model.get_memory_footprint() == plain.model.get_memory_footprint()


@needs_kernel
def test_joined_layers_are_kept_once(folders: Path) -> None:
    ours = load(save_checkpoint("llama", folders / "kept-once"))
    attention = ours.model.model.layers[0].self_attn
    one, two = (
        layer.weight.data.untyped_storage().data_ptr() for layer in (attention.q_proj, attention.v_proj)
    )
    assert one == two


def test_a_large_output_head_is_not_kept_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, vocab_size=512)
    small, large = [LlamaForCausalLM(config).bfloat16() for _ in range(2)]
    use_direct_products(small)
    monkeypatch.setattr(products, "HEAD_COPY_LIMIT_BYTES", 1_000)
    use_direct_products(large)
    assert "forward" not in vars(large.lm_head)
    expected = torch.nn.functional.linear(torch.ones(1, 64, dtype=torch.bfloat16), small.lm_head.weight)
    torch.testing.assert_close(small.lm_head(torch.ones(1, 64, dtype=torch.bfloat16)), expected)
