"""How a model marks its thoughts, and its answer as text in the one form that everything else knows.

Models mark their thoughts in many ways: tags in the text, special tokens that decoding drops, channels (gpt-oss), or an
opening tag that the chat template writes at the end of the prompt, so that the answer holds the closing one alone.
Whatever the model's way is, `AnswerText` gives `<think>` and `</think>`, each at the start of a line. Only the tags of
models that write these very tags stay as they were written, where they were written.

What an answer says about such tags stays text: a tag counts at the start of a line outside of code. A special token
always counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from bot.inference.detokenizer import IncrementalDetokenizer

OPENING, CLOSING = "<think>", "</think>"  # the form that everything else knows


class Tokenizer(Protocol):
    """What is asked of transformers' `PreTrainedTokenizerBase`."""

    chat_template: Any

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """The tokens that were added to the vocabulary, by id: each has `content` and `special`."""
        ...


@dataclass(frozen=True, slots=True)
class Marks:
    """What a model writes before a thought and behind it.

    Attributes:
        name: a line that stands between the opening mark and the thought, and is no part of it.
    """

    opening: str
    closing: str
    name: str = ""

    @property
    def are_canonical(self) -> bool:
        """Whether they are the form that everything else knows."""
        return (self.opening, self.closing) == (OPENING, CLOSING)


CANONICAL = Marks(OPENING, CLOSING)
HARMONY = Marks("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")
_HARMONY_ANSWER = "<|channel|>final<|message|>"
_HARMONY_TOKENS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>")

