"""The cache of keys and values that all share: what is read once, what a place is worth, and what happens when it is
full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bot.chat.messages import ChatMessage, Role
from bot.inference.loader import LoadedModel
from bot.inference.sizes import PAGE_TOKENS
from tests.inference.checkpoints import save_checkpoint
from tests.inference.stepping import Stepped, alone, loaded_exactly

CONTEXT_TOKENS = 160  # the cache has six blocks of 32 then


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("cache") / "llama")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return loaded_exactly(folder)


@pytest.fixture(scope="module")
def small(folder: Path) -> LoadedModel:
    return loaded_exactly(folder, context_tokens=CONTEXT_TOKENS)


def ids(count: int, first: int = 5) -> list[int]:
    return [first + n * 7 % 200 for n in range(count)]


def read(steps: list[dict[str, int]], name: str) -> int:
    """How many tokens of a request were read as its prompt."""
    own = [step[name] for step in steps if name in step]
    return sum(own) - len(own) + 1 if own and own[0] != 1 else 1


def test_what_begins_alike_is_read_once_also_after_the_first_has_ended(loaded: LoadedModel) -> None:
    beginning = ids(200)
    first, second = [*beginning, 7, 8, 9], [*beginning, 17, 18, 19, 20]
    with Stepped(loaded, step_tokens=512) as batch:
        batch.add(first, 5)
        assert list(batch.steps()[0].values()) == [203]
        later = batch.add(second, 5)
        (beside,) = batch.step().values()
        assert beside == 204 - 200 // PAGE_TOKENS * PAGE_TOKENS
        batch.steps()
        assert batch.said[later] == alone(loaded, second, 5)


def test_a_conversation_that_goes_on_is_read_from_where_it_was(loaded: LoadedModel) -> None:
    said = (ChatMessage(Role.SYSTEM, "Be brief."), ChatMessage(Role.USER, "Tell me about tea. " * 8))
    with Stepped(loaded, step_tokens=512) as batch:
        before = loaded.encode(said)
        batch.add(before, 40)
        batch.steps()
        # What the model said is in the cache too: here it goes on with its own tokens, as "Continue" does.
        longer = before + batch.said["0"] + ids(20)
        again = batch.add(longer, 5)
        (now,) = batch.step().values()
        kept = (len(before) + 39) // PAGE_TOKENS * PAGE_TOKENS
        assert now == len(longer) - kept
        batch.steps()
        assert batch.said[again] == alone(loaded, longer, 5)


def test_what_was_read_is_kept_when_the_thread_ends_and_begins_anew(loaded: LoadedModel) -> None:
    with Stepped(loaded, step_tokens=512) as batch:
        batch.add(ids(200), 2)
        batch.steps()
        assert batch.manager._create_batch_processor() is batch.processor  # as a new thread does
        batch.add(ids(200), 2)
        assert list(batch.step().values()) == [200 - 6 * PAGE_TOKENS]


def test_who_leaves_frees_the_place_and_the_memory_within_one_step(loaded: LoadedModel) -> None:
    with Stepped(loaded, requests=2, step_tokens=128) as batch:
        empty = batch.free_blocks
        staying, leaving = batch.add(ids(40), 300), batch.add(ids(90, 60), 300)
        for _ in range(30):
            batch.step()
        waiting = batch.add(ids(30, 90), 4)
        assert batch.step().keys() == {staying, leaving}
        used = empty - batch.free_blocks
        batch.cancel(leaving)
        assert batch.step().keys() == {staying, waiting}
        assert empty - batch.free_blocks < used
        batch.cancel(staying)
        batch.steps()
        assert batch.free_blocks == empty
        assert batch.ended == {waiting: None}


def test_when_all_who_have_the_memory_leave_those_who_lost_theirs_go_on(small: LoadedModel) -> None:
    with Stepped(small, step_tokens=128) as batch:
        names = [batch.add(ids(60, n), 80) for n in range(4)]
        while not batch.processor.scheduler.block_new_requests:
            assert batch.step()
        active = set(batch.processor.scheduler.active_requests)
        for name in active:
            batch.cancel(name)
        batch.steps()
        assert batch.ended.keys() == set(names) - active
        assert batch.ended


ASKED = st.tuples(
    st.integers(1, 100),  # tokens of the prompt
    st.integers(1, 60),  # and of the answer: 160 together, which is all that a request may have
    st.integers(0, 3),  # steps before the next one asks
    st.fixed_dictionaries(
        {
            "temperature": st.sampled_from([0.0, 0.8]),
            "seed": st.integers(0, 3),
            "repetition_penalty": st.sampled_from([1.0, 1.3]),
        }
    ),
)


PENALIZED = {"temperature": 0.0, "seed": 1, "repetition_penalty": 1.3}


@settings(max_examples=6, deadline=None)
@given(st.lists(ASKED, min_size=2, max_size=6))
@example([(60, 50, 1, PENALIZED)] * 5)
@example([(n * 9 % 100 + 1, 24, 0, PENALIZED) for n in range(16)])
def test_more_than_the_cache_holds_are_answered_each_as_alone(small: LoadedModel, asked: list[Any]) -> None:
    with Stepped(small) as batch:
        names = []
        for number, (length, tokens, steps, how) in enumerate(asked):
            names.append(batch.add(ids(length, number), tokens, **how))
            for _ in range(steps):
                batch.step()
        batch.steps()
        assert batch.ended == dict.fromkeys(names)
        together = [batch.said[name] for name in names]
        assert batch.processor.cache.num_blocks == CONTEXT_TOKENS // PAGE_TOKENS + 1
    for number, (said, (length, tokens, _, how)) in enumerate(zip(together, asked, strict=True)):
        assert said == alone(small, ids(length, number), tokens, **how)
