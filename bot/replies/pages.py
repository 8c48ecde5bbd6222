"""Cutting a growing text into messages that Discord takes. Pure, no I/O.

`PageSplitter` is fed as the text arrives. A page that is finished never changes: where it ends depends only on the
text up to a little behind its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import regex

from bot.replies.harmless import with_plain_links
from bot.replies.markdown import Open, read

MESSAGE_LIMIT = 2_000  # characters of content, Discord API v10
FOOTER_ROOM = 160  # kept free on every page, for the status or the footer under the last one
PAGE_LIMIT = MESSAGE_LIMIT - FOOTER_ROOM

_GRAPHEME = regex.compile(r"\X")
# Where a page may end, the best first; the end of a match is the place.
_BREAKS = tuple(
    regex.compile(pattern)
    for pattern in (r"\n[ \t]*\n\s*", r"\n", r"[.!?…][\"'”’)\]*_]*\s+|[。！？]", r"\s+")
)
_FENCE_BEGINS = ("`", "``", "```", "~", "~~", "~~~")
_NOTHING = Open()
_NO_FENCE = "\u200b"  # cannot be seen, and what is behind it does not begin a line
_LONGEST_GRAPHEME = 64  # UTF-16 units; longer ones are no writing, and are cut


@dataclass(frozen=True, slots=True)
class Page:
    """One message.

    Attributes:
        source: the part of the text that it stands for; those of all pages, joined, are the text.
        content: what is sent: the source without white space around it, its links made plain, with what was open
            opened again before it and closed behind it.
    """

    source: str
    content: str


def units(text: str) -> int:
    """The length of a text as Discord's clients count it, in UTF-16 units: never less than in characters, so that
    what fits so counted fits however the server counts."""
    return len(text) + sum(character > "\uffff" for character in text)


class PageSplitter:
    """Feed it text; it finishes a page when the next one has begun.

    Args:
        limit: the most UTF-16 units of a page.
        before: what is open where the text begins, if it goes on from another one.

    Attributes:
        finished: the pages that will not change any more.
    """

    def __init__(self, limit: int = PAGE_LIMIT, before: Open = _NOTHING) -> None:
        self._limit = limit
        self._rest = ""
        self._skipped = ""  # white space before the rest that would have been a page of nothing
        self._open = before
        self.finished: list[Page] = []

    def feed(self, text: str) -> None:
        """More of the text."""
        self._rest += text
        while units(self._rest) > self._limit // 2 and not self._fits():
            self._finish(self._cut())

    @property
    def last(self) -> Page:
        """The page that still grows; its content is empty while there is nothing to see on it."""
        return self._page(self._rest, final=True)

    @property
    def pages(self) -> list[Page]:
        """All pages there are to see now; one without content if there are none."""
        last = self.last
        if last.content or not self.finished:
            return [*self.finished, last]
        *others, end = self.finished
        return [*others, Page(end.source + last.source, end.content)]

    def _fits(self) -> bool:
        """Whether the rest fits one page, its last grapheme apart: that may still grow into another one."""
        *_, begins = (0, *(found.start() for found in _GRAPHEME.finditer(self._rest)))
        if units(self._rest[begins:]) > min(_LONGEST_GRAPHEME, self._limit):
            begins = len(self._rest)
        # White space at the end takes nothing, but what comes behind it takes it along.
        behind = "" if self._rest[begins:].isspace() or begins == len(self._rest) else "."
        return units(self._page(self._rest[:begins] + behind).content) - len(behind) <= self._limit

    def _finish(self, end: int) -> None:
        part = self._rest[:end]
        page = self._page(part)
        if page.content:
            self.finished.append(page)
            self._skipped = ""
        else:
            self._skipped += part
        self._open = read(part, self._open)
        self._rest = self._rest[end:]

    def _page(self, part: str, *, final: bool = False) -> Page:
        """The rest up to some place as a page. At the end of the text, emphasis stays as it was written."""
        source, begins = self._skipped + part, self._open
        if begins.fence is not None and not begins.in_line:
            first, newline, others = part.lstrip("\n").partition("\n")
            if begins.fence.closed_by(first):  # it was closed on the page before: nothing to open again
                begins, part = read(first + newline, begins), others
        if begins.fence is None:
            shown = part.lstrip()
            blank = part[: len(part) - len(shown)]
            begins, part = read(blank[: blank.rfind("\n") + 1], begins), shown
        ends = read(part, begins)
        shown = part.strip("\n").rstrip() if begins.fence is not None else part.strip()
        if not shown:
            return Page(source, "")
        if begins.fence is None and read(shown.partition("\n")[0], begins).fence is not None:
            begins = replace(begins, spans=())  # emphasis does not reach into a code block
        shown = with_plain_links(shown, begins)
        opening = begins.reopening
        closing = "" if final and ends.fence is None else ends.closing
        if ends.fence is not None:
            closing = f"\n{ends.fence.marker}"
        if units(opening) + units(closing) > self._limit // 2:  # marks longer than any that are meant as such
            opening = closing = ""
        if opening[-1:] == shown[0]:  # together they would be another mark
            opening = ""
        if closing[:1] == shown[-1]:
            closing = ""
        if (
            begins.in_line
            and begins.fence is None
            and read(opening + shown.partition("\n")[0]).fence is not None
        ):
            shown = _NO_FENCE + shown  # it was no fence in the middle of its line
        return Page(source, f"{opening}{shown}{closing}")

    def _cut(self) -> int:
        """The best place to end the page at: a good break, better with nothing open, late enough to fill half."""
        ends = list(self._ends())
        while len(ends) > 1 and self._taken(ends[-1]) > self._limit:
            ends.pop()
        ends = [place for place in ends if not self._in_fence_line(place)] or ends
        allowed, latest = set(ends), ends[-1]
        fallback = 0
        for pattern in _BREAKS:
            places: list[int] = [found.end() for found in pattern.finditer(self._rest, 0, latest + 1)]
            for place in reversed([one for one in places if latest // 2 <= one <= latest and one in allowed]):
                if self._taken(place) <= self._limit:
                    if read(self._rest[:place], self._open).plain:
                        return place
                    fallback = fallback or place
        return fallback or latest

    def _in_fence_line(self, place: int) -> bool:
        """Whether what is before it on its line is, or may become, a fence: cut there, neither half would be one."""
        begin = self._rest.rfind("\n", 0, place) + 1
        if begin == 0 and self._open.in_line:
            return False
        before = self._rest[begin:place]
        return bool(before) and (before.isspace() or before.lstrip()[:3] in _FENCE_BEGINS)

    def _ends(self) -> Iterator[int]:
        """Every place at which a page may end at all, as far as the text alone would fit: between graphemes, and
        inside those that are too long."""
        begin = taken = 0
        for found in _GRAPHEME.finditer(self._rest):
            whole = units(found[0]) <= min(_LONGEST_GRAPHEME, self._limit)
            for end in (found.end(),) if whole else range(begin + 1, found.end() + 1):
                taken += units(self._rest[begin:end])
                if taken > self._limit and begin > 0:
                    return
                yield end
                begin = end

    def _taken(self, end: int) -> int:
        return units(self._page(self._rest[:end]).content)


def split_pages(text: str, limit: int = PAGE_LIMIT) -> list[Page]:
    """A whole text as pages."""
    splitter = PageSplitter(limit)
    splitter.feed(text)
    return splitter.pages
