"""Which parts of a message Discord shows as code, whatever else is in the message. Pure.

Backticks alone do not make code. Discord tries one rule after the other at each place. Bold words, a spoiler, a link or
a quote that begin before a backtick and end behind it keep it from being a mark. `docs/discord-markdown.md` has the
rules. Here a part counts as code only where none of them can reach into it. From the first doubt on nothing counts.
"""

from __future__ import annotations

import re

from bot.replies.markdown import code_in

# In this order: what is one piece to Discord, what one character does, runs of marks.
_TOKEN = re.compile(
    r"(?P<escape>\\[^0-9A-Za-z\s])"
    r"|(?P<url>(?:https?|steam)://[^\s<]{2,})"
    r"|(?P<number><\\@[!&]?\d+>)"  # what `harmless` makes of a mention
    r"|(?P<angle><[^ >\n]*\n?)"
    r"|(?P<emoji>:[^\s:]+(?=:))"
    r"|(?P<run>\*+|_+|~~+|\|\|+)"
    r"|(?P<bracket>[\[\]])"
    r"|(?P<line>\n)"
    r"|(?P<arms>¯)"
)
_MARKS = re.compile(r"[*_~|\[\]\\\n]")
_URL_MARKS = re.compile(r"[\[\]\\]")
_LINE = re.compile(
    r"(?P<indent> *)(?:>>> +)?(?: *(?:(?P<bound>>|#{1,3} |-# )|(?P<item>[-*+•] |\d+[.)] )))?(?P<rest>[^\n]?)"
)
_SIMPLE_TARGET = re.compile(r"\]\([^][()<:`*_~|\\\s]*\)")
# What makes a masked link, up to the scheme of its target; Discord takes backslashes out of a target.
LINK_TARGET = re.compile(r"\]\((?=[^][A-Za-z0-9()+.\-\\]*[A-Za-z0-9+.\-\\]+:)")


class Labels:
    """Where the beginning of a link is whose label ends here.

    A label may hold brackets in pairs, and a "]" alone if the next bracket is another "]".
    """

    def __init__(self) -> None:
        # The first of the places where a label may begin that goes on: outside brackets in it, inside of them, and
        # behind a "]" that may have been its end.
        self._outside: int | None = None
        self._inside: int | None = None
        self._behind_end: int | None = None

    def read(self, bracket: str, place: int, *, begins: bool) -> int | None:
        """Read a bracket; where the longest label begins that may end with it, if one may.

        Args:
            bracket: "[" or "]".
            place: where it is.
            begins: whether a label can begin with it.
        """
        if bracket == "[":
            self._inside = _first(self._inside, self._outside)
            self._outside, self._behind_end = place if begins else None, None
            return None
        ends = _first(self._outside, self._behind_end)
        self._behind_end, self._outside, self._inside = ends, self._inside, None
        return ends


def _first(*places: int | None) -> int | None:
    return min((place for place in places if place is not None), default=None)


