"""Striking out of a text what must not be in it. Pure.

Secrets go as they are; what a person wrote also where an error quotes a part of it, or shows it as Python escapes it.
The time taken grows with the text's length plus the length of what was written, never with their product.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

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
    than that as a whole is looked for as a whole."""
    hidden = bytearray(len(text))
    # At most one pass over the text for each length from `_LEAST` to `RUN`, however much was written.
    for length, runs in _runs(tuple(written)).items():
        for start in range(len(text) - length + 1):
            if text[start : start + length] in runs:
                hidden[start : start + length] = b"\x01" * length
    shown, end = [], 0
    for run in re.finditer(rb"\x01+", hidden):
        shown += [text[end : run.start()], HIDDEN]
        end = run.end()
    return "".join([*shown, text[end:]])


@lru_cache(maxsize=4)  # one failure of a request is a few lines of the log
def _runs(written: tuple[str, ...]) -> Mapping[int, set[str]]:
    """What to look for, by its length in characters."""
    found: dict[int, set[str]] = {}
    for one in set(_variants(written)):
        length = min(RUN, len(one))
        runs = {one[start : start + length] for start in range(len(one) - length + 1)}
        if runs := {run for run in runs if len(run.strip()) >= _LEAST}:
            found.setdefault(length, set()).update(runs)
    return found


def _variants(written: Iterable[str]) -> Iterator[str]:
    """As it was written, and as `repr` and JSON show it."""
    for one in {text.strip() for text in written}:
        yield from {one, repr(one)[1:-1], ascii(one)[1:-1], json.dumps(one)[1:-1]}
