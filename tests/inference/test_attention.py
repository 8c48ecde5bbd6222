"""Attention by rows and by pieces of prompts gives what looking at one's own keys gives, in every kind of step."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.generation.continuous_batching import continuous_api

from bot.chat.messages import ChatMessage, Role
from bot.inference import attention as ours
from bot.inference import batch, layout, manager
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import FinishReason, GenerationRequest
from bot.inference.loader import ModelLoader
from bot.inference.local import LocalEngine
from bot.inference.queue import InferenceQueue
from tests.inference.checkpoints import save_checkpoint
from tests.inference.reading import ending, read
from tests.inference.stepping import Stepped, alone, loaded_exactly


class Compared:
    """Takes the place of the attention, keeps everybody's keys itself, and counts the kinds of steps."""

    def __init__(self) -> None:
        self.attention = ours.attention
        self.kinds: Counter[str] = Counter()
        self.worst = 0.0
        self._kept: dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        found, _ = self.attention(module, query, key, value, mask, **kwargs)
        step = kwargs[ours.STEP]
        allocator = kwargs["cache"].layer_to_allocator[module.layer_idx]
        for one in step.requests:
            name = (module.layer_idx, one.id)
            new = (key[0, :, one.tokens], value[0, :, one.tokens])
            before = self._kept.get(name)
            if one.before and (before is None or before[0].shape[1] != one.before):
                self.kinds["of which a beginning is shared"] += 1
                continue
            keys, values = (
                new if before is None else (torch.cat(pair, 1) for pair in zip(before, new, strict=True))
            )
            self._kept[name] = (keys, values)
            expected = own_keys(
                query[0, :, one.tokens], keys, values, getattr(allocator, "sliding_window", None), kwargs
            )
            self.worst = max(self.worst, float((found[0, one.tokens].transpose(0, 1) - expected).abs().max()))
        laid = step._layouts[allocator.index]
        self.kinds[
            " and ".join(name for name, one in (("rows", laid.rows), ("pieces", laid.pieces)) if one)
        ] += 1
        self.kinds["a prompt that goes on"] += any(one.pages is not None for one in laid.pieces)
        self.kinds["a prompt that outgrows its window"] += any(
            one.overwritten is not None for one in laid.pieces
        )
        return found, None