# Nobody begins an answer with these for another reason: they count at its beginning whatever the template says.
_UNMISTAKABLE = (
    Marks("<thinking>", "</thinking>"),
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker
    Marks("<seed:think>", "</seed:think>"),  # Seed-OSS
)
# These count where the template or the vocabulary has them.
_KNOWN = (
    *_UNMISTAKABLE,
    HARMONY,  # gpt-oss
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Marks("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Marks("<|channel>", "<channel|>", "thought\n"),  # Gemma 4
    Marks("<longcat_think>", "</longcat_think>"),
    Marks("◁think▷", "◁/think▷"),  # Kimi
    Marks("<thought>", "</thought>"),  # EXAONE Deep
    Marks("<reasoning>", "</reasoning>"),
    Marks("Here is my thought process:", "Here is my response:"),  # Granite 3.2
)
# What some models put around the answer that follows a thought: it is no part of the answer.
_AROUND_ANSWER = (
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<response>", "</response>"),  # Granite 3.3
    ("<answer>", "</answer>"),  # Hunyuan
)
_PROBE = "punchlineendofquestion"  # letters only: a template may change their case, or leave out all else
_BLANK = re.compile(r"[^\S\n]*")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class ThoughtMarks:
    """What a model's template and vocabulary say about its thoughts.

    Attributes:
        known: the marks that count at the start of any line; the first are those that the model's own template has.
        at_beginning: further marks that count at the beginning of an answer only.
        around_answer: pairs that stand around the answer behind a thought.
        controls: by id, the special tokens that are marks or parts of them. Decoding drops these.
        has_channels: whether the special tokens are those of gpt-oss.
        closings_in_template: what the template may cut an earlier answer at.
    """

    known: tuple[Marks, ...] = (CANONICAL,)
    at_beginning: tuple[Marks, ...] = _UNMISTAKABLE
    around_answer: tuple[tuple[str, str], ...] = ()
    controls: Mapping[int, str] | None = None
    has_channels: bool = False
    closings_in_template: tuple[str, ...] = ()

    @classmethod
    def find(cls, tokenizer: Tokenizer) -> ThoughtMarks:
        """What there is to know before the model has written anything."""
        template = str(tokenizer.chat_template or "")
        added = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
        special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        channels = {"<|channel|>", "<|message|>"} <= set(special.values())
        in_template = [one for one in _KNOWN if one.opening in template]
        in_vocabulary = [one for one in _KNOWN if one.opening in added and one not in in_template]
        if channels and HARMONY not in in_template:
            in_template.insert(0, HARMONY)
        known = (*in_template, *in_vocabulary, CANONICAL)
        if CANONICAL.closing in template:
            known = (CANONICAL, *known[:-1])
        literals = {text for one in known for text in (one.opening, one.closing)}
        literals |= {text for one in _UNMISTAKABLE for text in (one.opening, one.closing)}
        if channels:
            literals.update(_HARMONY_TOKENS)
        return cls(
            known=known,
            around_answer=tuple(
                pair for pair in _AROUND_ANSWER if pair[0] in template or pair[0].startswith("<|")
            ),
            controls={i: text for i, text in special.items() if text in literals},
            has_channels=channels,
            closings_in_template=tuple(
                one.closing for one in known if one.closing in template and not one.closing[0].isalpha()
            ),
        )

    def chosen(self, tokenizer: Tokenizer, override: str | tuple[str, str] | None) -> ThoughtMarks:
        """The same with what the catalogue says: "none", or the marks of this model."""
        if override is None:
            return self
        if isinstance(override, str):
            return replace(self, known=(), at_beginning=(), controls={}, has_channels=False)
        marks = Marks(*override)
        special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        others = () if marks.are_canonical else (CANONICAL,)
        return replace(
            self,
            known=(marks, *others),
            at_beginning=(),
            controls={i: text for i, text in special.items() if any(text in mark for mark in override)},
            has_channels=False,
        )

    def opened_by(self, render: Callable[[str], str | None]) -> Marks | None:
        """The marks of the thought that the rendered prompt leaves open, if it does.

        What people write opens no thought: only what the template writes behind the last question counts.

        Args:
            render: the prompt with this text added to the last question; None where that cannot be had.
        """
        prompt = render("")
        if prompt is None or not any(one.opening in prompt for one in self.known):
            return None
        marked = render(f"\n{_PROBE}") or ""
        behind = re.split(_PROBE, marked, flags=re.IGNORECASE)[-1]
        # A template may look at how a question ends ("/no_think"), and write something else behind the marked one.
        if behind != marked and prompt.endswith(behind):
            ends = {one: (behind.rfind(one.opening), behind.rfind(one.closing)) for one in self.known}
            opened = {one: opens for one, (opens, closes) in ends.items() if opens > closes}
            return max(opened, key=lambda one: opened[one], default=None)
        written = prompt.rstrip()
        return next((one for one in self.known if written.endswith(one.opening)), None)

    def as_written(self, said: str, opened: Marks | None) -> list[tuple[str, bool]]:
        """Pieces that, behind the prompt, are `said` in the model's own way, and whether each is a mark.

        A mark may be a special token; the other pieces are words, and hold none whatever they say.

        Args:
            said: the beginning of an answer, thoughts in the canonical form.
            opened: the marks of the thought that the prompt leaves open.
        """
        marks = opened or next(iter(self.known), CANONICAL)
        begun = said.lstrip()
        if not begun.startswith(OPENING):
            answer = [(said, False)] if said else []
            if opened is not None and said:
                return [("\n", False), (opened.closing, True), ("\n\n", False), *answer]
            return [(_HARMONY_ANSWER, True), *answer] if self.has_channels and said else answer
        thought, closing, rest = begun.removeprefix(OPENING).partition(CLOSING)
        if opened is not None or not marks.are_canonical:
            thought = thought.removeprefix("\n")  # it was put there behind the mark
        pieces = [] if opened is not None else [(marks.opening + marks.name, True)]
        pieces.append((thought, False))
        if closing:
            pieces += [(marks.closing, True), (rest, False)]
        return [(text, is_mark) for text, is_mark in pieces if text]

    def kept_whole(self, answer: str) -> str:
        """An earlier answer that the template finds no closing mark in: it would cut off what stands before it."""
        for closing in self.closings_in_template:
            answer = answer.replace(closing, f"{closing[0]}\\{closing[1:]}")
        return answer


UNTOLD = ThoughtMarks()  # a model that neither template nor vocabulary tells anything of


class AnswerText:
    """An answer's ids as text in the canonical form. It looks at each character a bounded number of times.

    Args:
        decode: ids to text, special tokens left out.
        marks: the model's.
        opened: the marks of the thought that the prompt leaves open.
        said: the ids that the answer goes on from; somebody has their text already.

    Attributes:
        said: these.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        marks: ThoughtMarks,
        opened: Marks | None = None,
        said: Sequence[int] = (),
    ) -> None:
        self.said = tuple(said)
        self._decode = decode
        self._detokenizer = IncrementalDetokenizer(decode)
        self._controls = marks.controls or {}
        self._reader = _Reader(marks, opened)
        self.feed(said)

    def feed(self, token_ids: Sequence[int]) -> str:
        """The text that these ids add."""
        given: list[str] = []
        for one in token_ids:
            if one in self._controls:
                given.append(self._take_control(one))
            else:
                given.append(self._reader.feed(self._detokenizer.feed((one,))))
        return "".join(given)

    def flush(self, *, cut: bool) -> str:
        """The rest, at the end.

        Args:
            cut: the model did not come to its end. Half a character, and what may be half a mark, are left out then:
                an answer that goes on from these ids gives them whole.
        """
        if cut:
            return ""
        return self._reader.feed(self._detokenizer.flush()) + self._reader.flush()

    def _take_control(self, token_id: int) -> str:
        rest = self._reader.feed(self._detokenizer.flush())
        self._detokenizer = IncrementalDetokenizer(self._decode)
        return rest + self._reader.control(self._controls[token_id])


class _Reader:
    """Text and special tokens of an answer, into text in the canonical form."""

    def __init__(self, marks: ThoughtMarks, opened: Marks | None) -> None:
        self._marks = marks
        self._takes_no_thoughts = not marks.known
        self._thought: Marks | None = opened  # the marks of the thought that is open
        self._is_announced = opened is None  # whether the opening mark of that thought was given
        self._thought_begins = opened is not None  # a model may write again what its prompt has opened
        self._name_begins = False  # what stands behind an opening mark may be its name
        self._answer_begins = True  # nothing but white space was said, or only a thought
        self._line_begins = True  # nothing but white space is in the answer's line
        self._given_line_begins = True  # what was given ends with a line
        self._around: str | None = None  # the mark behind the answer, where one stood before it
        self._header: list[str] | None = None  # of a channel
        self._held = ""  # what may be the beginning of a mark, and is shorter than one
        self._code = _CodeBlocks()

    def feed(self, text: str) -> str:
        """The text that is certain now."""
        if not text:
            return ""
        if self._header is not None:
            if len(self._header) < _HEADER_PIECES:
                self._header.append(text)
            return ""
        text, self._held = self._held + text, ""
        given: list[str] = []
        at = 0
        while at < len(text):
            at = self._speak(text, at, given) if self._thought is None else self._think(text, at, given)
        return self._gave(given)

    def flush(self) -> str:
        """What was held back, at the end: it was no mark after all."""
        return self._gave(self._take_held())

    def control(self, mark: str) -> str:
        """A special token that is a mark, or a part of one."""
        if self._is_part(mark):
            return self.feed(mark)
        given = self._take_held()
        if self._marks.has_channels and mark in _HARMONY_TOKENS:
            self._take_channel(mark, given)
        elif self._thought is None:
            opening = next(
                (one for one in (*self._marks.known, *self._marks.at_beginning) if one.opening == mark), None
            )
            if opening is not None:
                self._open(opening, given)
        elif mark == self._thought.closing:
            self._close(given)
        return self._gave(given)

    def _is_part(self, mark: str) -> bool:
        """Whether it is a part of a mark that is looked for now and is spelt in several tokens."""
        if self._marks.has_channels:
            return False
        looked_for = (
            [one.opening for one in self._marks.known] if self._thought is None else [self._thought.closing]
        )
        return mark not in looked_for and any(mark in one for one in looked_for)

    def _take_held(self) -> list[str]:
        held, self._held = self._held, ""
        if not held:
            return []
        return [held] if self._thought is None else [self._announced(), held]

    def _take_channel(self, mark: str, given: list[str]) -> None:
        if mark == "<|message|>":
            name = "".join(self._header or ()).split()
            self._header = None
            if name and name[0] != "final" and name[0] != "assistant":
                if self._thought is None:
                    self._open(HARMONY, given)
            elif self._thought is not None:
                self._close(given)
        elif mark in ("<|start|>", "<|channel|>"):
            self._header = []
        elif mark in ("<|end|>", "<|call|>") and self._thought is not None:
            self._close(given)

    def _open(self, marks: Marks, given: list[str]) -> None:
        self._begin(marks)
        if not self._ends_line(given):
            given.append("\n")
        given.append(f"{OPENING}\n")

    def _close(self, given: list[str]) -> None:
        if not self._is_announced:
            given.append(self._announced())
        elif not self._ends_line(given):
            given.append("\n")
        given.append(f"{CLOSING}\n")
        self._end_thought()

    def _end_thought(self) -> None:
        self._thought, self._thought_begins = None, False
        self._answer_begins = self._line_begins = True

    def _announced(self) -> str:
        """The opening mark of a thought that the prompt has opened, the first time."""
        if self._is_announced:
            return ""
        self._is_announced = True
        return f"{OPENING}\n"

    def _think(self, text: str, at: int, given: list[str]) -> int:
        """Take in a thought from there; where it ends."""
        marks = self._thought
        assert marks is not None  # noqa: S101
        if self._thought_begins:
            begun = _end_of(_SPACE, text, at)
            if text.startswith(marks.opening, begun):
                self._thought_begins, self._name_begins = False, bool(marks.name)
                return begun + len(marks.opening)
            if begun == len(text) or _may_become(marks.opening, text, begun):
                self._held = text[begun:]
                return len(text)
            self._thought_begins = False
        if self._name_begins:
            if _may_become(marks.name, text, at):
                self._held = text[at:]
                return len(text)
            self._name_begins = False
            if text.startswith(marks.name, at):
                return at + len(marks.name)
        given.append(self._announced())
        stops = (marks.closing, CLOSING)
        stop = _any_of(stops).search(text, at)
        if stop is None:
            kept = max(_beginning_of(one, text, at) for one in stops)
            given.append(text[at : len(text) - kept])
            self._held = text[len(text) - kept :]
            return len(text)
        given.append(text[at : stop.start()])
        if stop[0] != marks.closing:
            given.append(f"{CLOSING[0]}\\{CLOSING[1:]}")  # it only speaks of that tag
        elif marks.are_canonical:
            given.append(CLOSING)
            self._end_thought()
        else:
            self._close(given)
        return stop.end()

    def _speak(self, text: str, at: int, given: list[str]) -> int:
        """Take in the answer from there, up to the end of a line or to a mark; where that is."""
        if self._line_begins and not self._code.is_open:
            begun = _end_of(_BLANK, text, at)
            given.append(text[at:begun])
            at = begun
            if (taken := self._take_mark(text, at, given)) is not None:
                return taken
        end = text.find("\n", at) + 1 or len(text)
        line = text[at:end]
        if self._around:
            found = line.find(self._around)
            if found >= 0:
                given.append(line[:found])
                at, self._around = at + found + len(self._around), None
                return at
            kept = _beginning_of(self._around, line, 0)
            if at + len(line) == len(text) and kept:
                self._held = line[len(line) - kept :]
                line = line[: len(line) - kept]
        given.append(line)
        self._code.feed(line)
        is_blank = not line.strip()
        self._answer_begins &= is_blank
        self._line_begins = line.endswith("\n") or (self._line_begins and is_blank)
        return end

    def _take_mark(self, text: str, at: int, given: list[str]) -> int | None:
        """Take in a mark that stands there; where it ends. All of the text if it may be the beginning of one."""
        if self._takes_no_thoughts:
            if text.startswith(OPENING, at):
                given.append(f"\\{OPENING}")  # so that nobody takes it for a thought
                self._line_begins = self._answer_begins = False
                return at + len(OPENING)
            possible = [OPENING]
        else:
            pairs = self._marks.known
            if self._answer_begins:
                pairs = (*pairs, *self._marks.at_beginning)
                for before, behind in self._marks.around_answer:
                    if text.startswith(before, at):
                        self._around = behind
                        return at + len(before)
            for one in pairs:
                if text.startswith(one.opening, at):
                    self._begin_thought(one, given)
                    return at + len(one.opening)
            possible = [one.opening for one in pairs]
            if self._answer_begins:
                possible += [before for before, _ in self._marks.around_answer]
                if HARMONY in pairs:
                    possible.append(_HARMONY_ANSWER)
                    if text.startswith(_HARMONY_ANSWER, at):
                        return at + len(_HARMONY_ANSWER)
        if any(_may_become(one, text, at) for one in possible):
            self._held = text[at:]
            return len(text)
        return None

    def _begin_thought(self, marks: Marks, given: list[str]) -> None:
        """A mark in the text opens a thought."""
        self._begin(marks)
        given.append(OPENING)

    def _begin(self, marks: Marks) -> None:
        self._thought, self._is_announced, self._thought_begins = marks, True, False
        self._name_begins = bool(marks.name)

    def _ends_line(self, given: Sequence[str]) -> bool:
        last = next((one for one in reversed(given) if one), None)
        return self._given_line_begins if last is None else last.endswith("\n")

    def _gave(self, given: list[str]) -> str:
        text = "".join(given)
        if text:
            self._given_line_begins = text.endswith("\n")
        return text


class _CodeBlocks:
    """Whether a text is inside of a code block, by Discord's rule: any three backticks begin or end one."""

    def __init__(self) -> None:
        self.is_open = False
        self._ticks = 0
        self._is_escaped = False

    def feed(self, text: str) -> None:
        """Read on."""
        if "`" not in text and not text.endswith("\\"):
            self._ticks, self._is_escaped = 0, False
            return
        for character in text:
            if character == "`" and not self._is_escaped:
                self._ticks += 1
                if self._ticks == 3:
                    self.is_open, self._ticks = not self.is_open, 0
            else:
                self._ticks = 0
            self._is_escaped = character == "\\" and not self._is_escaped and not self.is_open


_HEADER_PIECES = 64  # a channel's name is one word


@lru_cache(64)
def _any_of(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, marks)))


def _beginning_of(mark: str, text: str, since: int) -> int:
    """How many characters at the end of the text may be the beginning of the mark."""
    most = min(len(mark) - 1, len(text) - since)
    return next((n for n in range(most, 0, -1) if mark.startswith(text[len(text) - n :])), 0)


def _may_become(mark: str, text: str, at: int) -> bool:
    """Whether the rest of the text, which is not empty, is the beginning of the mark."""
    return 0 < len(text) - at < len(mark) and mark.startswith(text[at:])


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    assert found is not None  # noqa: S101
    return found.end()
