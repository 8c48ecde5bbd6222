"""Keeping a model's thinking apart from its answer. Pure, no I/O.

Models that reason write it between `<think>` and `</think>` before they answer. The tags may come in pieces, and the
second one not at all. A tag counts at the start of a line only, and not in a code block: an answer may well be about
such tags.
"""

from __future__ import annotations

from bot.replies.markdown import Open, read

_OPENING, _CLOSING = "<think>", "</think>"


class ThinkFilter:
    """Feed it what the model writes; it gives what belongs to the answer.

    Attributes:
        thoughts: what was thought so far.
        thinking: whether the model is thinking now.
    """

    def __init__(self) -> None:
        self.thoughts = ""
        self.thinking = False
        self._after_thought = False  # the line ends behind a thought belong to it
        self._held = ""  # what may be the beginning of a tag
        self._line = ""  # the answer's last line so far
        self._open = Open()  # what is open in the answer before that line

    def feed(self, text: str) -> str:
        """The part of `text` that is certain to be answer."""
        text = self._held + text
        self._held = ""
        answer = ""
        while text:
            text, part = self._think(text) if self.thinking else self._speak(text)
            answer += part
        return answer

    def flush(self) -> str:
        """What was held back, at the end: it was no tag after all."""
        held, self._held = self._held, ""
        if self.thinking:
            self.thoughts += held
            return ""
        return held

    def _think(self, text: str) -> tuple[str, str]:
        """Take thoughts from the front; what is left, and no answer."""
        thought, tag, rest = text.partition(_CLOSING)
        if tag:
            self.thinking = False
            self.thoughts = (self.thoughts + thought).strip()
            self._after_thought = True
            return rest, ""
        kept = _beginning_of(_CLOSING, text)
        self.thoughts += text[: len(text) - kept]
        self._held = text[len(text) - kept :]
        return "", ""

    def _speak(self, text: str) -> tuple[str, str]:
        """Take answer from the front, up to the end of a line or to a tag; what is left, and that."""
        if self._after_thought:
            text = text.lstrip("\n")
            self._after_thought = not text
        line, newline, rest = text.partition("\n")
        if not self._line.strip() and self._open.fence is None:
            begun = line.lstrip()
            if begun.startswith(_OPENING):
                self.thinking = True
                return begun[len(_OPENING) :] + newline + rest, ""
            if not newline and _OPENING.startswith(begun):  # nothing but white space may be before a tag too
                self._held = line
                return "", ""
        self._line += line
        if newline:
            self._open = read(self._line + newline, self._open)
            self._line = ""
        return rest, line + newline


def _beginning_of(tag: str, text: str) -> int:
    """How many characters at the end of the text may be the beginning of the tag."""
    return next((n for n in range(min(len(tag) - 1, len(text)), 0, -1) if tag.startswith(text[-n:])), 0)


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
