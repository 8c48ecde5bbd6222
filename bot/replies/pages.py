"""Cuts a growing text into messages that Discord takes. Pure, no I/O.

`PageSplitter` is fed as the text arrives. A page that is finished never changes: where it ends depends on no more than
one page of the text, and not on how the text was fed. Each character is looked at a bounded number of times.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import accumulate
from typing import NamedTuple

import regex

from bot.replies.harmless import GROWS, GROWS_LONGEST, growth, with_plain_links
from bot.replies.markdown import FENCE, NOTHING, Open, Reader, code_in, read

MESSAGE_LIMIT = 2_000  # UTF-16 units of content, Discord API v10
FOOTER_ROOM = 160  # kept free on every page, for the status or the footer under the last one
PAGE_LIMIT = MESSAGE_LIMIT - FOOTER_ROOM

_GRAPHEME = regex.compile(r"\X")
_LONGEST_GRAPHEME = 64  # UTF-16 units; longer ones are no writing, and are cut
_FIRST_COMBINING = "\u0300"  # no character before this one joins what is before it
_NO_BLANK = re.compile(r"\S")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_BREAK = re.compile(r"[。！？]|(?P<sentence>[.!?…][\"'”’)\]*_]*)?(?P<blank>\s+)")
_QUOTED_FENCE = re.compile(r"(?: *> +)?```")
_MARKS = "`*_~|"
_LONGEST_SPANS = len("***___~~||``")  # no mark is open twice
_MANY_BREAKS = 64
_FENCE_ROOM = len(f"\n{FENCE}")


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


class _Rank(IntEnum):
    """What a page may end with, the best first."""

    PARAGRAPH = 0
    LINE = 1
    SENTENCE = 2
    WORD = 3


class _Place(NamedTuple):
    """Where a page may end.

    Attributes:
        at: where the next page begins, in the text.
        words_end: where the words of this one end, before the white space.
        rank: what ends here.
    """

    at: int
    words_end: int
    rank: _Rank = _Rank.WORD


class _Cut(NamedTuple):
    """A place that was chosen, and what is open there."""

    place: _Place
    open: Open


def units(text: str) -> int:
    """The length of a text as Discord's clients count it, in UTF-16 units: never less than in characters, so that
    what fits so counted fits however the server counts."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