class _Surroundings:
    """What was read of a message outside its code, as far as it can keep something from being code.

    Attributes:
        label: where the first label begins of the links without a scheme that end in the part that was read last. Such
            a link is one piece to Discord: what looks like code in it is none.
    """

    def __init__(self, message: str) -> None:
        self.label: int | None = None
        self._message = message
        self._spans: list[str] = []  # which may be open, outermost first
        self._in_doubt = False
        self._labels = Labels()
        self._in_list = self._ends_with_line = False
        self._begin_line(0)

    def read(self, begin: int, end: int) -> None:
        """Read a part without code."""
        self.label = None
        for found in _TOKEN.finditer(self._message, begin, end):
            kind, token = str(found.lastgroup), found[0]
            if kind == "run":
                self._run(token, found.start(), found.end())
            elif kind == "bracket":
                self._bracket(token, found.start(), end, begins=True)
            elif kind == "line":
                self._in_doubt |= self._ends_with_line and bool(self._spans)
                self._begin_line(found.end())
            elif kind == "escape":
                self._in_doubt |= token[1] in "~|"  # strikes and spoilers know no backslash
                if token[1] in "[]":
                    self._bracket(token[1], found.end() - 1, end, begins=False)
            elif kind == "url":
                self._in_doubt |= bool((_MARKS if self._spans else _URL_MARKS).search(token))
            elif kind != "number":
                self._in_doubt |= kind == "arms" or bool(_MARKS.search(token))
        self._in_doubt |= _is_in_address(self._message[begin:end])

    def passes(self, begin: int, end: int) -> bool:
        """Read a part that may be code; whether it is for certain."""
        code = self._message[begin:end]
        lines = "\n" in code
        if self._in_doubt or (lines and self._ends_with_line):
            return False
        if any(span[0] in code for span in self._spans):
            return False
        for found in re.finditer(r"[\[\]]", code):
            label = self._labels.read(found[0], begin + found.start(), begins=False)
            if label is not None and code.startswith("(", found.end()):
                self.label = label
                return False
        if lines:
            self._in_list = self._ends_with_line = False
        return True

    def _bracket(self, bracket: str, place: int, end: int, *, begins: bool) -> None:
        label = self._labels.read(bracket, place, begins=begins)
        if label is None or not self._message.startswith("(", place + 1):
            return
        # One with a scheme before the next backtick will be no link any more. Any other is one piece to Discord, with
        # all marks in it.
        if not LINK_TARGET.match(self._message, place, end):
            self._in_doubt |= bool(self._spans) or not _SIMPLE_TARGET.match(self._message, place)
            self.label = _first(self.label, label)

    def _begin_line(self, place: int) -> None:
        found = _LINE.match(self._message, place)
        assert found is not None  # noqa: S101
        if found["item"]:
            self._in_list = True
        elif found["rest"] and not found["indent"]:
            self._in_list = False
        self._ends_with_line = bool(found["bound"]) or self._in_list

    def _run(self, run: str, begin: int, end: int) -> None:
        before, after = self._message[begin - 1 : begin] if begin else "", self._message[end : end + 1]
        top = self._spans[-1] if self._spans else ""
        if len(run) > 2:
            self._in_doubt = True
        elif run != top:
            self._in_doubt |= run in self._spans
            if run != "*" or (after and not _is_space(after)):
                self._spans.append(run)
        elif run == "*":
            if not _is_space(before) or not after or _is_space(after):
                self._spans.pop()
        elif run == "_":
            if not (after.isascii() and after.isalnum()):
                self._spans.pop()
        elif run == "~~" and after == "_":
            self._in_doubt = True
        else:
            self._spans.pop()


def _is_in_address(before: str) -> bool:
    """Whether what is behind this may belong to a link: one that is written out, or one in angle brackets."""
    angle = before.rfind("<")
    if angle >= 0 and " " not in before[angle:] and ">" not in before[angle:]:
        return True
    words = before[angle + 1 :].rsplit(None, 1)
    return bool(words) and not before[-1].isspace() and "://" in words[-1]


def _is_space(character: str) -> bool:
    return character.isspace() or character == "\ufeff"


def certain_code(message: str) -> list[tuple[int, int]]:
    """Where the parts begin and end that are code for certain, marks included."""
    regions: list[tuple[int, int]] = []
    code = code_in(message)
    surroundings = _Surroundings(message)
    at = 0
    for begin, end in code.regions:
        surroundings.read(at, begin)
        at = end
        _drop_since(surroundings.label, regions)
        if not surroundings.passes(begin, end):
            _drop_since(surroundings.label, regions)
            return regions
        regions.append((begin, end))
    surroundings.read(at, len(message))
    _drop_since(surroundings.label, regions)
    return regions


def _drop_since(place: int | None, regions: list[tuple[int, int]]) -> None:
    while regions and place is not None and place < regions[-1][0]:
        regions.pop()
