"""Reads Discord's Markdown as it arrives: which marks are open at a place, and what is code for certain. Pure.

Discord's Markdown is not CommonMark; `docs/discord-markdown.md` has its rules and their sources. Discord renders each
message by itself, so a mark that is open where a message ends must be closed there and opened again in the next one.

`Reader` looks at each character once, however the text is fed. A mark counts as open until its end arrives: nobody
knows whether it will while the text grows. `code_in` reads a whole message, as Discord does.
"""

from __future__ import annotations

import copy
import re
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, replace

FENCE = "```"  # opens and closes a code block, anywhere in a line
_CONTENT_ENDS_RUN = 7  # backticks in a row that are a whole block: a fence, a backtick in it, a fence
_LONGEST_TAG = 64  # characters of a language's name; a longer one is forgotten
_LONGEST_PREFIX = 32  # characters; no line that is meant as a quote or a heading begins with more
_LONGEST_EMPHASIS = 3  # marks in a row; more of them are a line or a blank to fill in

_TAG = re.compile(r"[A-Za-z0-9_+\-.#]*")
_PREFIX_CHARACTERS = " >#-"
_PREFIX_PART = re.compile(f"[{_PREFIX_CHARACTERS}]*")
_WHOLE_QUOTE = re.compile(r" *>>> +")
_QUOTE = re.compile(r" *> +")
_HEADING = re.compile(r" *(#{1,3}|-#) +")
_MARK = re.compile(r"[\n\\`*_~|]")
_BACKTICK_OR_LINE_END = re.compile(r"[`\n]")
_BACKTICKS = re.compile(r"`+")
_TAG_LINE = re.compile(r"[A-Za-z0-9_+\-.#]+\n")
_LINE_ENDS = re.compile(r"\n*")
_RUNS = {mark: re.compile(re.escape(mark) + "+") for mark in "`*_~|"}


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """An open code block.

    Attributes:
        tag: its language, as in "python".
        has_content: whether it has content already.
        in_quote: whether it began in a line that is quoted with "> ". It ends with the quote.
        one_line: whether it began in a heading or in small text. It ends with the line.
    """

    tag: str = ""
    has_content: bool = False
    in_quote: bool = False
    one_line: bool = False


@dataclass(frozen=True, slots=True)
class Open:
    """What is open at a place.

    Attributes:
        block: the code block.
        spans: the marks of emphasis, spoilers and inline code, outermost first.
        line_start: what makes the line a quote, a heading or small text; empty at its beginning.
        whole_quote: whether everything that follows is a quote, after ">>> ".
        in_line: whether the place is inside a line.
    """

    block: CodeBlock | None = None
    spans: tuple[str, ...] = ()
    line_start: str = ""
    whole_quote: bool = False
    in_line: bool = False

    @property
    def plain(self) -> bool:
        """Whether a message may end here with nothing to close and nothing to open again."""
        return self.block is None and not self.spans and not (self.in_line and self.line_start)

    @property
    def closing(self) -> str:
        """What ends a message here, behind its last words, so that nothing reaches into what is put under it."""
        if self.block is None:
            return "".join(reversed(self.spans))
        if self.block.one_line:
            return FENCE
        return f"\n> {FENCE}" if self.block.in_quote else f"\n{FENCE}"

    @property
    def reopening(self) -> str:
        """What begins the next message so that its words look as they would have here."""
        quote = ">>> " if self.whole_quote else ""
        if self.block is None:
            return quote + (self.line_start if self.in_line else "") + "".join(self.spans)
        if self.block.one_line:
            return f"{quote}{self.line_start}{FENCE}"
        if self.block.in_quote:
            return f"> {FENCE}{self.block.tag}\n" + ("> " if self.in_line else "")
        return f"{quote}{FENCE}{self.block.tag}\n"


NOTHING = Open()


