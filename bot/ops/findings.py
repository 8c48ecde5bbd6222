"""What `check` reports: a verdict on one thing, and the fix where one is needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from bot import __version__

DOCUMENT_VERSION = 1  # raised when a key of the document is renamed or goes away


class Verdict(StrEnum):
    """How a check went, the best first."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        id: what scripts know it by; it stays the same whatever the words are.
        verdict: how it went.
        subject: what it is about, in a word or two.
        text: what was found, and the fix where one is needed, in one line.
    """

    id: str
    verdict: Verdict
    subject: str
    text: str


def worst(findings: Sequence[Finding]) -> Verdict:
    """The verdict on everything."""
    order = list(Verdict)
    return max((finding.verdict for finding in findings), key=order.index, default=Verdict.OK)


def document(findings: Sequence[Finding]) -> str:
    """All of a report as one JSON document."""
    counts = {verdict.value: sum(one.verdict is verdict for one in findings) for verdict in Verdict}
    told = {
        "version": DOCUMENT_VERSION,
        "punchline": __version__,
        "verdict": worst(findings),
        "counts": counts,
        "checks": [asdict(finding) for finding in findings],
    }
    return json.dumps(told, indent=2, ensure_ascii=False)
