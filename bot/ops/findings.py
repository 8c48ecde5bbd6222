"""What `check` reports: a verdict on one thing, and the fix where one is needed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check went."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `text` holds the fix where one is needed."""

    verdict: Verdict
    subject: str
    text: str
