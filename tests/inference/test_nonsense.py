"""A model whose numbers overflow: its answer ends with a sentence, and everybody else's goes on."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bot.chat.messages import ChatMessage, Role
from bot.errors import BotError, ModelComputesNonsense
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import Event, FinishReason, GenerationRequest, TextDelta
from bot.inference.generation import Generation
from bot.inference.local import LocalEngine
from bot.inference.queue import InferenceQueue
from bot.inference.sampler import Draw, draw, draw_and_check
from tests.inference import tiny
from tests.inference.checkpoints import CONFIGS, called, save_checkpoint, save_mamba
from tests.inference.reading import ending, read, text_of
from tests.inference.stepping import Stepped, loaded_exactly

BAD = "~"  # whoever writes this character has the model compute nonsense
OVERFLOWS = {"NaN": math.nan, "infinite": math.inf, "minus infinite": -math.inf}


def broken(folder: Path, value: float = math.nan, tensor: str = "model.embed_tokens.weight") -> Path:
    """The checkpoint, with what a quantized weight becomes whose scale overflowed: for one token of its vocabulary."""
    token = tiny.id_of(tiny.byte_level(), BAD)
    weights = load_file(folder / "model.safetensors")
    weights[tensor][token] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def untied(alias: str, folder: Path) -> Path:
    """A checkpoint whose last matrix is not its first: what cannot be read can be written."""
    torch.manual_seed(0)
    config: Any = CONFIGS[alias]()
    config.max_position_embeddings, config.tie_word_embeddings = 512, False
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tiny.byte_level(chat_template=tiny.CHATML).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return broken(save_checkpoint("llama", tmp_path_factory.mktemp("nonsense") / "llama"))


def ask(folder: Path, question: str, alias: str = "tiny", **values: float) -> GenerationRequest:
    source = str(called(alias, folder))
    spec = ModelSpec(
        alias=alias, source=source, context_tokens=512, quantization="none", description="a model"
    )
    how = {"max_new_tokens": 40, "min_new_tokens": 40, "temperature": 1.0, "seed": 1, **values}
    return GenerationRequest(spec, (ChatMessage(Role.USER, question),), SamplingParams.model_validate(how))


def sentence_of(events: list[Event]) -> str:
    """What is said of an answer that ended because of its model's numbers."""
    finished = ending(events)
    assert finished.reason is FinishReason.ERROR
    assert isinstance(finished.error, ModelComputesNonsense)
    return finished.error.for_people


async def until_words(generation: Generation) -> None:
    async for event in generation:
        if isinstance(event, TextDelta):
            return


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e-30])
async def test_whose_numbers_overflow_hears_it_and_the_others_are_answered(
    engine: LocalEngine, folder: Path, temperature: float
) -> None:
    async with InferenceQueue(engine, slots=16) as queue:
        before = queue.submit(
            ask(folder, "Before", temperature=temperature, max_new_tokens=90, min_new_tokens=90)
        )
        await until_words(before)
        bad = queue.submit(ask(folder, f"A {BAD} word", temperature=temperature))
        beside = [queue.submit(ask(folder, "word " * n, temperature=temperature)) for n in range(1, 9)]
        said = sentence_of(await read(bad))
        others = await asyncio.gather(*map(read, (before, *beside)))
        after = await asyncio.gather(
            *(read(queue.submit(ask(folder, "more " * n, temperature=temperature))) for n in range(1, 13))
        )
    assert said == (
        "tiny computes nonsense in bfloat16: its numbers overflow, so the answer ends here. Please try another "
        'model; the operator can set quantization = "nf4" for tiny in the catalogue, or choose another revision of it.'
    )
    assert [ending(events).reason for events in others] == [FinishReason.LENGTH] * 9
    assert [ending(events).usage.completion_tokens for events in others] == [90] + [40] * 8
    # Those who come later are given the same pages of the cache.
    assert [ending(events).reason for events in after] == [FinishReason.LENGTH] * 12


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_no_token_of_the_nonsense_is_shown(
    engine: LocalEngine, folder: Path, temperature: float
) -> None:
    async with InferenceQueue(engine, slots=4) as queue:
        events = await read(queue.submit(ask(folder, BAD, temperature=temperature)))
    assert text_of(events) == ""
    assert ending(events).usage.completion_tokens == 0


