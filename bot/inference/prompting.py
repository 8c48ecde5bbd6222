"""From messages to token ids, in which only the chat template writes control tokens.

A tokenizer turns `<|im_end|>` into a control token wherever it stands, so a question could end its own turn and begin
one of the system's. transformers' `sanitize_control_tokens` marks whole tokens in each content. It misses tokens that
are not in the template's literal text, that a template or a normalizer puts together (`<|im_` and `end|>` in two
messages, full-width brackets), and it fails where the vocabulary itself holds the token; transformers 5.20 lacks it.

So here the tokenizer says itself what would become a token, and the text says who wrote it:

1. In each content, the characters that a control token begins or ends with are replaced one to one by private-use
   characters that occur nowhere else. Lengths stay, so templates that trim, slice or measure do what they always do.
2. The template is rendered. The stand-ins show which characters of the result are people's, and are put back.
3. The whole is tokenized once. Where a control token covers a character of people's, the text is cut inside it and
   both sides are tokenized apart, so that it is read as what it is: text. The same goes for one that the tokenizer's
   normalizer makes of other text (`&lt;`, a zero-width character inside), unless the template wrote it so.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from unicodedata import category

from bot.chat.messages import ChatMessage, Role
from bot.inference.chat_template import REFUSALS, Render, TemplateTraits, adapt, as_dicts, plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Clock = Callable[[], datetime]

_STAND_INS = range(0xF0000, 0x10FFFE)  # the private use planes
_SPACES = (
    " \t\r\n\u2581"  # what a token may be made of and still be ordinary text; SentencePiece writes U+2581
)
_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character, which no tokenizer takes
_MOST_CUTS = 16  # levels of cutting, before what is left of a token is left out
_QUESTION, _ANSWER = "punchlinequestion", "punchlineanswer"  # letters only, as templates trim and escape


class TemplateRefused(Exception):
    """A chat template raised on a conversation. Never reaches a person, and holds no words of theirs."""


def utc_now() -> datetime:
    """The time, as templates are told it."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model reads.

    Attributes:
        text: as the template wrote it, without what a tokenizer adds by itself.
        ids: the same as token ids.
    """

    text: str
    ids: list[int]


def renderer(tokenizer: PreTrainedTokenizerBase, now: Clock = utc_now, **options: Any) -> Render:
    """A tokenizer's chat template as a function of the messages.

    Args:
        tokenizer: one with a template.
        now: tells the date to templates that ask for it. Without `date_string`, Llama 3.1's says 26 Jul 2024.
        options: passed on to the template.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    def strftime_now(form: str) -> str:
        return now().strftime(form)

    def render(messages: list[dict[str, Any]]) -> str:
        # transformers gives templates the local time, and lets nobody pass a function.
        compiled: Any = _compile_jinja_template(tokenizer.get_chat_template())
        compiled.environment.globals["strftime_now"] = strftime_now
        given = {"add_generation_prompt": True, "date_string": now().strftime("%d %b %Y"), **options}
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **given))

    return render


@dataclass(frozen=True, slots=True)
class _Authored:
    """Text, and where in it people's characters are that a control token may begin or end with, in ascending order."""

    text: str
    places: Sequence[int]

    def part(self, begin: int, end: int) -> _Authored:
        low, high = bisect_left(self.places, begin), bisect_left(self.places, end)
        return _Authored(self.text[begin:end], [place - begin for place in self.places[low:high]])

    def first_place(self, begin: int, end: int) -> int | None:
        index = bisect_left(self.places, begin)
        return self.places[index] if index < len(self.places) and self.places[index] < end else None


@dataclass(frozen=True, slots=True)
class _Token:
    """A token: its place among the ids, its id, and which part of the text it stands for."""

    index: int
    id: int
    begin: int
    end: int


