"""What was found, as JSON for programs and as a page for people. Both files are whole after each stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.stage import Outcome, Stage, Verdict

_WIDTH = 118


class Results:
    """The outcomes so far.

    Args:
        out: the folder for `results.json` and `summary.txt`.
        stages: those that are to run, in their order.
        about: what ran, how.
    """

    def __init__(self, out: Path, stages: Sequence[Stage], about: dict[str, Any]) -> None:
        self._out = out
        self._order = {stage.name: place for place, stage in enumerate(stages)}
        self.about = about
        self.outcomes: list[Outcome] = []

    @property
    def is_good(self) -> bool:
        """Whether no stage has failed."""
        return not any(one.is_bad for one in self.outcomes)

    def add(self, outcome: Outcome, seconds: float) -> None:
        """Take in how a stage ended, `seconds` after the start, and write the files."""
        self.outcomes.append(outcome)
        self.outcomes.sort(key=lambda one: self._order[one.stage.name])
        self.about |= {"seconds": round(seconds, 1), "stages_left": len(self._order) - len(self.outcomes)}
        document = {"about": self.about, "stages": [one.as_json() for one in self.outcomes]}
        _replace(self._out / "results.json", json.dumps(document, indent=1) + "\n")
        _replace(self._out / "summary.txt", summary(self.about, self.outcomes))


def _replace(file: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the new one, and never half of it."""
    begun = file.with_suffix(".part")
    begun.write_text(text, encoding="utf-8")
    begun.replace(file)


def summary(about: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """All of it on a page."""
    bad = [one.stage.name for one in outcomes if one.is_bad]
    head = f"FAILED: {', '.join(bad)}" if bad else "no stage failed"
    late = [one.stage.name for one in outcomes if one.verdict is Verdict.NO_TIME]
    lines = [
        f"Punchline on a GPU: {head}, {about.get('seconds', 0):.0f} s"
        + (", TINY on the CPU: its speeds mean nothing" if about.get("tiny") else ""),
        *([f"No time was left for: {', '.join(late)}"] if late else []),
        *([f"Still to come: {about['stages_left']} stages"] if about.get("stages_left") else []),
        "",
        f"{'stage':<14}{'verdict':<9}{'s':>7}  note",
    ]
    for one in outcomes:
        note = one.note.splitlines()[0][:_WIDTH] if one.note else ""
        lines.append(f"{one.stage.name:<14}{one.verdict:<9}{one.seconds:>7.1f}  {note}".rstrip())
    for one in outcomes:
        checks = [_check(check) for check in one.checks]
        if one.lines or checks or one.note.count("\n"):
            lines += ["", f"{one.stage.name}: {one.stage.shows}"]
            lines += [f"  {line}" for line in (*one.lines, *checks)]
            lines += [f"  | {line}" for line in one.note.splitlines()[1:]]
    return "\n".join(lines) + "\n"


def _check(check: dict[str, Any]) -> str:
    mark = "yes" if check["is_so"] else "NO " if check["judged"] else "no "
    return f"[{mark}] {check['sentence']}" + (f" ({check['found']})" if check["found"] else "")
