"""Every family of the catalogue, in small: real classes, real loader, NF4, streaming, unloading."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.chat.messages import ChatMessage, Role
from bot.chat.prompt import joke_messages
from bot.inference.anatomy import examine
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import Event, FinishReason, GenerationRequest, TextDelta
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.local import LocalEngine
from bot.inference.queue import InferenceQueue
from bot.inference.run import Run
from bot.inference.threads import in_own_thread
from tests.inference.checkpoints import CONFIGS, ONE_AT_A_TIME, save_checkpoint
from tests.inference.reading import ending
from tests.inference.stepping import Stepped, alone, loaded_exactly

FAMILIES = tuple(CONFIGS)
CONVERSATION = (
    ChatMessage(Role.SYSTEM, "Be brief."),
    ChatMessage(Role.USER, "Hi"),
    ChatMessage(Role.USER, "Are you there?"),
    ChatMessage(Role.ASSISTANT, "Yes"),
    ChatMessage(Role.USER, "A joke!"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {alias: save_checkpoint(alias, root / alias) for alias in FAMILIES}


def spec_of(folder: Path, alias: str = "tiny", **options: Any) -> ModelSpec:
    return ModelSpec(alias=alias, source=str(folder), context_tokens=512, description="a model", **options)


async def answer(engine: LocalEngine, spec: ModelSpec, messages: Any = None, **params: Any) -> list[Event]:
    drawn = SamplingParams.model_validate({"max_new_tokens": 24, "temperature": 0.0, **params})
    asked = messages or joke_messages(topic="tea", audience="cats")
    async with (
        InferenceQueue(engine) as queue,
        queue.submit(GenerationRequest(spec, asked, drawn)) as generation,
    ):
        return [event async for event in generation]


@pytest.mark.parametrize("family", FAMILIES)
async def test_each_is_loaded_in_nf4_streams_an_answer_and_goes(
    engine: LocalEngine, folders: dict[str, Path], family: str
) -> None:
    spec = spec_of(folders[family])
    events = await answer(
        engine, spec, min_new_tokens=64, max_new_tokens=64, temperature=2.0, top_k=0, seed=5
    )
    assert ending(events).error is None
    assert ending(events).reason is FinishReason.LENGTH
    assert ending(events).usage.completion_tokens == 64
    assert sum(isinstance(event, TextDelta) for event in events) > 3
    with engine.pool.lease(spec) as loaded:
        assert getattr(loaded.model, "is_loaded_in_4bit", False)
        config = json.loads((folders[family] / "config.json").read_text())
        assert [type(loaded.model).__name__] == config["architectures"]
    await engine.pool.unload_idle()
    assert engine.memory().residents == ()


@pytest.mark.parametrize("alias", ONE_AT_A_TIME)
async def test_a_model_that_a_batch_would_compute_wrongly_answers_one_at_a_time(
    engine: LocalEngine, tmp_path: Path, alias: str
) -> None:
    spec = spec_of(save_checkpoint(alias, tmp_path / alias))
    assert not examine(Path(spec.source or ""), spec).batched
    events = await answer(engine, spec, min_new_tokens=8, max_new_tokens=8)
    assert ending(events).error is None
    assert ending(events).usage.completion_tokens == 8


WRITTEN = {
    "llama": "[system] Today is some day.\nBe brief.\n[user] Hi\n[user] Are you there?\n[assistant] Yes\n[user] A joke!"
    "\n[assistant] ",
    "gemma": "<turn user>Be brief.\n\nHi\n\nAre you there?\n<turn model>Yes\n<turn user>A joke!\n<turn model>",
    "mixtral": "[ASK] Be brief.\n\nHi\n\nAre you there? [/ASK]Yes[ASK] A joke! [/ASK]",
    "phi": "<|user|>\nBe brief.\n\nHi<|end|>\n<|assistant|>\n<|user|>\nAre you there?<|end|>\n<|assistant|>\n"
    "Yes<|end|>\n<|user|>\nA joke!<|end|>\n<|assistant|>\n",
}


@pytest.mark.parametrize("family", WRITTEN)
async def test_what_the_model_reads_is_what_its_template_takes(folders: dict[str, Path], family: str) -> None:
    loaded = ModelLoader(folders[family]).load(spec_of(folders[family]), lambda *_: None)
    ids = loaded.encode(CONVERSATION)
    assert loaded.decode(ids) == WRITTEN[family]
    assert ids.count(loaded.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("family", FAMILIES)
async def test_who_is_answered_together_hears_what_the_model_says_to_each_alone(
    engine: LocalEngine, folders: dict[str, Path], family: str
) -> None:
    # Prompts shorter and longer than the windows of gemma (64 tokens) and phi (100), and longer than one step.
    questions = ["Hi", "word " * 18, "word " * 30, "a long one " * 30]
    spec = spec_of(folders[family], quantization="none")
    asked = [(ChatMessage(Role.USER, question),) for question in questions]
    params = SamplingParams(temperature=0.0, max_new_tokens=30, min_new_tokens=30)
    requests = [GenerationRequest(spec, messages, params) for messages in asked]

    async def said(queue: InferenceQueue, request: GenerationRequest) -> str:
        async with queue.submit(request) as generation:
            events = [event async for event in generation]
        assert ending(events).usage.completion_tokens == 30
        return "".join(event.text for event in events if isinstance(event, TextDelta))

    async with InferenceQueue(engine, slots=8) as queue:
        together = await asyncio.gather(*(said(queue, request) for request in requests))
    await engine.rest()  # which gives the model back the attention that it had
    with engine.pool.lease(spec) as loaded:
        alone = await in_own_thread(
            lambda: [by_generate(loaded, request) for request in requests], timeout_s=60
        )
    # In bfloat16 two likely tokens of a model of noise can change places after a while.
    assert [text[:10] for text in together] == [text[:10] for text in alone]


PROMPTS = [[1, *range(7 * count % 300 + 3, 7 * count % 300 + 3 + count)] for count in (3, 20, 62, 90, 170)]


def generated(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """The likeliest ids after a prompt, by transformers' own `generate` with no end."""
    with torch.inference_mode():
        ids = model.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=tokens,
            suppress_tokens=ENDS,
            pad_token_id=0,
        )
    return [int(one) for one in ids[0, len(prompt) :]]