class PageSplitter:
    """Feed it text; it finishes a page when the next one has begun.

    Args:
        limit: the most UTF-16 units of a page.
        before: what is open where the text begins, if it goes on from another one.
        most: how many pages to finish. Text behind them is kept in `beyond`, and not looked at.

    Attributes:
        finished: the pages that will not change any more.
        has_beyond: whether there is anything to see in `beyond`.
        steps: how many characters were looked at so far, all looks together.
    """

    def __init__(self, limit: int = PAGE_LIMIT, before: Open = NOTHING, most: int | None = None) -> None:
        self.finished: list[Page] = []
        self.steps = 0
        self._limit = limit
        self._most = most
        self.has_beyond = False
        self._beyond: list[str] = []
        self._skipped: list[str] = []  # white space before the page that would have been a page of nothing
        self._last_seen: str | None = (
            None  # the content of the page that grows, if nothing came since the last look
        )
        self._open_page(before)
        self._grow("")

    def feed(self, text: str) -> None:
        """More of the text."""
        if self.is_full:
            self._put_beyond(text)
            return
        self._last_seen = None
        self._parts.append(text)
        self._unread.append(text)
        self._weigh(text)
        if self._weight <= self._limit:
            return
        whole, begin = "".join(self._parts), 0
        while not self.is_full and (cut := self._cut(whole, begin)) is not None:
            self._finish(whole, begin, cut)
            begin = cut.place.at
        if self.is_full:
            self._put_beyond(whole[begin:])
        self._grow("" if self.is_full else whole[begin:])

    def _put_beyond(self, text: str) -> None:
        self._beyond.append(text)
        self.has_beyond = self.has_beyond or not (text.isspace() or not text)

    @property
    def is_full(self) -> bool:
        """Whether as many pages are finished as were wanted."""
        return self._most is not None and len(self.finished) >= self._most

    @property
    def beyond(self) -> str:
        """The text behind the pages that were wanted."""
        self._beyond = ["".join(self._beyond)]
        return self._beyond[0]

    @property
    def last(self) -> Page:
        """The page that still grows; its content is empty while there is nothing to see on it."""
        content = self._last_content()
        return Page("".join((*self._skipped, *self._parts)), content)

    @property
    def pages(self) -> list[Page]:
        """All pages there are to see now; one without content if there are none."""
        last = self.last
        if last.content or not self.finished:
            return [*self.finished, last]
        *others, end = self.finished
        return [*others, Page(end.source + last.source, end.content)]

    @property
    def contents(self) -> list[str]:
        """The contents of `pages`."""
        last = self._last_content()
        return [*(page.content for page in self.finished), *([last] if last or not self.finished else [])]

    # The page that grows

    def _open_page(self, begins: Open) -> None:
        self._begins = begins
        opening = begins.reopening
        self._opening = (
            opening if units(opening) <= self._limit // 3 else ""
        )  # else no marks that are meant as such
        self._room = self._limit - units(self._opening)

    def _grow(self, text: str) -> None:
        """Begin with this what there is of the page that grows."""
        self._reader = Reader(self._begins)
        self._last_seen = None
        self._parts = [text]
        self._unread = [text]
        self._has_words = False
        self._weight = 0  # how long the page will at most be, but for what closes it
        self._blank = 0  # units of white space behind its last word
        self._tail = ""
        self._weigh(text)

    def _weigh(self, text: str) -> None:
        self.steps += len(text)
        words = text.rstrip()
        if not words:
            self._blank = self._blank_with(text)
        else:
            begin = 0
            if not self._has_words:
                begin = len(words) - len(words.lstrip())
                self._blank = self._blank_with(words[:begin])
                self._weight = self._limit - self._room
                self._has_words = True
            self._weight += self._blank + units(words[begin:])
            for found in GROWS.finditer(self._tail + words):
                if found.end() > len(self._tail):
                    self._weight += growth(found[0])
            self._blank = units(text[len(words) :])
        self._tail = (self._tail + text[-GROWS_LONGEST:])[1 - GROWS_LONGEST :]

    def _blank_with(self, blank: str) -> int:
        """The units of white space that count, with this behind it. Before the first word only an indentation does."""
        if self._has_words:
            return self._blank + units(blank)
        if self._begins.block is None:
            return 0
        behind = blank.rpartition("\n")[2]
        return units(blank) + self._blank if behind == blank else units(behind)

    def _last_content(self) -> str:
        if self._last_seen is None:
            self._last_seen = self._look()
        return self._last_seen

    def _look(self) -> str:
        """The content of the page that grows."""
        if not self._has_words:
            return ""
        for text in self._unread:
            self._reader.feed(text)
        self._unread = []
        whole = "".join(self._parts)
        self._parts = [whole]
        self.steps += len(whole)
        lead = self._lead(whole, 0)
        assert lead is not None  # noqa: S101
        return self._content(whole[lead:].rstrip(), self._reader.open, final=True)

    def _lead(self, text: str, begin: int) -> int | None:
        """Where what is shown of a page begins; None if nothing is."""
        found = _NO_BLANK.search(text, begin)
        if found is None:
            return None
        if self._begins.block is None:
            return found.start()
        return max(begin, text.rfind("\n", begin, found.start()) + 1)

    def _content(self, shown: str, ends: Open, *, final: bool) -> str:
        """What is sent for these words. At the end of the text, emphasis stays as it was written."""
        begins, opening = self._begins, self._opening
        if begins.block is not None:
            fence = _QUOTED_FENCE.match(shown) if begins.block.in_quote else None
            end = fence.end() if fence else len(FENCE) * shown.startswith(FENCE)
            if end and begins.block.has_content:  # it was closed on the page before: nothing to open again
                opening = replace(begins, block=None, in_line=False).reopening
                shown = shown[end:].lstrip()
        elif shown.startswith(FENCE):
            opening = replace(begins, spans=()).reopening  # emphasis does not reach into a code block
        if not shown:
            return ""
        if opening[-1:] == shown[0]:  # together they would be another mark
            opening = ""
        content = opening + shown
        self.steps += 2 * len(content)
        closing = "" if final or ends.block is not None else ends.closing
        if FENCE in content and code_in(content).open_block:
            closing = f"\n{FENCE}" if ends.block is None or shown.endswith("`") else ends.closing
        if units(closing) > self._limit // 4 or closing[:1] == shown[-1]:
            closing = ""
        return with_plain_links(content + closing)

    # Where it ends

    def _finish(self, text: str, begin: int, cut: _Cut) -> None:
        lead = self._lead(text, begin)
        assert lead is not None  # noqa: S101
        place, ends = cut
        part = text[begin : place.at]
        content = self._content(text[lead : place.words_end], ends, final=False)
        if content:
            self.finished.append(Page("".join((*self._skipped, part)), content))
            self._skipped = []
        else:
            self._skipped.append(part)
        self._open_page(ends)

    def _cut(self, text: str, begin: int) -> _Cut | None:
        """The best end of the page that begins there; None if what is there fits on it.

        A good break, better with nothing open, late enough to fill half of the page. It depends on the text up to the
        first word that does not fit, and on no more.
        """
        lead = self._lead(text, begin)
        if lead is None:
            return None
        window = text[lead : lead + self._room + 1]
        self.steps += len(window)
        weights = [1] * len(window) if window.isascii() else [1 + (one > "\uffff") for one in window]
        for found in GROWS.finditer(window):
            weights[found.end() - 1] += growth(found[0])
        sizes = list(accumulate(weights, initial=0))
        fitting = bisect_right(sizes, self._room) - 1
        if fitting == len(window) or _NO_BLANK.search(text, lead + fitting) is None:
            return None
        # A fence may need another one behind it.
        room = self._room - (
            _FENCE_ROOM if FENCE in window[:fitting] or self._begins.block is not None else 0
        )
        looks = _Looks(text, begin, lead, lead + fitting, self._begins, sizes, room, self._limit // 4)
        cut = looks.at_break() or looks.in_word()
        self.steps += looks.steps
        return cut


class _Looks:
    """Looks for the end of one page.

    Args:
        text: has the page.
        begin: where the page begins.
        lead: where what is shown of it begins.
        fits_until: where what fits ends, without what closes it.
        begins: what is open where it begins.
        sizes: how long it is with so many characters.
        room: how long it may be.
        longest_closing: what closes it is left out if it is longer.

    Attributes:
        steps: how many characters were looked at.
    """

    def __init__(
        self,
        text: str,
        begin: int,
        lead: int,
        fits_until: int,
        begins: Open,
        sizes: list[int],
        room: int,
        longest_closing: int,
    ) -> None:
        self.steps = 0
        self._text = text
        self._begin = begin
        self._lead = lead
        self._fits_until = fits_until
        self._begins = begins
        self._sizes = sizes
        self._room = room
        self._longest_closing = longest_closing

    def at_break(self) -> _Cut | None:
        """The best break in the second half of the page, if there is one."""
        plain: dict[_Rank, _Cut] = {}
        others: dict[_Rank, _Cut] = {}
        for place, reader in self._fitting(_fewer(list(self._breaks()))):
            if reader.is_plain:
                plain[place.rank] = _Cut(place, reader.open)
            elif not reader.in_block or (reader.has_content and self._text[place.words_end - 1] != "`"):
                others[place.rank] = _Cut(
                    place, reader.open
                )  # in a block only where something of it is on this page
        best = plain or others
        return best[min(best)] if best else None

    def in_word(self) -> _Cut:
        """The last place between two graphemes, better not inside a mark."""
        fallback = best = None
        for place, reader in self._fitting(self._boundaries()):
            fallback = _Cut(place, reader.open)
            before, after = self._text[place.at - 1], self._text[place.at]
            if before != "\\" and not (before == after and before in _MARKS):
                best = fallback
        return best or fallback or self._anywhere()

    def _anywhere(self) -> _Cut:
        """The last place between two graphemes, whatever is around it."""
        last = self._lead + bisect_right(self._sizes, self._room - _LONGEST_SPANS) - 1
        ends = [self._lead + found.end() for found in _GRAPHEME.finditer(self._text[self._lead : last + 1])]
        at = max((end for end in ends if end <= last), default=self._lead + 1)
        self.steps += 2 * (at - self._begin)
        words_end = self._lead + len(self._text[self._lead : at].rstrip())
        return _Cut(_Place(at, words_end), read(self._text[self._begin : at], self._begins))

    def _breaks(self) -> Iterator[_Place]:
        half = self._lead + (self._fits_until - self._lead) // 2
        self.steps += self._fits_until - half
        for found in _BREAK.finditer(self._text, half, self._fits_until):
            blank = found["blank"]
            if blank is None:
                place = _Place(found.end(), found.end(), _Rank.SENTENCE)
            else:
                begin = found.start("blank")
                if begin == half:  # the white space may begin in the first half
                    begin = self._lead + len(self._text[self._lead : half].rstrip())
                if "\n" in blank:
                    rank = _Rank.PARAGRAPH if _BLANK_LINE.search(blank) else _Rank.LINE
                    # An indentation stays with its line.
                    place = _Place(found.start("blank") + blank.rindex("\n") + 1, begin, rank)
                else:
                    rank = _Rank.WORD if found["sentence"] is None else _Rank.SENTENCE
                    place = _Place(found.end(), begin, rank)
            if self._is_boundary(place.at):
                yield place

    def _is_boundary(self, at: int) -> bool:
        """Whether no grapheme reaches over a place behind white space or the end of a sentence."""
        if self._text[at] < _FIRST_COMBINING:
            return True
        found = _GRAPHEME.match(self._text, at - 1, min(len(self._text), at + 1))
        return found is None or found.end() == at

    def _boundaries(self) -> Iterator[_Place]:
        longest = min(_LONGEST_GRAPHEME, self._room // 2)
        least = self._room - _LONGEST_SPANS - longest
        since = self._boundary_before(self._lead + bisect_left(self._sizes, least))
        self.steps += self._fits_until - since
        # Cut out: where a run of flags begins before it, each look would go back to its beginning.
        for found in _GRAPHEME.finditer(self._text[since : self._fits_until + 1]):
            begin, end = since + found.start(), since + found.end()
            is_whole = units(found[0]) <= longest
            for at in (end,) if is_whole else range(begin + 1, end + 1):
                is_near = at <= self._fits_until and self._sizes[at - self._lead] >= least
                if is_near and not self._text[at - 1].isspace():
                    yield _Place(at, at)

    def _boundary_before(self, at: int) -> int:
        """A place between two graphemes, not far before this one if there is one that is easily found."""
        for place in range(at, max(self._lead, at - _LONGEST_GRAPHEME), -1):
            before, after = self._text[place - 1], self._text[place]
            if "\r" != before < _FIRST_COMBINING and after < _FIRST_COMBINING:
                return place
        return self._lead

    def _fitting(self, places: Iterable[_Place]) -> Iterator[tuple[_Place, Reader]]:
        """The places at which the page fits, each with a reader that has read up to there."""
        reader, at = Reader(self._begins), self._begin
        for place in places:
            reader.feed(self._text[at : place.at])
            at = place.at
            size = self._sizes[place.words_end - self._lead]
            if reader.closing_length <= self._longest_closing:  # else nothing closes it
                size += reader.closing_length
            if size <= self._room:
                yield place, reader
        self.steps += reader.steps


def _fewer(places: list[_Place]) -> list[_Place]:
    """Where there are very many, the later ones, paragraphs, and some of the others."""
    late = len(places) - _MANY_BREAKS
    return [
        place
        for number, place in enumerate(places)
        if number >= late or place.rank is _Rank.PARAGRAPH or number % 8 == 0
    ]


def split_pages(text: str, limit: int = PAGE_LIMIT) -> list[Page]:
    """A whole text as pages."""
    splitter = PageSplitter(limit)
    splitter.feed(text)
    return splitter.pages
