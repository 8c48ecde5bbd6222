"""Removes characters that hide or reverse text, and keeps those that writing needs. Pure.

Removed: control characters, terminal escape sequences, characters that nobody can see, embeddings and overrides of
direction (Unicode Standard Annex #9), and tag characters and variation selectors that belong to nothing: they can carry
a message that people do not see and programs do.

Kept, since real writing has them: joiners between emoji and in scripts that join their letters, one variation selector
behind a character, the tags of well-formed flags (England, Scotland, Wales: Unicode Technical Standard #51), and marks
and isolates of direction on a line that has right-to-left letters.
"""

from __future__ import annotations

import json

import regex

ISOLATE_LOOKAHEAD = 64  # characters: how far a right-to-left letter may be behind an isolate that it needs
ESCAPE_LOOKAHEAD = 256  # characters: an escape sequence that is longer is none

_BLACK_FLAG = "\U0001f3f4"
_ISOLATES, _END_OF_ISOLATE = "\u2066\u2067\u2068", "\u2069"
_MARKS = "\u200e\u200f"
_JOINERS = "\u200c\u200d"
_DEEPEST_ISOLATE = 8

# Anything that needs a look, so that most text is passed on as it is. \p{Cs} and \p{Cn}: halves of characters, and
# what is no character. \p{Cf} has the tags, the joiners, the marks of direction and the other invisible ones.
_SUSPECT = regex.compile(
    r"[^\P{Cc}\n\t]|[\p{Cf}\p{Cs}\p{Noncharacter_Code_Point}\p{Variation_Selector}"
    r"\u034f\u115f\u1160\u17b4\u17b5\u2028\u2029\u3164\uffa0\U0001f3f4]"
)
_RIGHT_TO_LEFT = regex.compile(
    r"[[\p{bc=R}\p{bc=AL}]&&\p{L}]", regex.V1
)  # the class has what is unassigned, too
_LINE_OR_ESCAPE = regex.compile(
    r"[\n\x1b\x90\x98\x9b\x9d-\x9f]"
)  # behind it comes what is removed, or another line
# ECMA-48: control sequences end with a letter or a mark, strings with BEL or ST.
_ESCAPE = regex.compile(
    r"(?:\x1b\[|\x9b)[\x30-\x3f]*[\x20-\x2f]*[\x40-\x7e]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x90\x98\x9c-\x9f\n]*(?:\x07|\x9c|\x1b\\)"
    r"|\x1b[\x20-\x2f]*[\x30-\x4f\x51-\x57\x59\x5a\x5c\x60-\x7e]"
)
_FLAG = regex.compile(_BLACK_FLAG + r"[\U000e0061-\U000e007a\U000e0030-\U000e0039]{3,6}\U000e007f")
_JOINS = regex.compile(
    r"[\p{Extended_Pictographic}\p{Emoji_Modifier}\ufe0f\p{Arabic}\p{Syriac}\p{Mandaic}\p{Mongolian}\p{Nko}"
    r"\p{Phags_Pa}\p{Manichaean}\p{Devanagari}\p{Bengali}\p{Gurmukhi}\p{Gujarati}\p{Oriya}\p{Tamil}\p{Telugu}"
    r"\p{Kannada}\p{Malayalam}\p{Sinhala}\p{Tibetan}\p{Myanmar}\p{Khmer}\p{Tai_Tham}\p{Balinese}\p{Javanese}"
    r"\p{Adlam}\p{Hanifi_Rohingya}\p{Sogdian}\p{Newa}\p{Chakma}\p{Tirhuta}\p{Limbu}\p{Grantha}\p{Sundanese}]"
)
# Format characters that can be seen: signs of Arabic numbers and verses, Syriac's and Kaithi's.
_VISIBLE_FORMAT = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
_HAN = regex.compile(r"\p{Han}")
_VOWEL_SEPARATOR, _MONGOLIAN = "\u180e", regex.compile(r"\p{Mongolian}")
_SPACE_OR_SELECTOR = regex.compile(r"[\s\p{Variation_Selector}]")
_SELECTOR = regex.compile(r"\p{Variation_Selector}")
# Whatever cannot be seen, as far as it is no space.
_UNSEEN = regex.compile(
    r"[^\P{C}\n]|[\p{Variation_Selector}\u034f\u115f\u1160\u17b4\u17b5\u2028\u2029\u3164\uffa0]"
)


