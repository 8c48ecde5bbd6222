"""Tokens are drawn as `generate` draws them, for each request by its own sampling and seed."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from bot.inference.catalog import SamplingParams
from bot.inference.sampler import Draw, draw
from tests.inference.checkpoints import DEVICE

VOCABULARY = 40


def params(**values: float) -> SamplingParams:
    return SamplingParams.model_validate({"seed": 1, **values})


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)).to(DEVICE) * 3


def shares_of_generate(scores: torch.Tensor, prompt: list[int], how: SamplingParams) -> torch.Tensor:
    """The chance of each token by transformers' own processors, in the order of `generate`."""
    steps = LogitsProcessorList()
    if how.repetition_penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(how.repetition_penalty))
    steps.append(TemperatureLogitsWarper(how.temperature))
    if how.top_k:
        steps.append(TopKLogitsWarper(how.top_k))
    if how.top_p < 1:
        steps.append(TopPLogitsWarper(how.top_p))
    ids: Any = torch.tensor([prompt], device=scores.device)
    return steps(ids, scores).softmax(dim=-1)[0]


@pytest.mark.parametrize(
    "how",
    [
        params(temperature=0.7, top_p=0.9, top_k=5),
        params(temperature=1.5, top_p=0.6, top_k=0, repetition_penalty=1.3),
        params(temperature=1.0, top_p=1.0, top_k=12, repetition_penalty=2.0),
    ],
)
def test_each_token_is_as_likely_as_in_generate(how: SamplingParams) -> None:
    prompt = [1, 2, 3, 3, 20]
    expected = shares_of_generate(logits(1).clone(), prompt, how)
    one = Draw.begin(how, prompt)
    count = 4000
    drawn = torch.cat([draw(logits(1).clone(), [one], ()) for _ in range(count)])
    found = torch.bincount(drawn, minlength=VOCABULARY) / count
    assert set(drawn.tolist()) <= set(expected.nonzero().flatten().tolist())
    assert (found - expected).abs().max() < 0.035


