"""Puts what Discord does not render into what it does: deep headings and tables. Pure.

Discord knows headings of one to three `#`, and no tables (`docs/discord-markdown.md`). A heading of four to six becomes
one of three. Each row of a table becomes an entry of a list that names its columns, so that it can be read wherever a
message ends, and can be shown as soon as the row is there. What is kept of an answer stays as the model wrote it.
"""

from __future__ import annotations

import re
from itertools import zip_longest

from bot.replies.harmless import with_plain_links
from bot.replies.markdown import FENCE, Reader

_LONGEST_ROW = 1_000  # characters; a longer line is no row
_LONGEST_NAME = 24  # characters of a column's name, which is repeated in each row

_UNDECIDED = re.compile(r" {0,3}(?:> ?)?#{0,6}\Z")
_DEEP_HEADING = re.compile(r"\A( {0,3}(?:> )?)#{4,6}(?= )")
_NEEDS_LOOK = re.compile(r"^ {0,3}(?:> ?)?(?:[#|]|\Z)(?<!\n)", re.M)  # not an empty line
_ROW = re.compile(r" {0,3}(?P<quote>> ?)?\|")
_RULE_CELL = re.compile(r" *:?-+:? *\Z")
_BETWEEN_CELLS = re.compile(r"(?<!\\)\|")
_LINE_BREAK = re.compile(r"<br */?>", re.I)
_WHOLE_QUOTE = re.compile(r"^ *>>> +", re.M)


class DialectFilter:
    """Feed it text as it arrives; it returns what Discord renders. Holds back a line that may belong to a table."""

    def __init__(self) -> None:
        self._reader = Reader()  # of what was returned
        self._line = ""  # what is held back of the line that grows
        self._passing = False  # what is left of the line is passed on as it comes
        self._header = ""  # a line that is the header of a table if the next one is a rule
        self._columns: list[str] | None = None  # the names of a table's columns, while there is one
        self._has_rows = False
        self._is_quoted = False  # the table

    def feed(self, text: str) -> str:
        """More of the text; what may be shown."""
        shown: list[str] = []
        at = 0
        while at < len(text):
            if not (self._line or self._passing or self._header or self._columns is not None):
                at = self._pass_lines(text, at, shown)
            if at == len(text):
                break
            end = text.find("\n", at) + 1 or len(text)
            self._line += text[at:end]
            at = end
            if self._passing:
                self._pass_on(shown)
            else:
                self._look(shown)
        return "".join(shown)

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        shown: list[str] = []
        if _ROW.match(self._line) and not self._passing and len(self._line) <= _LONGEST_ROW:
            self._take_row(shown)
        self._end_table(shown)
        self._pass_on(shown)
        return "".join(shown)

    def go_on(self) -> None:
        """What was fed so far has been shown, what was held back too: begin behind it, in the same table."""
        if self._line and not self._passing:
            self._line, self._passing = "", True
        self._header = ""

    def _pass_lines(self, text: str, at: int, shown: list[str]) -> int:
        """Pass on the lines that need no look; where the first one begins that does. `at` is at the begin of a line."""
        found = _NEEDS_LOOK.search(text, at)
        end = len(text) if found is None else found.start()
        if end > at:
            self._put(text[at:end], shown)
            self._passing = text[end - 1] != "\n"
        return end

    def _look(self, shown: list[str]) -> None:
        """Decide on a line, if enough of it is there."""
        line = self._line
        is_whole = line.endswith("\n")
        if self._reader.in_block:
            self._pass_on(shown)
        elif _ROW.match(line) and FENCE not in line and len(line) <= _LONGEST_ROW:
            if is_whole:
                self._take_row(shown)
        elif is_whole or _UNDECIDED.match(line) is None:
            self._end_table(shown)
            self._line = _DEEP_HEADING.sub(r"\1###", line)
            self._pass_on(shown)

    def _pass_on(self, shown: list[str]) -> None:
        line, self._line = self._line, ""
        self._passing = bool(line) and not line.endswith("\n")
        self._put(line, shown)

    def _put(self, text: str, shown: list[str]) -> None:
        if text:
            self._reader.feed(text)
            shown.append(text)

    def _take_row(self, shown: list[str]) -> None:
        """A whole line that begins with a bar."""
        if self._columns is not None and _is_quoted(self._line) == self._is_quoted:
            self._put_row(shown)
            return
        if self._columns is not None:
            self._end_table(shown)  # another table, in a quote or behind it
        if self._header and _is_rule_of(self._line, self._header):
            self._columns = [_name(cell) for cell in _cells(self._header)]
            self._is_quoted = _is_quoted(self._header)
            self._header = self._line = ""
            self._has_rows = False
        else:
            self._put(self._header, shown)
            self._header, self._line = self._line, ""

    def _put_row(self, shown: list[str]) -> None:
        line, self._line = self._line, ""
        named = zip_longest(self._columns or (), _cells(line), fillvalue="")
        cells = [f"{name}: {cell}" if name else cell for name, cell in named if cell]
        self._has_rows = True
        if cells:
            quote = "> " * self._is_quoted
            self._put(f"{quote}- {' · '.join(cells)}" + "\n" * line.endswith("\n"), shown)

    def _end_table(self, shown: list[str]) -> None:
        self._put(self._header, shown)
        if self._columns is not None and not self._has_rows:
            quote = "> " * self._is_quoted
            self._put(quote + " · ".join(name for name in self._columns if name) + "\n", shown)
        self._header, self._columns = "", None


def _is_quoted(row: str) -> bool:
    found = _ROW.match(row)
    return found is not None and bool(found["quote"])


def _cells(row: str) -> list[str]:
    """What stands between the bars of a row, which may be in a quote."""
    found = _ROW.match(row)
    inside = row[found.end() :].strip() if found else row.strip()
    if inside.endswith("|") and not inside.endswith("\\|"):
        inside = inside[:-1]
    cells = _BETWEEN_CELLS.split(inside)
    return [_LINE_BREAK.sub("; ", cell).replace("\\|", "|").strip() for cell in cells]


def _is_rule_of(row: str, header: str) -> bool:
    """Whether this is the line between a table's header and its rows."""
    cells = _cells(row)
    matches = len(cells) == len(_cells(header)) and _is_quoted(row) == _is_quoted(header)
    return matches and all(map(_RULE_CELL.match, cells))


def _name(cell: str) -> str:
    plain = cell.strip("*_` ")
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[: _LONGEST_NAME - 1].rstrip()}…"


def with_ending_quote(content: str) -> str:
    """A message in which the quote that goes on to its end (">>> ") is one of lines ("> "), so that what is put under
    it is not quoted."""
    if ">>> " not in content:
        return content
    reader, at, since = Reader(), 0, 0
    while (found := _WHOLE_QUOTE.search(content, since)) is not None:
        reader.feed(content[at : found.start()])
        at = found.start()
        if not reader.in_block:
            quoted = content[found.end() :].split("\n")
            return content[:at] + "\n".join(f"> {line}" for line in quoted)
        since = content.find(FENCE, at)  # it lasts until there at least
        if since < 0:
            break
    return content


def under(content: str, note: str) -> str:
    """A message with a note under it, outside a quote that would go on. What is code is judged anew: a backtick above
    may have its end in the note."""
    return with_plain_links(f"{with_ending_quote(content)}\n{note}") if note else content
