"""Striking out of a text what must not be in it. Pure.

Secrets go as they are; what a person wrote also where an error quotes a part of it, or shows it as Python escapes it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby

RUN = (
    8  # so many characters in a row that are in both texts are a quotation: single words seldom are that long
)
_LEAST = 4  # a text that is shorter is in every traceback, and says nothing
HIDDEN = "***"


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """`text` with `***` for each secret."""
    # The longest first: one may be a part of another, whose rest would stay.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def without_quotes(text: str, written: Iterable[str]) -> str:
    """`text` with `***` for each run of `RUN` characters or more that is in something written, too; what is shorter
    than that as a whole is looked for as a whole.

    It takes time for each character of the text and of what was written once, not for each pair of them.
    """
    in_text: dict[int, set[str]] = {}  # by their length, all runs of the text
    quoted: dict[int, set[str]] = defaultdict(set)  # and those that were written too
    for one in _variants(written):
        length = min(RUN, len(one))
        if length < _LEAST:
            continue
        if length not in in_text:
            in_text[length] = set(_runs(text, length))
        quoted[length].update(in_text[length].intersection(_runs(one, length)))
    hidden = bytearray(len(text))
    for length, runs in quoted.items():
        runs = {run for run in runs if len(run.strip()) >= _LEAST}
        for start, run in enumerate(_runs(text, length) if runs else ()):
            if run in runs:
                hidden[start : start + length] = b"\1" * length
    parts = groupby(zip(text, hidden, strict=True), key=lambda pair: pair[1])
    return "".join(HIDDEN if is_hidden else "".join(c for c, _ in run) for is_hidden, run in parts)


def _runs(text: str, length: int) -> Iterator[str]:
    """All runs of so many characters, in order."""
    return (text[start : start + length] for start in range(len(text) - length + 1))


def _variants(written: Iterable[str]) -> Iterator[str]:
    """As it was written, and as `repr` and JSON show it."""
    for one in {text.strip() for text in written}:
        yield from {one, repr(one)[1:-1], ascii(one)[1:-1], json.dumps(one)[1:-1]}
