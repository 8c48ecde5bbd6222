"""What a stage is, and what it tells while it runs. No torch, no bot: the watching process knows only this."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gpu.lab import Lab

Tell = Callable[[dict[str, Any]], None]


class Verdict(StrEnum):
    """How a stage ended."""

    PASSED = "passed"
    FAILED = "failed"  # an exception, or something that it checks is not so
    LATE = "late"  # its own deadline had come, and it ended by itself
    HUNG = "hung"  # the same, and its process had to be ended
    DIED = "died"  # its process ended in the middle of it
    NO_TIME = "no time"  # too little was left of the whole run
    NOT_RUN = "not run"  # it needs CUDA


BAD = frozenset({Verdict.FAILED, Verdict.LATE, Verdict.HUNG, Verdict.DIED})


@dataclass(frozen=True, slots=True)
class Stage:
    """One of the things that are looked at.

    Attributes:
        name: for `--only`, and in the results.
        shows: what it shows, for people.
        run: where the coroutine function is that takes a `Context`, as "module:name".
        limit_s: its deadline on a GPU.
        tiny_limit_s: the same with `--tiny`.
        needs_cuda: whether it shows nothing on a CPU.
        beside: the stage that it runs beside, in a process of its own, because neither measures speed.
    """

    name: str
    shows: str
    run: str
    limit_s: float
    tiny_limit_s: float = 60.0
    needs_cuda: bool = False
    beside: str | None = None


@dataclass(slots=True)
class Outcome:
    """How a stage ended, and what it has told by then.

    Attributes:
        checks: what it found to be so or not: a sentence, whether it holds, and the figures behind it.
        figures: by name.
        lines: for people.
        note: why it did not pass.
    """

    stage: Stage
    verdict: Verdict = Verdict.NO_TIME
    seconds: float = 0.0
    note: str = ""
    checks: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @property
    def is_bad(self) -> bool:
        """Whether the whole run has failed for it."""
        return self.verdict in BAD

    def hear(self, told: dict[str, Any]) -> None:
        """Take in what the stage tells."""
        self.figures |= told.get("figures", {})
        if "check" in told:
            self.checks.append(told["check"])
        if "line" in told:
            self.lines.append(told["line"])

    def as_json(self) -> dict[str, Any]:
        """For the file of results."""
        own = asdict(self)
        return {
            "name": self.stage.name,
            "shows": self.stage.shows,
            **{k: own[k] for k in own if k != "stage"},
        }


class CheckFailed(Exception):
    """Something that a stage checks is not so. The stage has gone on to its end."""


@dataclass(slots=True)
class Context:
    """What a stage is given.

    Attributes:
        tiny: whether dimensions are tiny, and all is on the CPU.
        cuda: whether there is a GPU. A rehearsal has none, and runs what needs one all the same.
        folder: for checkpoints and their copies.
        out: for files beside the results.
        ends_s: when its time is over, on the monotonic clock.
    """

    tiny: bool
    cuda: bool
    folder: Path
    out: Path
    ends_s: float
    send: Tell
    made_lab: Callable[[], Lab]
    broken: list[str] = field(default_factory=list)

    @property
    def lab(self) -> Lab:
        """Checkpoints and engines, shared by the stages of a process."""
        return self.made_lab()

    @property
    def left_s(self) -> float:
        """How much of its time is left."""
        return self.ends_s - time.monotonic()

    def tell(self, **figures: Any) -> None:
        """Have figures in the results now, whatever happens next."""
        self.send({"figures": figures})

    def say(self, line: str) -> None:
        """A line for people."""
        self.send({"line": line})

    def check(self, sentence: str, is_so: bool, found: str = "", *, judged: bool = True) -> None:
        """Note whether something is as it should be; if not, the stage fails at its end.

        Args:
            sentence: what should be so.
            is_so: whether it is.
            found: the figures behind it.
            judged: whether the stage fails for it; not on a CPU, where a busy neighbour decides on speed.
        """
        self.send({"check": {"sentence": sentence, "is_so": is_so, "found": found, "judged": judged}})
        if judged and not is_so:
            self.broken.append(f"{sentence}: no ({found})" if found else f"{sentence}: no")