ENDS = [2, 257, 258, 259, 260]  # of whichever tiny tokenizer


@pytest.mark.parametrize("softcap", [5.0, 50.0])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gemmas_capped_scores_are_capped_in_company_too(
    tmp_path: Path, softcap: float, precision: torch.dtype
) -> None:
    """With weights that make scores large enough for a cap to change them, and texts longer than the window."""
    loaded = replace(
        loaded_exactly(save_checkpoint("gemma", tmp_path / "gemma", softcap=softcap, is_attentive=True)),
        eos_token_ids=tuple(ENDS),
    )
    model: Any = loaded.model
    model.to(precision)
    tokens = (
        20 if precision == torch.float32 else 8
    )  # likely ones of a model of noise change places by rounding
    expected = [generated(model, prompt, tokens) for prompt in PROMPTS]
    with Stepped(loaded, step_tokens=48) as batch:
        names = [batch.add(prompt, tokens) for prompt in PROMPTS]
        batch.steps()
        assert [batch.said[name] for name in names] == expected


@pytest.mark.parametrize("context_tokens", [128, 512])
def test_somebodys_long_text_does_not_change_what_others_are_told(
    tmp_path: Path, context_tokens: int
) -> None:
    folder = save_checkpoint("long-phi", tmp_path / "phi", is_attentive=True)
    loaded = loaded_exactly(folder, context_tokens=context_tokens)
    short, long = [1, 9, 8, 7], list(range(5, 5 + context_tokens - 60))
    with Stepped(loaded) as batch:
        name, other = batch.add(short, 40), batch.add(long, 40)
        batch.steps()
        together = batch.said[name], batch.said[other]
    assert together == (alone(loaded, short, 40), alone(loaded, long, 40))


def test_a_text_that_grows_beyond_the_first_context_goes_on_as_it_began(tmp_path: Path) -> None:
    loaded = loaded_exactly(save_checkpoint("long-phi", tmp_path / "phi", is_attentive=True))
    loaded = replace(loaded, eos_token_ids=tuple(ENDS))
    prompt = list(range(5, 105))  # and 60 more are beyond 128
    grown = alone(loaded, prompt, 60)
    read_at_once = generated(loaded.model, [*prompt, *grown[:50]], 10)
    assert grown[50:] == read_at_once


def by_generate(loaded: LoadedModel, request: GenerationRequest) -> str:
    """What transformers' own `generate` says."""
    texts: list[str] = []
    Run(loaded, request).run(lambda event: texts.append(getattr(event, "text", "")), threading.Event())
    return "".join(texts)


@pytest.mark.parametrize("family", ["llama", "phi"])
async def test_each_of_several_ends_ends_the_answer_and_is_not_shown(
    engine: LocalEngine,
    folders: dict[str, Path],
    tmp_path: Path,
    family: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = save_checkpoint(family, tmp_path / family)
    ends = [257, 258, 259]
    config = folder / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": ends}))
    spec = spec_of(folder)
    await answer(engine, spec, max_new_tokens=1)
    for end in ends:
        with engine.pool.lease(spec) as loaded, monkeypatch.context() as patched:
            assert set(ends) <= set(loaded.eos_token_ids)
            forward, calls = loaded.model.forward, iter(range(1000))

            def ended(
                *args: Any, _forward: Any = forward, _calls: Any = calls, _end: int = end, **kwargs: Any
            ) -> Any:
                output = _forward(*args, **kwargs)
                output.logits[..., _end if next(_calls) == 5 else 70] += 1e4
                return output

            patched.setattr(loaded.model, "forward", ended)
            events = await answer(engine, spec)
        assert ending(events).reason is FinishReason.STOP
        assert ending(events).usage.completion_tokens == 6
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert len(text) == 5


@pytest.mark.parametrize(
    ("family", "switch", "prompt_ends"),
    [
        ("qwen3", None, "assistant\n"),
        ("qwen3", True, "assistant\n"),
        ("qwen3", False, "<think>\n\n</think>\n\n"),
        ("qwen", False, "assistant\n"),  # a template without the switch
    ],
)
def test_the_catalogue_can_switch_thinking_off_where_the_template_has_the_switch(
    folders: dict[str, Path], family: str, switch: bool | None, prompt_ends: str
) -> None:
    spec = spec_of(folders[family], enable_thinking=switch)
    loaded = ModelLoader(folders[family]).load(spec, lambda *_: None)
    assert loaded.decode(loaded.encode(CONVERSATION)).endswith(prompt_ends)


def test_a_reload_switches_thinking_without_loading_the_model_anew(folders: dict[str, Path]) -> None:
    spec = spec_of(folders["qwen3"])
    loaded = ModelLoader(folders["qwen3"]).load(spec, lambda *_: None)
    without = spec.model_copy(update={"enable_thinking": False})
    assert loaded.decode(loaded.encode(CONVERSATION, without)).endswith("</think>\n\n")
    assert "</think>" not in loaded.decode(loaded.encode(CONVERSATION))
