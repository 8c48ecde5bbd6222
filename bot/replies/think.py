"""Keeping a model's thinking apart from its answer. Pure, no I/O.

Models that reason write it between `<think>` and `</think>` before they answer. The tags may come in pieces, and the
second one not at all. A tag counts at the start of a line only, and not in a code block: an answer may well be about
such tags.
"""

from __future__ import annotations

import re

from bot.replies.markdown import Open, Reader

_OPENING, _CLOSING = "<think>", "</think>"
_BLANK = re.compile(r"[^\S\n]*")


class ThinkFilter:
    """Feed it what the model writes; it gives what belongs to the answer. It looks at each character once.

    Attributes:
        thinking: whether the model is thinking now.
    """

    def __init__(self) -> None:
        self.thinking = False
        self._thoughts: list[str] = []  # no white space at the beginning
        self._after_thought = False  # the line ends behind a thought belong to it
        self._held = ""  # what may be the beginning of a tag, and is shorter than one
        self._blank: list[str] = []  # white space at the start of the answer's line: it may be before a tag
        self._line_begins = True  # nothing but white space is in the answer's line
        self._reader = Reader()  # has read the answer

    @property
    def thoughts(self) -> str:
        """What was thought so far."""
        self._thoughts = ["".join(self._thoughts)]
        return self._thoughts[0]

    @property
    def has_thoughts(self) -> bool:
        """Whether something was thought so far."""
        return any(self._thoughts)

    @property
    def open(self) -> Open:
        """What is open behind the answer so far."""
        return self._reader.open

    @property
    def steps(self) -> int:
        """How many characters of the answer were read for what is open in it."""
        return self._reader.steps

    def feed(self, text: str) -> str:
        """The part of `text` that is certain to be answer."""
        text, self._held = self._held + text, ""
        answer: list[str] = []
        at = 0
        while at < len(text):
            at = self._think(text, at) if self.thinking else self._speak(text, at, answer)
        return "".join(answer)

    def flush(self) -> str:
        """What was held back, at the end: it was no tag after all."""
        held, self._held = self._held, ""
        if self.thinking:
            self._add_thought(held)
            return ""
        held = "".join((*self._blank, held))
        self._blank = []
        self._line_begins = self._line_begins and not held.strip()
        self._reader.feed(held)
        return held

    def forget_thoughts(self) -> None:
        """Go on as if nothing had been thought so far."""
        self._thoughts = []

    def _think(self, text: str, at: int) -> int:
        """Take in thoughts from there; where they end."""
        end = text.find(_CLOSING, at)
        if end >= 0:
            self._add_thought(text[at:end])
            self._end_thought()
            return end + len(_CLOSING)
        kept = _beginning_of(_CLOSING, text, at)
        self._add_thought(text[at : len(text) - kept])
        self._held = text[len(text) - kept :]
        return len(text)

    def _add_thought(self, text: str) -> None:
        if not self._thoughts:
            text = text.lstrip()
        if text:
            self._thoughts.append(text)

    def _end_thought(self) -> None:
        self.thinking = False
        self._after_thought = True
        self._line_begins = True
        while self._thoughts:
            last = self._thoughts.pop().rstrip()
            if last:
                self._thoughts.append(last)
                break

    def _speak(self, text: str, at: int, answer: list[str]) -> int:
        """Take in answer from there, up to the end of a line or to a tag; where that is."""
        if self._after_thought:
            if text[at] == "\n":
                return at + 1
            self._after_thought = False
        if self._line_begins and not self._reader.in_block:
            blank = _BLANK.match(text, at)
            assert blank is not None  # noqa: S101
            if blank[0]:
                self._blank.append(blank[0])
            at = blank.end()
            if text.startswith(_OPENING, at):
                self.thinking, self._blank = True, []
                return at + len(_OPENING)
            if _OPENING.startswith(text[at : at + len(_OPENING)]):
                self._held = text[at:]
                return len(text)
        end = text.find("\n", at) + 1 or len(text)
        line = "".join((*self._blank, text[at:end]))
        self._blank = []
        answer.append(line)
        self._reader.feed(line)
        self._line_begins = line.endswith("\n") or (self._line_begins and line.isspace())
        return end


def _beginning_of(tag: str, text: str, since: int) -> int:
    """How many characters at the end of the text may be the beginning of the tag."""
    most = min(len(tag) - 1, len(text) - since)
    return next((n for n in range(most, 0, -1) if tag.startswith(text[-n:])), 0)


def thoughts_in(text: str) -> str:
    """All that was thought in a whole text."""
    return _apart(text)[0].strip()


def without_thoughts(text: str) -> str:
    """What was said in a whole text."""
    return _apart(text)[1].strip()


def _apart(text: str) -> tuple[str, str]:
    think = ThinkFilter()
    said = think.feed(text) + think.flush()
    return think.thoughts, said
