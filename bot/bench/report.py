"""The rows as a table for people, and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.bench.work import Result

_COLUMNS = (
    ("system", "system", "{}"),
    ("users", "users", "{}"),
    ("arrivals", "arrivals", "{}"),
    ("tokens_per_second", "tokens/s", "{:.0f}"),
    ("tokens_per_second_per_user", "per user", "{:.1f}"),
    ("first_token_median_s", "first, median", "{:.2f} s"),
    ("first_token_p95_s", "p95", "{:.2f} s"),
    ("between_tokens_p95_s", "between, p95", "{:.3f} s"),
    ("loop_lag_p99_s", "lag p99", "{:.4f} s"),
    ("loop_lag_worst_s", "worst", "{:.4f} s"),
    ("roofline_share", "of roofline", "{:.1%}"),
)


def table(results: Sequence[Result]) -> str:
    """One line for each row, in columns."""
    rows = [[title for _, title, _ in _COLUMNS]]
    for one in results:
        values = [(getattr(one, name), form) for name, _, form in _COLUMNS]
        rows.append(["" if value is None else form.format(value) for value, form in values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def draw(results: Sequence[Result], folder: Path) -> None:
    """Two pictures: tokens per second, and the time to the first token, against users."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    for name, title in (
        ("tokens_per_second", "tokens/s"),
        ("first_token_median_s", "first token, median, s"),
    ):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        for system in dict.fromkeys(one.system for one in results):
            of = [one for one in results if one.system == system and one.arrivals == "once"]
            points = [(one.users, getattr(one, name)) for one in of if getattr(one, name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=system)
        axes.set_xlabel("users at once")
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(folder / f"bench-{name.replace('_', '-')}.png", dpi=120)
