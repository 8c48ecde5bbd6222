"""A step draws from what is on the device already: nothing is read back, and no penalty is built anew."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.inference import sampler
from bot.inference.catalog import SamplingParams
from bot.inference.drawing import DEFAULTS, Number, SeenIds, Step, draw_rows
from bot.inference.sampler import Draw, draw
from tests.inference.checkpoints import save_checkpoint
from tests.inference.stepping import Stepped, loaded_exactly

VOCABULARY = 40
CPU = torch.device("cpu")


def penalized_anew(scores: torch.Tensor, seen: list[set[int]], penalties: list[float]) -> torch.Tensor:
    """Row by row, id by id."""
    scores = scores.clone()
    for row, (ids, penalty) in enumerate(zip(seen, penalties, strict=True)):
        factor = torch.tensor(penalty, dtype=torch.float32)
        for one in ids:
            was = scores[row, one]
            scores[row, one] = was * factor if was < 0 else was / factor
    return scores


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(
        st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=5
    ),
    penalties=st.lists(st.sampled_from([1.0, 1.1, 1.7, 1.3]), min_size=5, max_size=5),
    seed=st.integers(0, 1000),
    company=st.lists(st.integers(1, 31), min_size=6, max_size=6),
)
def test_what_was_seen_is_penalized_as_if_it_were_looked_up_anew_whoever_comes_and_goes(
    prompts: list[list[int]], penalties: list[float], seed: int, company: list[int]
) -> None:
    """`company` says who is in each step: a request may be left out of one, as when the cache is full."""
    drawn = random.Random(seed)
    held = SeenIds(len(prompts), 24)
    texts = [list(prompt) for prompt in prompts]
    draws = [
        Draw.begin(SamplingParams(seed=1, temperature=0.0, repetition_penalty=penalty), prompt)
        for prompt, penalty in zip(prompts, penalties, strict=False)
    ]
    for step_number, members in enumerate(company):
        rows = {str(n): draws[n] for n in range(len(prompts)) if members >> n & 1}
        if not rows:
            continue
        for name, one in rows.items():
            text = texts[int(name)]
            one.follow(text[one.prompt_length :], len(text))
        numbers, step = sampler._prepared(rows, held, VOCABULARY, CPU)
        scores = torch.randn(
            len(rows), VOCABULARY, generator=torch.Generator().manual_seed(seed + step_number)
        )
        expected = penalized_anew(
            scores,
            [set(texts[int(name)]) for name in rows],
            [one.params.repetition_penalty for one in rows.values()],
        )
        tokens, _ = draw_rows(scores, numbers, step, torch.tensor([VOCABULARY - 1]), held)
        assert torch.equal(scores, expected)
        assert tokens.tolist() == expected.argmax(dim=-1).tolist()
        for name, token in zip(rows, tokens.tolist(), strict=True):
            if drawn.random() < 0.9:  # else the step was lost, and it is read again
                texts[int(name)].append(token)


def test_an_id_that_the_head_does_not_have_is_not_penalized() -> None:
    one = Draw.begin(SamplingParams(temperature=0.0, repetition_penalty=2.0), [3, VOCABULARY + 5])
    scores = torch.zeros(1, VOCABULARY)
    scores[0, 3], scores[0, 4] = 2.0, 1.5
    assert draw(scores, [one], ()).tolist() == [4]


def test_a_step_reads_nothing_back_and_its_shapes_are_known_before() -> None:
    """On a device without data whatever looks at a value fails: this is what a CUDA graph asks for."""
    meta = torch.device("meta")
    held = SeenIds(4, 100)
    table = torch.tensor([[DEFAULTS.get(number, 0.0)] * 4 for number in Number]).to(meta)
    held.slot_of("0", [1, 2, 3], 3, meta)
    for step in (Step(50, 100, True), Step(0, 100, True), Step(50, 0, False), Step(0, 0, False)):
        tokens, broken = draw_rows(
            torch.zeros(4, 512, device=meta), table, step, torch.tensor([2, 7]).to(meta), held
        )
        assert tokens.shape == broken.shape == (4,)


def test_a_step_that_is_written_down_in_ram_penalizes_on_the_device() -> None:
    """As on a GPU (`manager.Inputs.staging`), which takes no index into a table in RAM."""
    meta, ids = torch.device("meta"), [1, 2, 3]
    one = Draw.begin(SamplingParams(temperature=0.0, repetition_penalty=1.3), ids)
    drawing: Any = sampler.sampler_of(
        {"0": one}, (2,), requests=4, context_tokens=64, vocabulary=VOCABULARY, device=meta
    )
    state = SimpleNamespace(request_id="0", initial_tokens=ids, generated_tokens=[])
    written = torch.zeros(len(Number), 4, dtype=torch.int32)
    drawing.prepare_tensor_args([SimpleNamespace(has_new_token=True, state=state)], written)
    drawing(None, torch.zeros(4, VOCABULARY, device=meta), written.to(meta))
    assert drawing._seen._table.device == drawing._tokens.device == meta


def test_a_step_that_fails_leaves_its_random_number_to_the_next() -> None:
    one, twin = (Draw.begin(SamplingParams(seed=5), [1, 2]) for _ in range(2))
    assert one.next_number() == one.next_number() == twin.chance.random()
    one.follow([9], 3)
    assert one.next_number() == twin.chance.random()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("drawing") / "llama")


def test_the_ids_of_a_request_are_copied_once_and_not_in_each_step(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"temperature": 1.0, "repetition_penalty": 1.3}
    with Stepped(loaded_exactly(folder), step_tokens=256) as batch:
        for n in range(3):
            batch.add([1, *range(10 + n, 60 + n)], 12, seed=n, **how)
        batch.step()
        copied: list[int] = []
        make = torch.tensor

        def counted(values: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            made = make(values, *args, **kwargs)
            copied.append(made.numel())
            return made

        for _ in range(4):
            with monkeypatch.context() as patched:
                patched.setattr(torch, "tensor", counted)
                held = _seen(batch)
                device = batch.manager.model.device
                sampler._prepared(dict(batch.batch._draws), held, VOCABULARY, device)
        assert copied == [len(Number) * 3] * 4


def _seen(batch: Stepped) -> SeenIds:
    held: SeenIds = batch.batch._sampler._seen  # type: ignore[attr-defined]
    # Each call stands for a step whose tokens have come.
    for name, one in batch.batch._draws.items():
        one.follow([5], one.length + 1)
        slot = held._slots[name]
        held._known[slot] = (one.length, held._known[slot][1])
    return held


def test_a_penalized_answer_is_the_same_alone_and_beside_others_who_come_and_go(folder: Path) -> None:
    loaded = loaded_exactly(folder)
    how: dict[str, Any] = {"temperature": 1.0, "repetition_penalty": 1.4, "seed": 3}
    ids = [1, *range(20, 50)]
    with Stepped(loaded) as alone:
        name = alone.add(ids, 24, **how)
        alone.steps()
        expected = alone.said[name]
    with Stepped(loaded) as batch:
        batch.add([1, 7, 8], 5, **how)
        name = batch.add(ids, 24, **how)
        for n in range(8):
            batch.step()
            batch.add([1, 60 + n], 3 + n, **{**how, "seed": n})
        batch.steps()
        assert batch.said[name] == expected