@pytest.mark.parametrize("value", OVERFLOWS.values(), ids=OVERFLOWS)
@pytest.mark.parametrize(
    "question", [BAD, f"{BAD * 3} and more", f"{'word ' * 60}{BAD}"], ids=["alone", "first", "last"]
)
async def test_each_way_to_overflow_is_found(
    engine: LocalEngine, tmp_path: Path, value: float, question: str
) -> None:
    folder = broken(save_checkpoint("llama", tmp_path / "llama"), value)
    async with InferenceQueue(engine, slots=4) as queue:
        asked = [queue.submit(ask(folder, one)) for one in ("Hi", question, "Ho")]
        first, bad, last = await asyncio.gather(*map(read, asked))
    assert sentence_of(bad)
    assert {ending(first).reason, ending(last).reason} == {FinishReason.LENGTH}


async def test_what_was_said_before_the_numbers_overflowed_stays(engine: LocalEngine, tmp_path: Path) -> None:
    """The model itself writes the word that it cannot read."""
    folder = save_checkpoint("llama", tmp_path / "llama")
    async with InferenceQueue(engine, slots=4) as queue:
        whole = text_of(await read(queue.submit(ask(folder, "Hi", alias="whole"))))
        character = next(
            one for one in whole[5:] if one.isascii() and one.isprintable() and one not in whole[:5] + "HI"
        )
        weights = load_file(folder / "model.safetensors")
        weights["model.embed_tokens.weight"][tiny.id_of(tiny.byte_level(), character)] = math.nan
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        events = await read(queue.submit(ask(folder, "Hi", alias="broken")))
    assert sentence_of(events)
    assert text_of(events) == whole[: whole.index(character) + 1]
    assert ending(events).usage.completion_tokens > 5