class Reader:
    """Reads a text piece by piece.

    Args:
        before: what is open where the text begins.

    Attributes:
        steps: how many characters it was given so far. It looks at each a bounded number of times.
    """

    def __init__(self, before: Open = NOTHING) -> None:
        self.steps = 0
        self._block = before.block
        self._spans = list(before.spans)
        self._line_start = before.line_start
        self._whole_quote = before.whole_quote
        self._prefix: str | None = None if before.in_line else ""  # of a line of which nothing else has come
        if before.block is not None and not before.block.in_quote:
            self._prefix = None
        self._in_line = before.in_line
        self._is_blank = not before.in_line
        self._tag: str | None = None  # what may become the language of the block that was just opened
        self._previous = " " if before.in_line else "\n"
        self._escaped = False  # the last character was a backslash
        self._run_mark = ""
        self._run_length = 0  # of the same mark in a row at the end, which may go on
        self._before_run = ""

    def feed(self, text: str) -> None:
        """More of the text."""
        self.steps += len(text)
        at = 0
        while at < len(text):
            if self._run_length:
                at = self._read_run(text, at)
            elif self._prefix is not None:
                at = self._read_prefix(text, at)
            elif self._block is not None:
                at = self._read_code(text, at)
            else:
                at = self._read_words(text, at)
        if text:
            self._previous = text[-1]

    @property
    def in_block(self) -> bool:
        """Whether a code block is open. Exact where the text does not end in a mark, like the next three."""
        return self._block is not None

    @property
    def has_content(self) -> bool:
        """Whether a code block is open and has content already."""
        return self._block is not None and self._block.has_content

    @property
    def is_plain(self) -> bool:
        """See `Open.plain`."""
        return self._block is None and not self._spans and not (self._in_line and self._line_start)

    @property
    def closing_length(self) -> int:
        """How many characters `Open.closing` has, but for a fence on a line of its own."""
        if self._block is not None:
            return len("> ") if self._block.in_quote else 0
        return sum(map(len, self._spans))

    @property
    def open(self) -> Open:
        """What is open here, as if the text ended here."""
        if self._run_length or self._prefix or self._tag is not None:
            ended = copy.copy(self)
            ended._spans = self._spans.copy()
            ended._end_pending()
            return ended._snapshot()
        return self._snapshot()

    def _snapshot(self) -> Open:
        return Open(self._block, tuple(self._spans), self._line_start, self._whole_quote, self._in_line)

    def _end_pending(self) -> None:
        if self._run_length:
            self._end_run("")
        if self._prefix:
            self._end_prefix()
        if self._tag is not None:
            self._end_tag("")

    # Lines

    def _end_line(self) -> None:
        if self._is_blank:
            self._spans.clear()  # emphasis seldom outlives its paragraph; a mark without an end must not either
        elif self._spans and self._spans[-1].startswith("`"):
            self._spans.pop()
        if self._block is not None and self._block.one_line:
            self._block = self._tag = None
        self._line_start = ""
        self._in_line = False
        self._is_blank = True
        self._prefix = "" if self._block is None or self._block.in_quote else None

    def _read_prefix(self, text: str, at: int) -> int:
        """Take in what may be the beginning of a quote or a heading."""
        assert self._prefix is not None  # noqa: S101
        found = _PREFIX_PART.match(text, at, at + _LONGEST_PREFIX - len(self._prefix))
        assert found is not None  # noqa: S101
        self._prefix += found[0]
        self._in_line = self._in_line or bool(self._prefix)
        if found.end() == len(text) and len(self._prefix) < _LONGEST_PREFIX:
            return found.end()
        self._end_prefix()
        return found.end()

    def _end_prefix(self) -> None:
        prefix, self._prefix = self._prefix or "", None
        place, quote, heading = 0, "", ""
        if not self._whole_quote:
            if found := _WHOLE_QUOTE.match(prefix):
                self._whole_quote, place = True, found.end()
            elif found := _QUOTE.match(prefix):
                quote, place = "> ", found.end()
        if found := _HEADING.match(prefix, place):
            heading, place = f"{found[1]} ", found.end()
        self._line_start = quote + heading
        self._is_blank = not prefix.strip()
        if self._block is not None and not quote:
            self._block = self._tag = None  # the quote is over, and its block was none

    # Words

    def _read_words(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            if not _is_escapable(text[at]):
                return at
            self._note(text, at, at + 1)
            return at + 1
        while (found := _MARK.search(text, at)) is not None:
            end = found.start()
            if end > at:
                self._note(text, at, end)
            at = end + 1
            if found[0] != "\n":
                self._begin_mark(found[0], self._character_before(text, end))
                return at
            self._end_line()
            if at == len(text) or text[at] in _PREFIX_CHARACTERS:
                return at
            self._prefix = None
        self._note(text, at, len(text))
        return len(text)

    def _begin_mark(self, mark: str, before: str) -> None:
        self._in_line, self._is_blank = True, False
        if mark != "\\":
            self._run_mark, self._run_length, self._before_run = mark, 1, before
        elif not self._in_inline_code:
            self._escaped = True

    def _note(self, text: str, at: int, end: int) -> None:
        self._in_line = True
        self._is_blank = self._is_blank and text[at:end].isspace()

    def _character_before(self, text: str, at: int) -> str:
        return text[at - 1] if at else self._previous

    @property
    def _in_inline_code(self) -> bool:
        return bool(self._spans) and self._spans[-1].startswith("`")

    # Runs of a mark

    def _read_run(self, text: str, at: int) -> int:
        found = _RUNS[self._run_mark].match(text, at)
        if found is not None:
            self._run_length += found.end() - at
            at = found.end()
        if at < len(text):
            self._end_run(text[at])
        return at

    def _end_run(self, after: str) -> None:
        """A run of marks has ended, before this character."""
        mark, length = self._run_mark, self._run_length
        self._run_mark, self._run_length = "", 0
        if self._block is not None:
            self._end_run_in_code(length)
        elif mark == "`":
            self._backticks(length)
        elif not self._in_inline_code:
            self._emphasis(mark, length, self._before_run, after)

    def _backticks(self, length: int) -> None:
        """So many backticks, outside a block."""
        if self._in_inline_code:
            if length == len(self._spans[-1]):
                self._spans.pop()
                return
            if length < len(FENCE):
                return
            self._spans.pop()  # it had no end: it was a backtick, and this may be a block
        length %= _CONTENT_ENDS_RUN
        if length >= len(FENCE):
            self._spans.clear()
            has_content = length > len(FENCE)
            heading = self._line_start.removeprefix("> ")
            quoted = self._line_start.startswith("> ")
            self._block = CodeBlock("", has_content, in_quote=quoted, one_line=bool(heading))
            self._tag = None if has_content else ""
        elif length:
            self._spans.append("`" * length)

    def _emphasis(self, mark: str, length: int, before: str, after: str) -> None:
        if mark in "~|":
            if not 2 <= length <= (3 if mark == "|" else 2):
                return
            length = 2
        elif length > _LONGEST_EMPHASIS:
            return
        spoiler = mark == "|"
        opens = spoiler or (bool(after) and not after.isspace() and not (mark == "_" and before.isalnum()))
        closes = spoiler or (not before.isspace() and not (mark == "_" and after.isalnum()))
        while length:
            if closes and (place := self._last_span(mark, length)) is not None:
                length -= len(self._spans[place])
                del self._spans[place:]
            else:
                one = mark * min(length, 2)
                if opens and one not in self._spans:
                    self._spans.append(one)
                length -= len(one)

    def _last_span(self, mark: str, longest: int) -> int | None:
        """The place of the innermost span of this mark that such a run can close."""
        for place in range(len(self._spans) - 1, -1, -1):
            if self._spans[place][0] == mark and len(self._spans[place]) <= longest:
                return place
        return None

    # Code blocks

    def _read_code(self, text: str, at: int) -> int:
        assert self._block is not None  # noqa: S101
        if self._tag is not None:
            return self._read_tag(text, at)
        lines_matter = self._block.in_quote or self._block.one_line
        if not self._block.has_content:
            if text[at] == "\n" and not lines_matter:
                self._in_line = False
                found = _LINE_ENDS.match(text, at)
                assert found is not None  # noqa: S101
                return found.end()
            if text[at] not in "\n`":
                self._block = replace(self._block, has_content=True)
        found = _BACKTICK_OR_LINE_END.search(text, at) if lines_matter else None
        end = (found.start() if found else -1) if lines_matter else text.find("`", at)
        self._in_line = text[(len(text) if end < 0 else end) - 1] != "\n" if end != at else self._in_line
        if end < 0:
            return len(text)
        if text[end] == "\n":
            self._end_line()
        else:
            self._in_line, self._is_blank = True, False
            self._run_mark, self._run_length, self._before_run = "`", 1, ""
        return end + 1

    def _read_tag(self, text: str, at: int) -> int:
        assert self._tag is not None  # noqa: S101
        found = _TAG.match(text, at)
        assert found is not None  # noqa: S101
        self._tag = (self._tag + found[0])[: _LONGEST_TAG + 1]
        if found.end() < len(text):
            self._end_tag(text[found.end()])
        return found.end()

    def _end_tag(self, after: str) -> None:
        """What may have been a language has ended, before this character."""
        assert self._block is not None and self._tag is not None  # noqa: S101
        tag, self._tag = self._tag, None
        if after == "\n":
            self._block = replace(self._block, tag=tag if len(tag) <= _LONGEST_TAG else "")
        elif tag:
            self._block = replace(self._block, has_content=True)

    def _end_run_in_code(self, length: int) -> None:
        assert self._block is not None  # noqa: S101
        if not self._block.has_content and length != len(FENCE):  # the first of them is content
            self._block = replace(self._block, has_content=True)
            length -= 1
        if length >= len(FENCE):
            self._block = None
            if length > len(FENCE):
                self._backticks(length - len(FENCE))


def _is_escapable(character: str) -> bool:
    """Whether a backslash before it takes away what it does: not letters of ASCII, digits and white space."""
    return not (character.isspace() or (character.isascii() and character.isalnum()))


def read(text: str, before: Open = NOTHING) -> Open:
    """What is open behind `text`, which begins where `before` is open."""
    reader = Reader(before)
    reader.feed(text)
    return reader.open


@dataclass(frozen=True, slots=True)
class Code:
    """What is code in a message.

    Attributes:
        regions: where each block and each piece of inline code begins and ends, marks included.
        open_block: whether a block begins that has content and no end.
    """

    regions: list[tuple[int, int]]
    open_block: bool


def code_in(message: str) -> Code:
    """What Discord takes for code in a whole message, as far as backticks and backslashes alone decide it.

    Emphasis, links, quotes and the like can keep it from being code; see `certain_code`.
    """
    return _CodeScan(message).run()


class _CodeScan:
    """Goes through the runs of backticks of a message once."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._runs = [(found.start(), found.end()) for found in _BACKTICKS.finditer(message)]
        self._starts_by_length: dict[int, list[int]] = defaultdict(list)
        for start, end in self._runs:
            self._starts_by_length[end - start].append(start)
        self._last_fence = message.rfind(FENCE)
        self._regions: list[tuple[int, int]] = []
        self._open_block = False

    def run(self) -> Code:
        at = 0  # what is before has been read
        for start, end in self._runs:
            if start >= at and self._is_escaped(start, at):
                at = start + 1
            start = max(start, at)
            while start < end:
                closed = self._end_of_code(start, end)
                if closed is None:
                    start = end
                else:
                    self._regions.append((start, closed))
                    at = start = closed
        return Code(self._regions, self._open_block)

    def _is_escaped(self, place: int, since: int) -> bool:
        if place == since or self._message[place - 1] != "\\":
            return False
        first = place
        while first > since and self._message[first - 1] == "\\":
            first -= 1
        return (place - first) % 2 == 1

    def _end_of_code(self, start: int, end: int) -> int | None:
        """Where the code ends that begins with the backticks from `start` to `end`; None if none does."""
        length = end - start
        if length >= len(FENCE):
            if closed := self._end_of_block(start):
                return closed
            has_content = bool(self._message[start + len(FENCE) :].strip("\n"))
            self._open_block |= has_content and self._next_run(length, end) is None
        return next(
            (
                place + ticks
                for ticks in range(length, 0, -1)
                if (place := self._next_run(ticks, end)) is not None
            ),
            None,
        )

    def _next_run(self, length: int, after: int) -> int | None:
        starts = self._starts_by_length.get(length, [])
        index = bisect_right(starts, after)
        return starts[index] if index < len(starts) else None

    def _end_of_block(self, start: int) -> int | None:
        """Where the block ends that a fence at `start` begins: behind the first fence after a character of content."""
        begin = start + len(FENCE)
        tag = _TAG_LINE.match(self._message, begin)
        for first in (begin if tag is None else tag.end(), begin):
            line_ends = _LINE_ENDS.match(self._message, first)
            content = first if line_ends is None else line_ends.end()
            if content < self._last_fence:
                return self._message.index(FENCE, content + 1) + len(FENCE)
        return None