class PromptEncoder:
    """Encodes conversations for one model. Blocks; for a thread.

    Args:
        tokenizer: the model's.
        traits: what its template takes; None where it has no template.
        usable_ids: how many ids the model has embeddings for; a tokenizer may have more. None: all of the tokenizer's.
        now: the clock for templates that ask for the date.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        traits: TemplateTraits | None,
        usable_ids: int | None = None,
        now: Clock = utc_now,
    ) -> None:
        self._tokenizer: Any = tokenizer
        self._traits = traits
        self._usable_ids = len(tokenizer) if usable_ids is None else usable_ids
        self._now = now
        self._unknown_id = tokenizer.unk_token_id
        self._control = _control_tokens(tokenizer)
        contents = sorted(self._control.values(), key=len, reverse=True)
        edges = {edge for content in contents for edge in (content[0], content[-1])}
        self._edges = frozenset(edge for edge in edges if not edge.isalnum() and edge not in _SPACES)
        # Of tokens such as PAD, the letters are everybody's: the whole word is looked for.
        words = [one for one in contents if one[0] not in self._edges and one[-1] not in self._edges]
        self._words = _any_of(words)
        # One may begin in a message and end in the next.
        self._begun = _any_of([word[:end] for word in words for end in range(1, len(word))], "(?:{})\\Z")
        self._ended = _any_of([word[begin:] for word in words for begin in range(1, len(word))])
        self._literal = re.compile("|".join(map(re.escape, contents)) or "(?!)")
        self._template = "" if traits is None else str(tokenizer.get_chat_template())
        self._normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        newline = self._raw_ids("\n")
        self._newline_ids = newline
        self._puts_in_front = self._raw_ids("\na") != newline + self._raw_ids("a")
        self._begin_ids = self._put_before_text()

    @property
    def control_ids(self) -> frozenset[int]:
        """The ids that only a template may write."""
        return frozenset(self._control)

    def prompt(self, messages: Sequence[ChatMessage], **options: Any) -> Prompt:
        """What the model reads of a conversation, up to where its answer begins.

        Args:
            messages: the conversation.
            options: passed on to the template, `enable_thinking` for one.

        Raises:
            TemplateRefused: the template raised.
        """
        authored = self._render(messages, options)
        ids = self._ids(authored, begins=True)
        return Prompt(authored.text, ids if self._traits is not None else self._begin_ids + ids)

    def text(self, messages: Sequence[ChatMessage], **options: Any) -> str:
        """The same as text alone.

        Raises:
            TemplateRefused: the template raised.
        """
        return self._render(messages, options).text

    def text_ids(self, text: str, *, begins: bool = True) -> list[int]:
        """The ids of text that no template wrote: no control token is among them, whatever it says.

        Args:
            text: a person's, or a model's.
            begins: whether it stands at the beginning, where some tokenizers put a space in front; else it goes on
                with what other ids say.
        """
        (marked,), back = self._mark([text])
        return self._ids(_restored(marked, back), begins=begins)

    def unusable_id_of_template(self) -> int | None:
        """An id that the template itself writes, and that the model has no embedding for.

        Raises:
            TemplateRefused: the template raised.
        """
        question, answer = ChatMessage(Role.USER, _QUESTION), ChatMessage(Role.ASSISTANT, _ANSWER)
        for messages in ((question,), (ChatMessage(Role.SYSTEM, _QUESTION), question, answer, question)):
            unusable = [
                id_ for id_ in self._raw_ids(self._render(messages, {}).text) if id_ >= self._usable_ids
            ]
            if unusable:
                return unusable[0]
        return None

    def end_of_turn(self) -> int | None:
        """The control token that the template writes right behind an answer, if there is one.

        Behind the last answer it is the end that the model was trained to write. The one behind an earlier answer
        counts only where there is none: gpt-oss ends its thoughts with that one too.
        """
        question, answer = ChatMessage(Role.USER, _QUESTION), ChatMessage(Role.ASSISTANT, _ANSWER)
        if self._traits is None or not self._traits.accepts_assistant:
            return None
        last = ((question, answer), {"add_generation_prompt": False})
        earlier: tuple[tuple[ChatMessage, ...], dict[str, Any]] = ((question, answer, question), {})
        for messages, options in (last, earlier):
            try:
                text = self._render(messages, options).text
            except TemplateRefused:
                continue
            if (end := self._control_behind(text, _ANSWER)) is not None:
                return end
        return None

    # --- The text -------------------------------------------------------------------------------------------------

    def _render(self, messages: Sequence[ChatMessage], options: dict[str, Any]) -> _Authored:
        adapted = messages if self._traits is None else adapt(messages, self._traits)
        contents, back = self._mark([one.content for one in adapted])
        marked = [replace(one, content=content) for one, content in zip(adapted, contents, strict=True)]
        if self._traits is None:
            return _restored(plain(marked), back)
        render = renderer(self._tokenizer, self._now, **options)
        try:
            text = render(as_dicts(marked, self._traits.parts))
        except REFUSALS as error:
            raise TemplateRefused(type(error).__name__) from None  # its message may quote people
        return _restored(text, back)

    def _mark(self, contents: Sequence[str]) -> tuple[list[str], dict[int, str]]:
        """The contents with stand-ins in them, and what each stand-in stands for."""
        contents = [_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", content) for content in contents]
        characters = {character for content in contents for character in content}
        free = (code for code in _STAND_INS if chr(code) not in characters)
        stand_ins: dict[str, str] = {}

        def stand_in(character: str) -> str:
            if character not in stand_ins:
                stand_ins[character] = chr(next(free))
            return stand_ins[character]

        table = {ord(one): stand_in(one) for one in sorted(characters) if self._may_be_edge(one)}
        marked = []
        for content in contents:
            text = content.translate(table) if table else content
            if places := self._word_places(self._folded(content)):
                text = "".join(stand_in(content[i]) if i in places else one for i, one in enumerate(text))
            marked.append(text)
        return marked, {ord(one): character for character, one in stand_ins.items()}

    def _word_places(self, text: str) -> set[int]:
        """Where control tokens of letters begin, and what may be a part of one at either end of the text."""
        places = {match.start() for match in self._words.finditer(text)}
        if begun := self._begun.search(text.rstrip()):
            places.add(begun.start())
        if ended := self._ended.match(text, len(text) - len(text.lstrip())):
            places.add(ended.end() - 1)
        return places

    def _may_be_edge(self, character: str) -> bool:
        if character in self._edges:
            return True
        if self._normalizer is None or (character.isascii() and character.isalnum()) or character in _SPACES:
            return False
        return not self._edges.isdisjoint(self._normalizer.normalize_str(character))

    def _folded(self, content: str) -> str:
        """As the tokenizer's normalizer has it, character by character: a place in it is that place in the content."""
        if self._normalizer is None:
            return content
        forms = {one: self._normalizer.normalize_str(one).lstrip(_SPACES) for one in set(content)}
        return "".join(forms[one] if len(forms[one]) == 1 else one for one in content)

    # --- The ids --------------------------------------------------------------------------------------------------

    def _ids(self, authored: _Authored, *, begins: bool, cuts_left: int = _MOST_CUTS) -> list[int]:
        if not authored.text:
            return []
        ids, wrong = self._read(authored, begins=begins)
        if not wrong:
            return ids
        cuts = sorted({cut for one in wrong if (cut := _cut(authored, one)) is not None})
        if not cuts or not cuts_left:
            unwanted = {one.index for one in wrong}
            return [id_ for index, id_ in enumerate(ids) if index not in unwanted]
        ids = []
        for begin, end in zip((0, *cuts), (*cuts, len(authored.text)), strict=True):
            part = authored.part(begin, end)
            ids += self._ids(part, begins=begins and begin == 0, cuts_left=cuts_left - 1)
        return ids

    def _read(self, authored: _Authored, *, begins: bool) -> tuple[list[int], list[_Token]]:
        """The ids of a text, and those that may not be in it: people's control tokens, and ids that the model has no
        embedding for."""
        text, front = authored.text, 0
        read = None
        if self._puts_in_front and not begins:
            read, front = (
                self._encoded("\n" + text),
                len(self._newline_ids),
            )  # behind it, nothing is put in front
            if read["input_ids"][:front] != self._newline_ids:
                read, front = None, 0
        if read is None:
            read = self._encoded(text)
        ids = list(read["input_ids"])[front:]
        suspects = [
            index
            for index, id_ in enumerate(ids)
            if id_ >= self._usable_ids
            or (id_ in self._control and (authored.places or self._normalizer is not None))
        ]
        if not self._tokenizer.is_fast:  # which does not tell what its tokens stand for
            unusable = [
                _Token(index, ids[index], 0, 0) for index in suspects if ids[index] >= self._usable_ids
            ]
            matches = [_Token(-1, -1, *match.span()) for match in self._literal.finditer(text)]
            theirs = [one for one in matches if authored.first_place(one.begin, one.end) is not None]
            return ids, unusable + theirs
        if not suspects:
            return ids, []
        offsets = read.encodings[0].offsets
        shift = 1 if front else 0
        tokens = (
            _Token(index, ids[index], *(max(0, place - shift) for place in offsets[front + index]))
            for index in suspects
        )
        return ids, [token for token in tokens if self._is_wrong(token, authored)]

    def _is_wrong(self, token: _Token, authored: _Authored) -> bool:
        if token.id >= self._usable_ids:
            return True
        written = authored.text[token.begin : token.end].strip()
        is_marked = authored.first_place(token.begin, token.end) is not None
        if token.id == self._unknown_id:  # that of each character that the vocabulary lacks, too
            return is_marked and written == self._control[token.id]
        return is_marked or self._is_made_by_normalizer(token, written)

    def _is_made_by_normalizer(self, token: _Token, written: str) -> bool:
        """Whether a control token was made of other text, which the template does not hold either."""
        if self._normalizer is None or self._control[token.id].strip(_SPACES) in written:
            return False
        return written not in self._template

    def _encoded(self, text: str) -> Any:
        return self._tokenizer(text, add_special_tokens=False)

    def _raw_ids(self, text: str) -> list[int]:
        return list(self._encoded(text)["input_ids"])

    def _put_before_text(self) -> list[int]:
        """The ids that the tokenizer puts in front of a text by itself, its beginning for one. What some put behind it
        is left out: a prompt goes on."""
        alone, whole = self._raw_ids("a"), list(self._tokenizer("a")["input_ids"])
        for place in range(len(whole) - len(alone) + 1):
            if whole[place : place + len(alone)] == alone:
                return whole[:place]
        return []

    def _control_behind(self, text: str, word: str) -> int | None:
        place = text.lower().rfind(word)
        behind = text[place + len(word) :].lstrip() if place >= 0 else ""
        if not behind:
            return None
        first: int | None = None
        if self._tokenizer.is_fast:
            read = self._encoded(behind)
            written = zip(read["input_ids"], read.encodings[0].offsets, strict=True)
            first = next((id_ for id_, (begin, end) in written if behind[begin:end].strip()), None)
        elif match := self._literal.match(behind):
            first = self._tokenizer.convert_tokens_to_ids(match.group())
        if first is None or first not in self._control or first == self._unknown_id:
            return None
        return int(first) if first < self._usable_ids else None


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that people may not write, by id: special ones, and added ones with punctuation in them, such as
    `<tool_call>`. Added words, and runs of spaces, are ordinary text."""
    special: dict[int, str] = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    added = {
        id_: token.content
        for id_, token in tokenizer.added_tokens_decoder.items()
        if token.special or any(category(one)[0] == "P" or category(one) == "Sm" for one in token.content)
    }
    return {id_: content for id_, content in (special | added).items() if content.strip(_SPACES)}


def _any_of(texts: Sequence[str], form: str = "{}") -> re.Pattern[str]:
    """Any of them, in capitals or not; the longest that there is."""
    longest_first = sorted({re.escape(one) for one in texts}, key=len, reverse=True)
    return re.compile(form.format("|".join(longest_first) or "(?!)"), re.IGNORECASE)


def _restored(text: str, back: dict[int, str]) -> _Authored:
    if not back:
        return _Authored(text, ())
    stand_ins = re.compile(f"[{''.join(map(chr, back))}]")
    return _Authored(text.translate(back), [match.start() for match in stand_ins.finditer(text)])


def _cut(authored: _Authored, token: _Token) -> int | None:
    """Where to cut a text so that it no longer reads as a token; None where it cannot be cut."""
    if token.end - token.begin < 2:
        return None
    place = authored.first_place(token.begin, token.end)
    return place if place is not None and place > token.begin else token.begin + 1