class CharacterFilter:
    """Feed it text as it arrives; it returns what may be shown. Holds back a few characters that are undecided."""

    def __init__(self) -> None:
        self._held = ""
        self._previous = ""  # the last character that was kept
        self._right_to_left = False  # whether the line has right-to-left letters so far
        self._isolates = 0  # how many are open on this line

    def feed(self, text: str) -> str:
        """The part of the text that may be shown."""
        return self._filter(text, final=False)

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        return self._filter("", final=True)

    def _filter(self, text: str, *, final: bool) -> str:
        text, self._held = self._held + text, ""
        kept: list[str] = []
        place = 0
        while (suspect := _SUSPECT.search(text, place)) is not None:
            self._keep(text[place : suspect.start()], kept)
            end = self._look_at(text, suspect.start(), final, kept)
            if end is None:
                self._held = text[suspect.start() :]
                return "".join(kept)
            place = end
        self._keep(text[place:], kept)
        return "".join(kept)

    def _keep(self, text: str, kept: list[str]) -> None:
        if not text:
            return
        kept.append(text)
        self._previous = text[-1]
        _, newline, line = text.rpartition("\n")
        if newline:
            self._isolates, self._right_to_left = 0, False
        self._right_to_left = self._right_to_left or _RIGHT_TO_LEFT.search(line) is not None

    def _look_at(self, text: str, place: int, final: bool, kept: list[str]) -> int | None:
        """Decide on the suspect at a place. Returns where to go on; None to wait for more text."""
        character = text[place]
        if character in "\x1b\x9b\x9d\x90\x98\x9e\x9f":
            return _behind(_ESCAPE, text, place, ESCAPE_LOOKAHEAD, final)
        if character == _BLACK_FLAG:
            end = _behind(_FLAG, text, place, 8, final)
            if end is not None:
                self._keep(text[place:end], kept)
            return end
        if character in _ISOLATES or character in _MARKS:
            needed = self._right_to_left or _has_right_to_left(text, place + 1, final)
            if needed is None:
                return None
            if needed and (character in _MARKS or self._isolates < _DEEPEST_ISOLATE):
                self._isolates += character in _ISOLATES
                if character != self._previous:
                    self._keep(character, kept)
        elif character == _END_OF_ISOLATE:
            if self._isolates:
                self._isolates -= 1
                self._keep(character, kept)
        elif self._belongs(character):
            self._keep(character, kept)
        return place + 1

    def _belongs(self, character: str) -> bool:
        """Whether a character is a part of what was written before it."""
        if character in _JOINERS:
            return _JOINS.match(self._previous) is not None
        if _SELECTOR.match(character):
            if character > "\uffff":
                return _HAN.match(self._previous) is not None
            return bool(self._previous) and _SPACE_OR_SELECTOR.match(self._previous) is None
        if character == _VOWEL_SEPARATOR:
            return _MONGOLIAN.match(self._previous) is not None
        return character in _VISIBLE_FORMAT


def _behind(pattern: regex.Pattern[str], text: str, place: int, lookahead: int, final: bool) -> int | None:
    """The end of the sequence at a place; if there is none, of its first character; None if there may be one yet."""
    end = min(len(text), place + lookahead)
    found = pattern.match(text, place, end, partial=not final and end == len(text))
    if found is None:
        return place + 1
    return None if found.partial else int(found.end())


def _has_right_to_left(text: str, place: int, final: bool) -> bool | None:
    """Whether right-to-left letters follow soon on the line; None if they may yet come."""
    found = _LINE_OR_ESCAPE.search(text, place, place + ISOLATE_LOOKAHEAD)
    end = place + ISOLATE_LOOKAHEAD if found is None else found.start()
    if _RIGHT_TO_LEFT.search(text, place, end) is not None:
        return True
    return False if final or found is not None or len(text) >= end else None


def without_hidden_characters(text: str) -> str:
    """A whole text without what hides or reverses text."""
    characters = CharacterFilter()
    return characters.feed(text) + characters.flush()


def with_escapes(text: str) -> str:
    """The same text, exact and for people who look closely: what cannot be seen is written as JSON escapes it."""
    return str(_UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], text))
