"""What the installation's pages have their reader type, and the settings they name."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, heading: str) -> list[str]:
    """The shell blocks under a heading of the second level, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    (section,) = [one for one in sections if one.startswith(f"{heading}\n")]
    return re.findall(r"^```sh\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)


def settings_named(page: str) -> set[str]:
    """Words in capitals with an underscore, as settings are written."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text))