async def test_a_word_that_can_be_written_is_not_taken_for_nonsense_because_others_cannot(
    engine: LocalEngine, tmp_path: Path
) -> None:
    """Models mask words that they never write with minus infinity."""
    folder = save_checkpoint("llama", tmp_path / "llama")
    async with InferenceQueue(engine, slots=4) as queue:
        asked = ask(folder, "Hi")
        await read(queue.submit(asked))
        (batch,) = engine._batches._all.values()
        model: Any = batch._loaded.model
        head = model.lm_head.forward

        def masked(states: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = head(states)
            logits[..., 300:] = -math.inf
            return logits

        model.lm_head.forward = masked
        assert ending(await read(queue.submit(asked))).reason is FinishReason.LENGTH


async def test_a_long_prompt_that_overflows_harms_nobody_while_it_is_read(
    engine: LocalEngine, folder: Path
) -> None:
    async with InferenceQueue(engine, slots=16) as queue:
        talking = [queue.submit(ask(folder, "x" * n)) for n in (1, 9, 33, 60)]
        await until_words(talking[-1])
        bad = queue.submit(ask(folder, f"{BAD}{'word ' * 70}"))  # read in pieces
        events = await asyncio.gather(*map(read, talking))
        assert sentence_of(await read(bad))
    assert [ending(one).reason for one in events] == [FinishReason.LENGTH] * 4


@pytest.mark.parametrize("alias", ["phi", "gemma", "mixtral"])
async def test_every_family_tells_and_keeps_the_others_apart(
    engine: LocalEngine, tmp_path: Path, alias: str
) -> None:
    """Those with windows of 64 and 100 tokens among them, which the texts outgrow."""
    folder = broken(untied(alias, tmp_path / alias))
    async with InferenceQueue(engine, slots=16) as queue:
        before = [queue.submit(ask(folder, "x" * n)) for n in (90, 130)]
        await until_words(before[0])
        bad = queue.submit(ask(folder, f"And {BAD}"))
        beside = [queue.submit(ask(folder, "y" * n)) for n in (5, 110)]
        assert sentence_of(await read(bad))
        others = await asyncio.gather(*map(read, (*before, *beside)))
    assert [ending(events).error for events in others] == [None] * 4


async def test_a_model_that_answers_one_at_a_time_tells_as_well(engine: LocalEngine, tmp_path: Path) -> None:
    folder = save_mamba(tmp_path / "mamba", tie_word_embeddings=False)
    broken(folder, tensor="backbone.embeddings.weight")
    async with InferenceQueue(engine, slots=4) as queue:
        for temperature in (0.0, 0.7, 1e-30):
            bad = await read(queue.submit(ask(folder, f"A {BAD} word", temperature=temperature)))
            assert "computes nonsense in bfloat16" in sentence_of(bad)
            assert text_of(bad) == ""
            good = await read(queue.submit(ask(folder, "Hi", temperature=temperature)))
            assert ending(good).reason is FinishReason.LENGTH
            assert ending(good).usage.completion_tokens == 40


def test_in_nf4_the_operator_is_told_to_leave_it() -> None:
    from bot.inference.local import _nonsense

    spec = ModelSpec(alias="tiny", source="/models/tiny", context_tokens=512, description="a model")
    error: BotError = _nonsense(spec)
    assert "computes nonsense in NF4" in str(error)
    assert 'quantization = "none"' in str(error)
    assert "/models" not in str(error)


def test_a_model_without_an_end_tells_too(folder: Path) -> None:
    from dataclasses import replace

    loaded = replace(loaded_exactly(folder), eos_token_ids=())
    token = tiny.id_of(tiny.byte_level(), BAD)
    with Stepped(loaded) as batch:
        bad, good = batch.add([1, token], 10), batch.add([1, 5], 10)
        for _ in range(3):
            batch.step()
            assert batch.batch._draws[good].valid_tokens is None
        outputs = [
            type(
                "Output",
                (),
                {"request_id": bad, "generated_tokens": [1, 2, 3], "is_finished": lambda _: False},
            )()
        ]
        assert batch.batch._sampler.check(outputs)
        assert batch.batch._draws[bad].valid_tokens == 2


# --- The sampler alone ----------------------------------------------------------------------------------------

ROWS = {
    "NaN": [math.nan, 1.0, 2.0],
    "all NaN": [math.nan] * 3,
    "one infinite": [0.0, math.inf, 1.0],
    "two infinite": [math.inf, math.inf, 1.0],
    "all minus infinite": [-math.inf] * 3,
    "NaN among minus infinite": [-math.inf, math.nan, -math.inf],
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 1.0, "repetition_penalty": 1.3},
        {"top_k": 0},
    ],
    ids=["greedy", "drawn", "penalized", "all of it"],
)
def test_a_row_that_is_no_numbers_is_marked_and_the_others_are_drawn(
    row: list[float], how: dict[str, float]
) -> None:
    scores = torch.tensor([[9.0, 0.0, 0.0], row, [0.0, 0.0, 9.0]])
    draws = [Draw.begin(SamplingParams.model_validate({"seed": 1, "top_k": 1, **how}), [0]) for _ in range(3)]
    ids, marked = draw_and_check(scores, draws, (2,))
    assert marked.tolist() == [False, True, False]
    assert ids[1] == 2
    if how.get("top_k") != 0:
        assert ids.tolist() == [0, 2, 2]


@pytest.mark.parametrize("scale", [1.0, 1e4, 3e38])
@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-20, 1e-4, 0.3])
def test_no_temperature_makes_an_overflow_of_numbers(scale: float, temperature: float) -> None:
    scores = torch.tensor([[0.1, 1.0, -1.0, -math.inf]]) * scale
    one = Draw.begin(SamplingParams(seed=1, temperature=temperature), [])
    if scale > 1 or temperature < 0.1:
        assert draw(scores, [one], ()).tolist() == [1]
    assert not draw_and_check(scores, [one], ())[1].any()


def test_an_end_that_is_not_in_the_vocabulary_ends_nobodys_batch() -> None:
    one = Draw.begin(SamplingParams(seed=1, temperature=0.0, min_new_tokens=2), [])
    assert draw(torch.tensor([[0.0, 1.0, 2.0]]), [one], (2, 700)).tolist() == [1]
    assert draw(torch.full((1, 3), math.nan), [one], (700, 2)).tolist() == [2]