def own_keys(queries: Any, keys: Any, values: Any, window: int | None, how: dict[str, Any]) -> torch.Tensor:
    """Heads x tokens x width, of one request, in float32 and step by step."""
    new, length = queries.shape[1], keys.shape[1]
    keys, values = (
        one.float().repeat_interleave(queries.shape[0] // keys.shape[0], 0) for one in (keys, values)
    )
    scores = queries.float() @ keys.transpose(1, 2) * how["scaling"]
    if cap := how.get("softcap"):
        scores = cap * torch.tanh(scores / cap)
    back = torch.arange(length - new, length)[:, None] - torch.arange(length)[None, :]
    scores = scores.masked_fill((back < 0) | (back >= (window or length)), -math.inf)
    if (sinks := how.get("s_aux")) is not None:
        scores = torch.cat((scores, sinks.float()[:, None, None].expand(-1, new, 1)), 2)
    found: torch.Tensor = scores.softmax(2)[..., :length] @ values
    return found


LENGTHS = (1, 3, 90, 30, 5, 130)


@pytest.mark.parametrize("alias", ["llama", "qwen", "qwen3", "phi", "gemma", "gpt-oss"])
@pytest.mark.parametrize("place", ["cpu", "as on a GPU"])
async def test_people_who_come_and_go_look_at_their_own_words(
    alias: str, place: str, engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = Compared()
    monkeypatch.setattr(ours, "attention", compared)
    monkeypatch.setattr(batch, "step_tokens_of", lambda _: 48)
    for module in (ours, layout):
        monkeypatch.setattr(module, "on_gpu", lambda _: place != "cpu")
    folder = save_checkpoint(alias, tmp_path / alias)
    spec = ModelSpec(
        alias="tiny", source=str(folder), context_tokens=512, description="a model", quantization="none"
    )

    def ask(length: int, tokens: int) -> GenerationRequest:
        how = SamplingParams(max_new_tokens=tokens, min_new_tokens=tokens, seed=length)
        return GenerationRequest(spec, (ChatMessage(Role.USER, chr(97 + length % 26) * length),), how)

    async with InferenceQueue(engine, slots=16) as queue:
        asked = [queue.submit(ask(length, 10 + length % 7)) for length in LENGTHS]
        everybody = await asyncio.gather(*map(read, asked))
    assert all(ending(events).reason is FinishReason.LENGTH for events in everybody)
    kinds = {"rows", "rows and pieces", "a prompt that goes on"}
    if alias in ("phi", "gemma"):
        kinds.add("a prompt that outgrows its window")
    assert kinds <= {kind for kind, count in compared.kinds.items() if count}
    assert compared.worst < 0.02


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often attention asks the device for numbers, which waits for it, and how often it sends some."""
    count: Counter[str] = Counter()
    attention = ours.attention

    def watched(*args: Any, **kwargs: Any) -> Any:
        with pytest.MonkeyPatch.context() as patched:
            for owner, name in (
                (torch.Tensor, "tolist"),
                (torch.Tensor, "item"),
                (torch.Tensor, "__bool__"),
                (torch.Tensor, "__int__"),
                (torch.Tensor, "__index__"),
                (torch.Tensor, "cpu"),
                (torch.Tensor, "numpy"),
                (torch.Tensor, "nonzero"),
                (torch, "tensor"),
            ):
                original = getattr(owner, name)

                def call(*given: Any, _name: str = name, _original: Any = original, **named: Any) -> Any:
                    count["sent" if _name == "tensor" else "asked"] += 1
                    return _original(*given, **named)

                patched.setattr(owner, name, call)
            return attention(*args, **kwargs)

    monkeypatch.setattr(ours, "attention", watched)
    yield count


@pytest.mark.parametrize(("alias", "kinds"), [("llama", 1), ("gemma", 2)])
def test_attention_waits_for_the_device_in_no_step_and_sends_it_one_list_for_each_kind_of_layer(
    alias: str, kinds: int, tmp_path: Path, counted: Counter[str]
) -> None:
    loaded = loaded_exactly(save_checkpoint(alias, tmp_path / alias))
    with Stepped(loaded) as stepped:
        for length in (3, 70, 130):
            stepped.add(list(range(5, 5 + length)), 12)
        taken = stepped.steps()
    assert counted["asked"] == 0
    assert counted["sent"] == kinds * len(taken)


def test_a_step_that_is_copied_to_the_device_at_once_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = loaded_exactly(save_checkpoint("gemma", tmp_path / "gemma", is_attentive=True))

    def said() -> dict[str, list[int]]:
        with Stepped(loaded, step_tokens=48) as stepped:
            for length in (3, 70, 130):
                stepped.add(list(range(5, 5 + length)), 12)
            stepped.steps()
            is_staged = stepped.processor.inputs_and_outputs.staging is not None
            assert is_staged is manager.needs_staging(torch.device("cpu"))
            return stepped.said

    written_one_by_one = said()
    monkeypatch.setattr(manager, "needs_staging", lambda _: True)
    assert said() == written_one_by_one


def test_nothing_is_listed_or_masked_for_each_key_of_a_step(tmp_path: Path) -> None:
    with Stepped(loaded_exactly(save_checkpoint("gemma", tmp_path / "gemma"))) as stepped:
        stepped.add(list(range(5, 100)), 4)
        stepped.steps()
        inputs = stepped.processor.inputs_and_outputs
        assert inputs.attention_mask is None
        assert inputs.true_read_sizes == [0, 0]


def test_flash_attention_that_is_installed_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pages hold 256 tokens, ours 32."""
    monkeypatch.setattr(continuous_api, "is_flash_attn_2_available", lambda **_: True)
    loaded = loaded_exactly(save_checkpoint("llama", tmp_path / "llama"))
    assert len(alone(loaded, [1, 5, 6, 7], 4)) == 4
    assert loaded.model.config._attn_implementation == "sdpa"


def test_a_model_has_its_own_attention_back_after_a_batch_that_broke(tmp_path: Path) -> None:
    loaded = loaded_exactly(save_checkpoint("gemma", tmp_path / "gemma"))
    for _ in range(2):
        broken = batch.Batch(loaded, requests=4)
        assert loaded.model.config._attn_implementation == ours.NAME
        broken.close()
        assert loaded.model.config._attn_implementation == "eager"


def test_cudnn_attention_is_off_once_torch_is_prepared(tmp_path: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    ModelLoader(tmp_path).prepare()
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    ours.use_cudnn(True)
    assert torch.backends.cuda.cudnn_sdp_enabled()
    ours.use_cudnn(False)


@pytest.mark.parametrize(
    ("config", "is_understood"),
    [
        ({"model_type": "llama"}, True),
        ({"model_type": "gemma2", "layer_types": ["sliding_attention", "full_attention"]}, True),
        ({"model_type": "llama4_text", "layer_types": ["chunked_attention", "full_attention"]}, False),
        ({"model_type": "doge"}, False),
        ({"model_type": "diffllama"}, False),
        ({"model_type": "hrm_text"}, False),
        ({"model_type": "gemma4_text", "is_heterogeneous": True}, False),
        ({"model_type": "deepseek_v3", "head_dim": 64, "qk_head_dim": 192, "v_head_dim": 128}, False),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, False),
    ],
)
def test_what_our_attention_would_compute_wrongly_is_answered_one_at_a_time(
    config: dict[str, Any], is_understood: bool
) -> None:
    assert ours.is_understood(SimpleNamespace(**config)) is is_understood


@pytest.mark.parametrize("odd", ["position_bias", "indices", "block_indices"])
def test_what_it_does_not_know_is_refused_and_not_ignored(odd: str) -> None:
    layer, states = SimpleNamespace(), torch.zeros(1, 1, 1, 8)
    given: dict[str, Any] = {ours.STEP: layout.Step([]), odd: torch.zeros(1)}
    with pytest.raises(NotImplementedError, match="SimpleNamespace cannot be computed"):
        ours.attention(layer, states, states, states, None, **given)
