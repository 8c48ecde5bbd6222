"""Numbers that overflow in a prompt that is read in pieces: it is told at its end, and nothing of it is left behind."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
from transformers.generation.continuous_batching.continuous_api import OutputRouter

from bot.inference.loader import LoadedModel
from tests.inference import tiny
from tests.inference.stepping import Stepped, alone, loaded_exactly
from tests.inference.test_nonsense import BAD, broken, untied

PIECE = 64


class Watched(Stepped):
    """A batch that looks at the outputs of its steps, as the bot's does."""

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded, step_tokens=PIECE)
        batch = self.batch

        class Router(OutputRouter):  # type: ignore[misc, unused-ignore]
            def deliver_batch(self, outputs: list[Any]) -> None:
                batch._sampler.check(outputs)
                super().deliver_batch(outputs)

        self.manager.output_router = self.processor.output_router = Router()

    def overflowed(self, name: str) -> bool:
        return self.batch._draws[name].valid_tokens is not None


@functools.cache
def model(alias: str, folder: Path) -> LoadedModel:
    return loaded_exactly(broken(untied(alias, folder / alias)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pieces")


def prompt(tokens: int) -> list[int]:
    """One that makes the model compute nonsense from its second token on."""
    return [1, tiny.id_of(tiny.byte_level(), BAD)] + [7] * (tokens - 2)


# phi and gemma have windows of 100 and 64 tokens; Gemma's attention is never PyTorch's.
FAMILIES = ["llama", "phi", "gemma"]


@pytest.mark.parametrize("alias", FAMILIES)
def test_who_leaves_while_a_prompt_that_overflows_is_read_leaves_nothing_to_the_next(
    folder: Path, alias: str
) -> None:
    loaded = model(alias, folder)
    asked = [[1] + [9 + number] * length for number, length in enumerate((5, 20, 37, 50))]
    with Watched(loaded) as batch:
        early = batch.add([1, 40, 40], 200)  # its token is one of each step: the piece fills no whole pages
        batch.step()
        bad = batch.add(prompt(150), 10)
        batch.step()
        assert not batch.said.get(bad)  # not drawn for yet
        batch.cancel(bad)
        batch.cancel(early)
        names = [batch.add(ids, 20) for ids in asked]
        batch.steps()
        assert not any(map(batch.overflowed, names))
        said = [batch.said[name] for name in names]
    assert said == [alone(loaded, ids, 20) for ids in asked]


@pytest.mark.parametrize("alias", FAMILIES)
@pytest.mark.parametrize("beside", [50, 94])
def test_a_prompt_read_in_pieces_is_found_out_and_others_go_on_while_they_outgrow_a_window(
    folder: Path, alias: str, beside: int
) -> None:
    loaded = model(alias, folder)
    asked = [[1] + [9] * beside, [1] + [11] * 20]
    with Watched(loaded) as batch:
        names = [batch.add(ids, 20) for ids in asked]
        for _ in range(4):
            batch.step()
        bad = batch.add(prompt(250), 10)
        batch.steps()
        assert batch.overflowed(bad)
        assert not any(map(batch.overflowed, names))
        said = [batch.said[name] for name in names]
    assert said == [alone(loaded, ids, 20) for ids in asked]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_page_is_clean_whatever_stood_in_it(folder: Path, value: float) -> None:
    """Also what nobody's answer tells of: keys that no query looks at."""
    loaded = model("llama", folder)
    asked = [[1] + [9 + number] * length for number, length in enumerate((5, 37, 50))]
    with Watched(loaded) as batch:
        batch.processor.cache.cache_tensor.view(loaded.model.dtype).fill_(value)
        names = [batch.add(ids, 20) for ids in asked]
        batch.steps()
        said = [batch.said[name] for name in names]
    assert said == [alone(loaded, ids, 20) for ids in asked]
