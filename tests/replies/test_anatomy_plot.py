"""The picture of a model: a PNG of the right size, for every kind of model and budget."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from bot.inference.anatomy import Anatomy, examine
from bot.inference.catalog import ModelSpec
from bot.replies import anatomy_plot
from bot.replies.anatomy_plot import draw_anatomy, short_bytes, short_count
from tests.inference.checkpoints import CONFIGS, save_checkpoint


@pytest.fixture(scope="module", params=CONFIGS)
def anatomy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Anatomy:
    folder = save_checkpoint(request.param, tmp_path_factory.mktemp("models") / "model")
    spec = ModelSpec(alias="tiny", source=str(folder), context_tokens=256, description="a model")
    return examine(folder, spec)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that are drawn."""
    words: list[str] = []
    write = anatomy_plot._write

    def noted(axes: Any, x: float, y: float, text: str, *rest: Any) -> Any:
        words.append(text)
        return write(axes, x, y, text, *rest)

    monkeypatch.setattr(anatomy_plot, "_write", noted)
    return words


def test_the_picture_is_twice_as_wide_as_discords_preview_and_small_to_send(anatomy: Anatomy) -> None:
    png = draw_anatomy(anatomy, 24 * 10**9)
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 2 * 550
    assert len(png) < 300_000


def test_it_says_the_dimensions_and_every_part_of_the_memory(anatomy: Anatomy, written: list[str]) -> None:
    draw_anatomy(anatomy, 24 * 10**9)
    assert "4 ×" in written
    assert "512 → 256" in written
    for part in anatomy.parts:
        assert f"{part.kind}, {part.storage}" in written
    assert "KV cache, 256 tokens" in written
    assert "24 GB stay free" in written


def test_what_does_not_fit_is_said_with_how_much_is_lacking(anatomy: Anatomy, written: list[str]) -> None:
    draw_anatomy(replace(anatomy, windows=(None,) * 300_000, paging=None), 4 * 10**9)
    assert any(words.endswith(" GB too little") for words in written)
    assert "4.0 GB" in written


def test_drawing_uses_no_global_state_of_matplotlib(anatomy: Anatomy) -> None:
    draw_anatomy(anatomy, 10**9)
    assert "matplotlib.pyplot" not in sys.modules


def test_an_alias_with_dollar_signs_is_no_formula(anatomy: Anatomy) -> None:
    assert draw_anatomy(replace(anatomy, alias="$x", architecture="A$B_c"), 10**9)


@pytest.mark.parametrize(
    ("count", "words"), [(70_272, "70 kB"), (56_623_104, "57 MB"), (4_100_000_000, "4.1 GB"), (0, "0 kB")]
)
def test_sizes_are_short(count: int, words: str) -> None:
    assert short_bytes(count) == words


@pytest.mark.parametrize(("count", "words"), [(134_515_008, "135 million"), (46_702_792_704, "46.7 billion")])
def test_numbers_are_short(count: int, words: str) -> None:
    assert short_count(count) == words


def test_the_longest_words_stay_inside_and_apart(anatomy: Anatomy) -> None:
    big = replace(
        anatomy,
        alias="a-name-of-exactly-32-characters.",
        hidden_size=16_384,
        attention_heads=128,
        key_value_heads=8,
        experts=128,
        experts_per_token=8,
        intermediate_size=53_248,
        windows=(131_072, None) * 63,
        layers=126,
    )
    (axes,) = anatomy_plot._figure(big, 10**9).axes
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert all(box.x0 >= 0 and box.x1 <= 1100 and box.y0 >= 0 and box.y1 <= 800 for box in boxes)
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[n + 1 :])
