"""The picture of a model: its layers with their dimensions, and its memory by part.

Drawn with matplotlib's Agg canvas directly: pyplot keeps figures in a global and wants the main thread. Twice
as large as Discord's preview (550 pixels wide), with letters that can be read there.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot.inference.anatomy import Anatomy
from bot.inference.memory import Footprint, gigabytes
from bot.inference.parts import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_SIZE_INCHES = (11.0, 8.0)
_DPI = 100  # 1100 by 800 pixels
_BACKGROUND = "#2b2d31"  # Discord's own, in its dark theme
_BOX, _FRAME = "#383a40", "#80848e"
_TEXT, _SMALL, _ALARM = "#f2f3f5", "#b5bac1", "#ff7b72"
_COLOURS = {
    Kind.EMBEDDING: "#5ba4e5",
    Kind.NORM: "#949ba4",
    Kind.ATTENTION: "#f0a35e",
    Kind.ROUTER: "#d6c95a",
    Kind.EXPERTS: "#5fbf8f",
    Kind.MLP: "#5fbf8f",
    Kind.OTHER: "#c4c9ce",
    Kind.HEAD: "#9a8cf0",
}
_CACHE_COLOUR, _WORKING_COLOUR, _FREE_COLOUR = "#e0678f", "#a9746e", "#404249"


@dataclass(frozen=True, slots=True)
class _Share:
    """One piece of the bar of memory."""

    label: str
    size_bytes: int
    colour: str


def draw_anatomy(anatomy: Anatomy, budget_bytes: int) -> bytes:
    """A PNG. Takes about half a second: call it off the event loop.

    Args:
        anatomy: what is drawn.
        budget_bytes: what the model and all others may take together.
    """
    png = io.BytesIO()
    _figure(anatomy, budget_bytes).savefig(png, format="png", dpi=_DPI)
    return png.getvalue()


def _figure(anatomy: Anatomy, budget_bytes: int) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, 1100)
    axes.set_ylim(800, 0)  # pixels, from the top left
    axes.axis("off")
    _title(axes, anatomy)
    _layers(axes, anatomy)
    _memory(axes, anatomy, budget_bytes)
    return figure


def _write(
    axes: Axes, x: float, y: float, text: str, size: float = 15, colour: str = _TEXT, where: str = "left"
) -> Text:
    weight = "bold" if size >= 16 else "normal"
    return axes.text(
        x, y, text, fontsize=size, color=colour, ha=where, va="center", fontweight=weight, parse_math=False
    )


def _kept_apart(left: Text, right: Text) -> None:
    """Make two texts on one line smaller until they do not meet."""
    while right.get_window_extent().x0 - left.get_window_extent().x1 < 16 and float(left.get_fontsize()) > 8:
        for text in (left, right):
            text.set_fontsize(0.95 * float(text.get_fontsize()))


def _box(
    axes: Axes,
    left: float,
    top: float,
    width: float,
    height: float,
    fill: str,
    edge: str | None = None,
) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (left + 6, top + 6),
            width - 12,
            height - 12,
            boxstyle="round,pad=6,rounding_size=8",
            facecolor=fill,
            edgecolor=edge or fill,
            linewidth=1.5,
        )
    )


def _title(axes: Axes, anatomy: Anatomy) -> None:
    name = _write(axes, 30, 38, anatomy.alias, 24)
    said = f"{anatomy.architecture} · {short_count(anatomy.parameters)} parameters · context {anatomy.context_tokens:,}"
    _kept_apart(name, _write(axes, 1070, 40, said, 15, _SMALL, "right"))


def _layers(axes: Axes, anatomy: Anatomy) -> None:
    """The way of a token, top to bottom; the layer that is repeated is drawn once, in a frame."""
    vocabulary, hidden = anatomy.vocabulary, anatomy.hidden_size
    left, width = 150.0, 800.0
    rows: list[tuple[Kind, str, str]] = [
        (Kind.ATTENTION, "attention", _attention_words(anatomy)),
        (Kind.EXPERTS if anatomy.experts else Kind.MLP, *_mlp_words(anatomy)),
    ]
    _row(axes, left, 76, width, Kind.EMBEDDING, "embedding", f"{vocabulary.input_size:,} → {hidden:,}")
    _arrow(axes, left + width / 2, 124, 146)
    _box(axes, left - 20, 146, width + 40, 180, _BACKGROUND, _FRAME)
    _write(axes, left - 38, 222, f"{anatomy.layers} ×", 20, _TEXT, "right")
    _write(axes, left - 38, 252, "layers", 14, _SMALL, "right")
    top = 160.0
    for kind, name, words in rows:
        _row(axes, left, top, width, Kind.NORM, "norm", "", height=22)
        _row(axes, left, top + 26, width, kind, name, words)
        top += 80
    _arrow(axes, left + width / 2, 326, 348)
    _row(axes, left, 348, width, Kind.NORM, "norm", "", height=22)
    shared = "the embedding again" if vocabulary.tied else "a matrix of its own"
    _row(
        axes,
        left,
        376,
        width,
        Kind.HEAD,
        "output head",
        f"{hidden:,} → {vocabulary.output_size:,} · {shared}",
    )


def _attention_words(anatomy: Anatomy) -> str:
    heads = f"{anatomy.hidden_size:,} → {anatomy.attention_heads} heads × {anatomy.head_dim}"
    if anatomy.key_value_heads != anatomy.attention_heads:
        heads += f" · {anatomy.key_value_heads} KV heads"
    if anatomy.sliding_window:
        which = (
            ""
            if len(anatomy.sliding_layers) == anatomy.layers
            else f" in {len(anatomy.sliding_layers)} layers"
        )
        heads += f" · window {anatomy.sliding_window:,}{which}"
    return heads


def _mlp_words(anatomy: Anatomy) -> tuple[str, str]:
    path = f"{anatomy.hidden_size:,} → {anatomy.intermediate_size:,} → {anatomy.hidden_size:,}"
    if anatomy.experts:
        return "experts", f"{anatomy.experts_per_token} of {anatomy.experts} a token · {path}"
    return "MLP", path


def _row(
    axes: Axes, left: float, top: float, width: float, kind: Kind, name: str, words: str, height: float = 48
) -> None:
    _box(axes, left, top, width, height, _BOX)
    _box(axes, left, top, 14, height, _COLOURS[kind])
    middle = top + height / 2
    small = height < 40
    label = _write(axes, left + 30, middle, name, 12 if small else 17, _SMALL if small else _TEXT)
    _kept_apart(label, _write(axes, left + width - 16, middle, words, 15, _TEXT, "right"))


def _arrow(axes: Axes, x: float, start: float, end: float) -> None:
    axes.plot([x, x], [start, end], color=_FRAME, linewidth=2.5)


def _memory(axes: Axes, anatomy: Anatomy, budget_bytes: int) -> None:
    """What it takes by part, in one bar; and under it, to scale, how much that is of the budget."""
    footprint = anatomy.footprint(anatomy.context_tokens)
    need = footprint.total_bytes
    left, width = 30.0, 1040.0
    _write(axes, left, 462, f"needs about {gigabytes(need)} of memory", 18)
    _write(axes, left + width, 463, f"for {anatomy.context_tokens:,} tokens", 15, _SMALL, "right")
    shares = _shares(anatomy, footprint)
    _bar(axes, left, 484, width, 46, shares, need)
    _legend(axes, left, 558, width, shares)
    free_bytes = budget_bytes - need
    _write(axes, left, 704, f"of the {gigabytes(budget_bytes)} that models may take here", 15, _SMALL)
    verdict = (
        f"{gigabytes(free_bytes)} stay free" if free_bytes >= 0 else f"{gigabytes(-free_bytes)} too little"
    )
    _write(axes, left + width, 704, verdict, 16, _TEXT if free_bytes >= 0 else _ALARM, "right")
    rest = _Share("free", max(0, free_bytes), _FREE_COLOUR)
    _bar(axes, left, 724, width, 30, [*shares, rest], max(need, budget_bytes))
    if free_bytes < 0:
        limit = left + width * budget_bytes / need
        axes.plot([limit, limit], [716, 762], color=_ALARM, linewidth=4)
        _write(axes, limit, 776, gigabytes(budget_bytes), 14, _ALARM, "center")


def _shares(anatomy: Anatomy, footprint: Footprint) -> list[_Share]:
    weights = [
        _Share(f"{part.kind}, {part.storage}", part.size_bytes, _COLOURS[part.kind]) for part in anatomy.parts
    ]
    cache = f"KV cache, {anatomy.context_tokens:,} tokens"
    return [
        *weights,
        _Share(cache, footprint.cache_bytes, _CACHE_COLOUR),
        _Share("working memory", footprint.working_bytes, _WORKING_COLOUR),
    ]


def _bar(
    axes: Axes, left: float, top: float, width: float, height: float, shares: list[_Share], whole: int
) -> None:
    from matplotlib.patches import Rectangle

    x = left
    for share in shares:
        part = width * share.size_bytes / max(1, whole)
        axes.add_patch(Rectangle((x, top), part, height, facecolor=share.colour, linewidth=0))
        x += part


def _legend(axes: Axes, left: float, top: float, width: float, shares: list[_Share]) -> None:
    from matplotlib.patches import Rectangle

    columns = 2
    for number, share in enumerate(shares):
        x = left + (number % columns) * (width / columns + 20)
        y = top + (number // columns) * 30
        axes.add_patch(Rectangle((x, y - 9), 18, 18, facecolor=share.colour, linewidth=0))
        _write(axes, x + 28, y, share.label, 14, _SMALL)
        _write(axes, x + width / columns - 20, y, short_bytes(share.size_bytes), 14, _TEXT, "right")


def short_bytes(count: int) -> str:
    """A size for people, small ones too: "70 kB", "57 MB", "4.1 GB"."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else gigabytes(count)


def short_count(count: int) -> str:
    """A number for people: "135 million", "8.0 billion"."""
    return f"{count / 1e6:,.0f} million" if count < 1e9 else f"{count / 1e9:,.1f} billion"