class Fixed(random.Random):
    """Draws one number, again and again."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self._number = number

    def random(self) -> float:
        return self._number


def possible(scores: torch.Tensor, how: SamplingParams) -> set[int]:
    """The tokens that `generate` could draw."""
    return set(shares_of_generate(scores.clone(), [1], how).nonzero().flatten().tolist())


@pytest.mark.parametrize("number", [1 - 2**-53, 1 - 2**-25, 1 - 2**-24, 0.0])
@pytest.mark.parametrize(
    "how",
    [
        params(temperature=1.0, top_p=1.0, top_k=3),
        params(temperature=1.0, top_p=0.5, top_k=20),
        params(temperature=0.2, top_p=0.9, top_k=0),
    ],
)
def test_a_number_that_float32_rounds_to_one_draws_a_token_that_is_possible(
    number: float, how: SamplingParams
) -> None:
    # Beside somebody whose tokens are not limited, so that the row is longer than this one's tokens.
    scores = logits(2)
    draws = [Draw.begin(params(temperature=1.0, top_k=0), []), Draw.begin(how, [])]
    draws[1].chance = Fixed(number)
    assert draw(scores.clone(), draws, ())[1].item() in possible(scores[1:], how)


@settings(max_examples=300, deadline=None)
@given(
    row=st.lists(st.floats(-60, 60, width=32) | st.just(float("-inf")), min_size=2, max_size=24),
    number=st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 1 - 2**-53, 1 - 2**-24]),
    temperature=st.floats(0.05, 5),
    top_p=st.floats(0.01, 1),
    top_k=st.integers(0, 30),
)
def test_the_token_drawn_is_always_one_that_is_possible(
    row: list[float], number: float, temperature: float, top_p: float, top_k: int
) -> None:
    scores = torch.tensor([[0.0, *row]], device=DEVICE)
    beside = torch.zeros_like(scores)
    how = params(temperature=temperature, top_p=top_p, top_k=top_k)
    one = Draw.begin(how, [])
    one.chance = Fixed(number)
    token = int(
        draw(torch.cat([scores, beside]), [one, Draw.begin(params(temperature=1.0, top_k=0), [])], ())[0]
    )
    ordered = scores[0].sort(descending=True)
    shares = (ordered.values / temperature).softmax(dim=-1)
    place = ordered.indices.tolist().index(token)
    assert shares[place] > 0 or place == 0
    assert not top_k or scores[0, token] >= ordered.values[min(top_k, len(shares)) - 1]
    # Nothing is drawn that is behind the tokens that make up `top_p`, whatever the order of equal ones.
    likelier = (ordered.values > scores[0, token]).nonzero().flatten().tolist()
    kept = (ordered.values[:top_k] if top_k else ordered.values) / temperature
    assert kept.softmax(dim=-1)[: len(likelier)].sum() <= top_p + 1e-5 or not likelier


def test_without_a_temperature_the_likeliest_is_taken_beside_others_that_are_drawn() -> None:
    scores = logits(3)
    likeliest = scores.argmax(dim=-1)
    draws = [Draw.begin(params(temperature=temperature), []) for temperature in (0.0, 1.0, 0.0)]
    tokens = draw(scores.clone(), draws, ())
    assert tokens[0] == likeliest[0]
    assert tokens[2] == likeliest[2]


@settings(max_examples=200, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 2**32), min_size=1, max_size=6),
    place=st.integers(0, 5),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
)
def test_a_seed_draws_the_same_in_whatever_company(seeds: list[int], place: int, temperature: float) -> None:
    place %= len(seeds)

    def begin(seed: int) -> Draw:
        return Draw.begin(SamplingParams(seed=seed, temperature=temperature, repetition_penalty=1.2), [1, 2])

    together, alone = [begin(seed) for seed in seeds], begin(seeds[place])
    for step in range(4):
        scores = logits(len(seeds), step)
        in_company = draw(scores.clone(), together, ())
        by_itself = draw(scores[place : place + 1].clone(), [alone], ())
        assert in_company[place] == by_itself[0]
        for one, token in zip(together, in_company.tolist(), strict=True):
            one.follow([token], one.length + 1)
        alone.follow(by_itself.tolist(), alone.length + 1)


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {"top_k": 20}, {"top_k": 60}])
@pytest.mark.parametrize("others_top_k", [50, 200, 0])
def test_who_has_equally_likely_tokens_is_told_the_same_in_whatever_company(
    how: dict[str, float], others_top_k: int
) -> None:
    """In bfloat16 many are: a logit of 20 has steps of 0.125."""
    rows = torch.randn(60, 5_000, generator=torch.Generator().manual_seed(0)) * 3
    other = params(temperature=1.0, top_k=others_top_k)
    for seed, row in enumerate(rows.bfloat16().float().to(DEVICE)):
        mine = params(temperature=1.0, top_p=1.0, seed=seed).model_copy(update=how)
        alone = draw(row[None].clone(), [Draw.begin(mine, [])], ())
        together = draw(row.repeat(2, 1), [Draw.begin(mine, []), Draw.begin(other, [])], ())
        assert alone[0] == together[0]


def test_an_answer_that_is_too_short_does_not_end() -> None:
    scores = torch.full((1, VOCABULARY), -50.0, device=DEVICE)
    scores[0, 7], scores[0, 8] = 50.0, 0.0
    one = Draw.begin(params(temperature=1.0, min_new_tokens=2), [1])
    assert draw(scores.clone(), [one], (7,)).tolist() == [8]
    one.follow([8], 2)
    assert draw(scores.clone(), [one], (7,)).tolist() == [8]
    one.follow([8, 8], 3)
    assert draw(scores.clone(), [one], (7,)).tolist() == [7]


def test_what_was_said_is_penalized_from_the_next_token_on() -> None:
    scores = torch.zeros(1, VOCABULARY, device=DEVICE)
    scores[0, 3], scores[0, 4] = 2.0, 1.9
    one = Draw.begin(params(temperature=0.0, repetition_penalty=1.5), [1])
    assert draw(scores.clone(), [one], ()).tolist() == [3]
    one.follow([3], 2)
    assert draw(scores.clone(), [one], ()).tolist() == [4]
