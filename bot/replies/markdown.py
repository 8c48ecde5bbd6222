"""What is open at a place in a Markdown text: enough to close it at the end of a message and open it again in the
next one. Pure.

Discord renders each message by itself. Fences follow CommonMark: at the start of a line, closed by at least as many of
the same character alone on a line. Backticks behind other words are inline code, however many. Emphasis ends with its
paragraph.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<marker>`{3,}|~{3,})(?P<info>[^`\n]*)\n?")
_LINE_START = re.compile(r"(?:[ ]{0,3}>[ ]?)+|[ ]{0,3}(?:#{1,3}|-#)[ ]+")
_WHOLE_QUOTE = ">>> "
_DELIMITERS = re.compile(r"`+|\|\||~~|\*{1,2}|_{1,2}|\\.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Fence:
    """An open code block: its marker, as in "```", and what is behind it, as in "python"."""

    marker: str
    info: str

    def closed_by(self, line: str) -> bool:
        """Whether this line ends it."""
        bare = line.strip()
        return len(bare) >= len(self.marker) and set(bare) == {self.marker[0]}


@dataclass(frozen=True, slots=True)
class Open:
    """What is open at a place.

    Attributes:
        fence: the code block.
        spans: the delimiters of emphasis, spoilers and inline code, outermost first.
        line_start: what the line began with that makes it a quote, heading or small print; empty at its begin.
        whole_quote: whether all that follows is a quote, after ">>> ".
        in_line: whether the place is inside a line.
    """

    fence: Fence | None = None
    spans: tuple[str, ...] = ()
    line_start: str = ""
    whole_quote: bool = False
    in_line: bool = False

    @property
    def plain(self) -> bool:
        """Whether a message may end here with nothing to close and nothing to open again."""
        return self.fence is None and not self.spans and not (self.in_line and self.line_start)

    @property
    def closing(self) -> str:
        """What ends a message here so that nothing bleeds into what is put under it."""
        if self.fence is not None:
            return f"\n{self.fence.marker}" if self.in_line else self.fence.marker
        return "".join(reversed(self.spans))

    @property
    def reopening(self) -> str:
        """What begins the next message so that its words look as they would have here."""
        quote = _WHOLE_QUOTE if self.whole_quote else ""
        if self.fence is not None:
            return f"{quote}{self.fence.marker}{self.fence.info}\n"
        return quote + (self.line_start if self.in_line else "") + "".join(self.spans)


def lines_of(text: str) -> list[str]:
    """The lines of a text with their ends, as Discord sees lines."""
    return _LINE.findall(text)


def read(text: str, before: Open = Open()) -> Open:
    """What is open behind `text`, which begins where `before` is open."""
    now = before
    for line in lines_of(text):
        now = _read_line(line, now)
        if line.endswith("\n"):
            spans = now.spans if line.strip() else ()
            now = replace(now, in_line=False, line_start="", spans=spans)
        else:
            now = replace(now, in_line=True)
    return now


def _read_line(line: str, now: Open) -> Open:
    begins = not now.in_line
    if now.fence is not None:
        return replace(now, fence=None) if begins and now.fence.closed_by(line) else now
    start = ""
    if begins:
        if line.startswith(_WHOLE_QUOTE):
            now, line = replace(now, whole_quote=True), line[len(_WHOLE_QUOTE) :]
        if fence := _FENCE.fullmatch(line):
            return replace(now, fence=Fence(fence["marker"], fence["info"].rstrip()), spans=())
        if found := _LINE_START.match(line):
            start = found[0]
        now = replace(now, line_start=start)
    return _read_spans(line[len(start) :], now)


def _read_spans(line: str, now: Open) -> Open:
    spans = list(now.spans)
    for found in _DELIMITERS.finditer(line):
        mark = found[0]
        after = line[found.end() : found.end() + 1]
        ahead = line[found.start() - 1 : found.start()] if found.start() else ""
        if spans and spans[-1].startswith("`"):
            if mark == spans[-1]:
                spans.pop()
        elif mark.startswith("`"):
            spans.append(mark)
        elif mark.startswith("\\"):
            continue
        elif mark == "||":
            spans[spans.index(mark) if mark in spans else len(spans) :] = [] if mark in spans else [mark]
        elif mark in spans:
            if not ahead.isspace() and not (mark.startswith("_") and after.isalnum()):
                del spans[spans.index(mark) :]
        elif after and not after.isspace() and not (mark.startswith("_") and ahead.isalnum()):
            spans.append(mark)
    return replace(now, spans=tuple(spans))
