"""What a checkpoint says of sampling is used where the catalogue says nothing, and nothing in it breaks an answer."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from bot.archive import Archive, Origin
from bot.bench.work import Work
from bot.chat.messages import ChatMessage, Role
from bot.inference.catalog import ModelSpec, SamplingParams, load_catalog
from bot.inference.engine import FinishReason, GenerationRequest
from bot.inference.generation import Generation
from bot.inference.generation_config import read_sampling, read_token_ids
from bot.inference.loader import ModelLoader
from bot.inference.local import LocalEngine
from bot.inference.queue import InferenceQueue
from bot.replies.details import details_card
from bot.storage.database import open_database
from bot.storage.replies import Replies
from tests.inference import tiny
from tests.inference.checkpoints import called, save_checkpoint, save_mamba
from tests.inference.reading import ending, read, text_of


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="module")
def mamba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that answers one request at a time, by transformers' `generate`."""
    return save_mamba(tmp_path_factory.mktemp("models") / "mamba")


@pytest.fixture(params=["llama", "mamba"])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy to change, of a model for the batch and of one that answers alone."""
    return Path(shutil.copytree(request.getfixturevalue(request.param), tmp_path / request.param))


def says(folder: Path, **values: Any) -> None:
    """Let the checkpoint say this of generation."""
    file = folder / "generation_config.json"
    told = {} if not file.exists() else json.loads(file.read_text())
    file.write_text(json.dumps(told | values))


def ask(folder: Path, alias: str = "tiny", **sampling: Any) -> GenerationRequest:
    spec = ModelSpec(
        alias=alias,
        source=str(called(alias, folder)),
        context_tokens=256,
        quantization="none",
        description="a model",
        sampling=SamplingParams.model_validate(sampling),
    )
    params = spec.sampling.capped(12).seeded()  # as a command makes them
    params = params.model_copy(update={"min_new_tokens": 12})
    return GenerationRequest(spec, (ChatMessage(Role.USER, "Hi"),), params)


async def used(engine: LocalEngine, asked: GenerationRequest) -> tuple[SamplingParams, str]:
    """The sampling that an answer was drawn with, and the answer, which is whole."""
    async with InferenceQueue(engine, slots=4) as queue:
        generation: Generation = queue.submit(asked)
        events = await read(generation)
        assert (ending(events).error, ending(events).reason) == (None, FinishReason.LENGTH)
        assert ending(events).usage.completion_tokens == 12
        return generation.request.params, text_of(events)


def shown(params: SamplingParams) -> tuple[float, float, int, float]:
    return params.temperature, params.top_p, params.top_k, params.repetition_penalty


async def test_the_catalogue_wins_then_the_checkpoint_then_the_usual(engine: LocalEngine, own: Path) -> None:
    nothing, _ = await used(engine, ask(own, "nothing"))
    assert shown(nothing) == (0.7, 0.95, 50, 1.0)
    says(own, do_sample=True, temperature=0.31, top_k=7, repetition_penalty=1.25)
    theirs, _ = await used(engine, ask(own, "theirs"))
    assert shown(theirs) == (0.31, 0.95, 7, 1.25)
    ours, _ = await used(engine, ask(own, "ours", temperature=0.7, top_k=50))  # the usual, but written down
    assert shown(ours) == (0.7, 0.95, 50, 1.25)


async def test_a_checkpoint_that_does_not_sample_takes_the_likeliest_token(
    engine: LocalEngine, own: Path
) -> None:
    says(own, do_sample=False)
    first, again = [await used(engine, ask(own, seed=seed)) for seed in (1, 2)]
    assert first[0].temperature == 0.0
    assert first[1] == again[1]
    hot, _ = await used(engine, ask(own, "hot", temperature=1.5))
    assert hot.temperature == 1.5


async def test_the_same_seed_is_another_answer_where_the_checkpoint_samples_otherwise(
    engine: LocalEngine, own: Path
) -> None:
    _, before = await used(engine, ask(own, "before", seed=3))
    says(own, temperature=4.5, top_k=0, top_p=1.0, do_sample=True)
    _, after = await used(engine, ask(own, "after", seed=3))
    assert before != after


HOSTILE: dict[str, dict[str, Any]] = {
    "beams": {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0},
    "beam groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "strings to stop at": {"stop_strings": ["a", "e", "\n"]},
    "several answers": {"num_return_sequences": 3, "do_sample": True},
    "forced tokens": {"forced_eos_token_id": 2, "forced_bos_token_id": 1},
    "suppressed tokens": {"suppress_tokens": list(range(300)), "begin_suppress_tokens": [5]},
    "bad words": {"bad_words_ids": [[5]], "sequence_bias": [[[5], -10.0]]},
    "contrastive search": {"penalty_alpha": 0.6, "top_k": 4},
    "DoLa": {"dola_layers": "high"},
    "an assistant": {"is_assistant": True, "num_assistant_tokens": 5, "prompt_lookup_num_tokens": 3},
    "lengths": {"max_length": 3, "min_length": 200, "max_new_tokens": 1, "min_new_tokens": 100},
    "a time": {"max_time": 0.0},
    "a cache": {"cache_implementation": "static", "use_cache": False},
    "dictionaries": {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
    "n-grams": {"no_repeat_ngram_size": 1, "encoder_no_repeat_ngram_size": 2},
    "guidance": {"guidance_scale": 3.0},
    "a watermark": {"watermarking_config": {"greenlist_ratio": 0.25}},
    "other samplers": {"min_p": 0.9, "typical_p": 0.1, "epsilon_cutoff": 0.1, "eta_cutoff": 0.1},
    "no numbers": {"temperature": "hot", "top_p": None, "top_k": [5], "do_sample": "yes"},
    "out of range": {"temperature": -1, "top_p": 0, "top_k": -1, "repetition_penalty": 0.5},
    "tiny": {"temperature": 1e-30, "do_sample": True},
    "ids that are none": {"eos_token_id": "end", "pad_token_id": None, "bos_token_id": [True]},
    "what nobody knows": {"tomorrow": {"a": 1}, "_commit": None},
}


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
async def test_nothing_that_a_checkpoint_says_of_generation_breaks_an_answer(
    engine: LocalEngine, mamba: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(mamba, tmp_path / "mamba"))
    says(folder, **values)
    await used(engine, ask(folder))


async def test_nor_does_all_of_it_break_an_answer_of_a_batch(
    engine: LocalEngine, llama: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "llama"))
    for values in HOSTILE.values():
        says(folder, **values)
    await used(engine, ask(folder))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', "\xff" * 9, "[" * 100_000])
async def test_a_file_that_cannot_be_read_is_one_warning(
    engine: LocalEngine, llama: Path, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "llama"))
    (folder / "generation_config.json").write_bytes(content.encode("latin-1"))
    params, _ = await used(engine, ask(folder))
    assert shown(params) == (0.7, 0.95, 50, 1.0)
    warned = [one for one in caplog.records if "generation_config.json" in one.getMessage()]
    assert len([one for one in warned if one.name.startswith("bot.")]) == 1


async def test_an_old_checkpoint_that_says_it_in_its_config_answers(engine: LocalEngine, own: Path) -> None:
    config = json.loads((own / "config.json").read_text())
    old = {"num_beams": 3, "temperature": 0.2, "do_sample": True, "max_length": 20, "stop_strings": ["a"]}
    (own / "config.json").write_text(json.dumps(config | old))
    (own / "generation_config.json").unlink(missing_ok=True)
    await used(engine, ask(own))


VALUES: dict[str, tuple[dict[str, Any], dict[str, float], int]] = {
    "all": (
        {"temperature": 0.6, "top_p": 0.9, "top_k": 40},
        {"temperature": 0.6, "top_p": 0.9, "top_k": 40},
        0,
    ),
    "whole numbers": ({"temperature": 1, "top_p": 1}, {"temperature": 1, "top_p": 1}, 0),
    "no limit": ({"top_k": 0}, {"top_k": 0}, 0),
    "greedy": ({"do_sample": False, "temperature": 0.9}, {"temperature": 0.0}, 0),
    "nothing": ({"eos_token_id": 2}, {}, 0),
    "null": ({"temperature": None, "top_k": 5}, {"top_k": 5}, 1),
    "words": ({"temperature": "0.5", "top_p": "a"}, {}, 1),
    "truths": ({"temperature": True, "top_k": False}, {}, 1),
    "too much": ({"temperature": 99, "top_p": 1.5, "repetition_penalty": 7.0}, {}, 1),
    "too little": ({"temperature": -0.1, "top_p": 0.0, "top_k": -1, "repetition_penalty": 0.2}, {}, 1),
    "no number": ({"temperature": float("nan"), "top_p": float("inf")}, {}, 1),
    "a part of a token": ({"top_k": 2.5}, {}, 1),
    "a list": ({"temperature": [0.5], "top_p": {}}, {}, 1),
    "lengths": ({"max_new_tokens": 7, "min_new_tokens": 3, "max_length": 9}, {}, 0),
    "do_sample of null": ({"do_sample": None, "top_k": 3}, {"top_k": 3}, 1),
}


@pytest.mark.parametrize(("told", "found", "warnings"), VALUES.values(), ids=VALUES)
def test_values_that_cannot_be_meant_are_left_out_with_one_warning(
    told: dict[str, Any],
    found: dict[str, float],
    warnings: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    says(tmp_path, **told)
    with caplog.at_level(logging.WARNING):
        assert read_sampling(tmp_path, "tiny") == found
    assert len(caplog.records) == warnings
    SamplingParams().with_defaults(found)


def test_token_ids_come_from_the_file_or_else_from_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": 5, "text_config": {"bos_token_id": 1}}')
    assert read_token_ids(tmp_path) == {"eos_token_id": 5, "bos_token_id": 1}
    says(tmp_path, eos_token_id=[7, 8], pad_token_id="none")
    assert read_token_ids(tmp_path) == {"eos_token_id": [7, 8]}
    says(tmp_path, eos_token_id=2, _from_model_config=True)
    assert read_token_ids(tmp_path) == {"eos_token_id": 2, "_from_model_config": True}


def test_a_quantized_copy_answers_by_what_the_checkpoint_says(llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "llama"))
    says(folder, temperature=0.4, do_sample=True, num_beams=3)
    spec = ModelSpec(alias="tiny", source=str(folder), context_tokens=256, description="a model")
    first, second = [ModelLoader(tmp_path / "cache").load(spec, lambda *_: None) for _ in range(2)]
    assert len(list((tmp_path / "cache" / "quantized").iterdir())) == 1
    assert first.sampling == second.sampling == {"temperature": 0.4}
    assert first.eos_token_ids == second.eos_token_ids


async def test_what_was_really_used_is_kept_and_shown_by_details(
    engine: LocalEngine, llama: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "llama"))
    says(folder, temperature=0.31, top_k=7, do_sample=True)
    async with open_database(tmp_path / "punchline.sqlite3") as database:
        archive = Archive(Replies(database), kept_days=30)
        async with InferenceQueue(engine, slots=4) as queue:
            generation = queue.submit(ask(folder))
            keeping = archive.keeping(generation, Origin(1, 2))
            await keeping.begun([10])  # before the model is in memory
            events = await read(generation)
            await keeping.over(ending(events), text_of(events), end_shown=True)
        kept = await archive.find(generation.id)
    sampling = kept.request["sampling"]
    assert (sampling["temperature"], sampling["top_k"], sampling["top_p"]) == (0.31, 7, 0.95)
    assert sampling["seed"] == generation.request.params.seed
    assert kept.request["messages"] == [{"role": "user", "content": "Hi", "author_id": 1}]
    card = details_card(kept.id, kept.alias, "length", kept.request, kept.numbers)
    assert "temperature 0.31 · top_p 0.95 · top_k 7" in str(card.to_dict())


def test_the_shipped_values_and_the_operators_stay(tmp_path: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text("[llama.sampling]\ntop_k = 11\n")
    llama = load_catalog(own)["llama"].sampling.capped(100).seeded()
    used = llama.with_defaults({"temperature": 0.1, "top_p": 0.1, "top_k": 1, "repetition_penalty": 1.3})
    assert shown(used) == (0.6, 0.9, 11, 1.3)
    assert (used.max_new_tokens, used.seed) == (llama.max_new_tokens, llama.seed)


def test_a_measurement_draws_as_the_other_systems_are_told() -> None:
    work = Work.of(SamplingParams(), 5)
    assert shown(work.sampling.with_defaults({"temperature": 0.1, "top_k": 1})) == (0.7, 0.95, 50, 1.0)


# --- A base model's prompt ------------------------------------------------------------------------------------

POST_PROCESSORS: dict[str, tuple[str, list[str], list[str]]] = {
    "nothing": ("$A", [], []),
    "a beginning": ("<s> $A", ["<s>"], []),
    "an end": ("$A </s>", [], ["</s>"]),
    "both": ("<s> $A </s>", ["<s>"], ["</s>"]),
    "two ends": ("<s> $A </s> </s>", ["<s>"], ["</s>", "</s>"]),
    "an end of another name": ("<s> $A <|im_end|>", ["<s>"], ["<|im_end|>"]),
    "two beginnings": ("<unk> <s> $A </s>", ["<unk>", "<s>"], ["</s>"]),
}


@pytest.mark.parametrize(("single", "before", "after"), POST_PROCESSORS.values(), ids=POST_PROCESSORS)
def test_the_prompt_of_a_base_model_does_not_end_with_an_end(
    llama: Path, tmp_path: Path, single: str, before: list[str], after: list[str]
) -> None:
    folder = Path(shutil.copytree(llama, tmp_path / "llama"))
    tokenizer = tiny.byte_level()
    names = {*before, *after}
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(name, tiny.id_of(tokenizer, name)) for name in names]
    )
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)
    spec = ModelSpec(
        alias="tiny", source=str(folder), context_tokens=256, quantization="none", description="a model"
    )
    loaded = ModelLoader(folder / "no cache").load(spec, lambda *_: None)
    around = loaded.tokenizer("x")["input_ids"]
    assert list(around[-len(after) :] if after else []) == [tiny.id_of(tokenizer, one) for one in after]
    question = (ChatMessage(Role.USER, "Why?"),)
    ids = loaded.encode(question)
    assert ids[: len(before)] == [tiny.id_of(tokenizer, name) for name in before]
    assert loaded.tokenizer.decode(ids[len(before) :]) == "Question: Why?\n\nAnswer:"
    gone_on = loaded.encode((*question, ChatMessage(Role.ASSISTANT, " Because")))
    assert gone_on[: len(ids)] == ids
    assert loaded.tokenizer.decode(gone_on[len(ids) :]) == " Because"
