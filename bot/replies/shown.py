"""What the person is to see now: the state that events build, as the contents of messages. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bot.inference.engine import Event, Finished, FinishReason, Loading, Queued, TextDelta
from bot.replies.characters import CharacterFilter, without_hidden_characters
from bot.replies.dialect import DialectFilter, under, with_ending_quote
from bot.replies.pages import MESSAGE_LIMIT, PageSplitter, split_pages, units
from bot.replies.status import (
    READING,
    REST_FOLLOWS,
    THINKING,
    ending_lines,
    loading_line,
    queued_line,
    rest_refused_line,
    unread_line,
    words_refused_text,
)
from bot.replies.think import ThinkFilter

PAGES_SHOWN = 5  # a model that loops must not fill the channel: what comes behind is a file
_SILENCE = "*(The model had nothing to say.)*"
_ONLY_THOUGHT = "*(The model thought about it, and said nothing.)*"


@dataclass(frozen=True, slots=True)
class Contents:
    """The messages to show, and the text of the file that goes with the last one, if one does."""

    pages: list[str]
    file: str | None = None


@dataclass(slots=True)
class Shown:
    """Takes in events; `due` says that something changed since whoever shows it took it back.

    Attributes:
        finished: how it ended, once it has.
        due: whether there is news.
        has_words: whether there is something of the answer to see.
        unread: what came with the question and cannot be read; the end says so.
    """

    finished: Finished | None = None
    due: bool = False
    has_words: bool = False
    unread: tuple[str, ...] = ()
    _written: list[str] = field(default_factory=list)
    _unread: list[str] = field(default_factory=list)
    _status: str = ""
    _told: tuple[Queued | Loading, float] | None = None  # the wait, and when it was told
    _characters: CharacterFilter = field(default_factory=CharacterFilter)
    _think: ThinkFilter = field(default_factory=ThinkFilter)
    _dialect: DialectFilter = field(default_factory=DialectFilter)
    _splitter: PageSplitter = field(default_factory=lambda: PageSplitter(most=PAGES_SHOWN))
    _most_pages: int | None = None  # Discord refuses a further message
    _why_refused: str = ""
    _refused_words: dict[int, str] = field(default_factory=dict)  # by page, why

    @classmethod
    def going_on(cls, said: str) -> Shown:
        """For an answer that goes on from where an earlier one was cut: in the same thought, or code block."""
        think, dialect = ThinkFilter(), DialectFilter()
        dialect.feed(think.feed(without_hidden_characters(said)))
        if not think.thinking:
            dialect.feed(think.flush())
        dialect.go_on()
        think.forget_thoughts()
        return cls(
            _think=think, _dialect=dialect, _splitter=PageSplitter(before=think.open, most=PAGES_SHOWN)
        )

    def apply(self, event: Event, now_s: float = 0.0) -> None:
        """Take in an event that came at this time."""
        self._told = (event, now_s) if isinstance(event, Queued | Loading) else None
        match event:
            case Queued(position, eta_s):
                self._status = queued_line(position, eta_s)
            case Loading():
                self._status = loading_line(event)
            case TextDelta(text, _):
                self._written.append(text)
                self._unread.append(text)
                if not self.has_words:
                    self._read()
            case Finished():
                self._read()
                self._show(self._think.feed(self._characters.flush()))
                self._show(self._think.flush())
                self._splitter.feed(self._dialect.flush())
                self.has_words = self._has_words()
                self.finished = event
        self.due = True

    @property
    def text(self) -> str:
        """What the model wrote, thoughts and tags included."""
        self._written = ["".join(self._written)]
        return self._written[0]

    @property
    def counts_down(self) -> bool:
        """Whether a wait was told that gets shorter by itself."""
        return self._told is not None and self._told[0].eta_s is not None

    def tick(self, now_s: float) -> None:
        """Time has gone by: less of the wait that was told is left. Past it, nothing is promised any more."""
        if self._told is None or (eta_s := self._told[0].eta_s) is None:
            return
        event, told_s = self._told
        left_s = eta_s - (now_s - told_s)
        event = replace(event, eta_s=left_s if left_s > 0 else None)
        status = (
            queued_line(event.position, event.eta_s) if isinstance(event, Queued) else loading_line(event)
        )
        self.due |= status != self._status
        self._status = status

    @property
    def thoughts(self) -> str:
        """What the model thought, which is not part of the answer."""
        return self._think.thoughts

    @property
    def has_thoughts(self) -> bool:
        """Whether the model thought something."""
        return self._think.has_thoughts

    def _read(self) -> None:
        """Take in what has come since the last time."""
        self._show(self._think.feed(self._characters.feed("".join(self._unread))))
        self._unread = []
        self.has_words = self.has_words or self._has_words()
        self._status = THINKING if self._think.thinking else "" if self.has_words else self._status

    def _show(self, text: str) -> None:
        self._splitter.feed(self._dialect.feed(text))

    def _has_words(self) -> bool:
        return self.has_words or self._splitter.contents != [""]

    @property
    def has_something(self) -> bool:
        """Whether there is anything to see, words or what is being done."""
        return self.has_words or bool(self._status)

    def begun(self) -> None:
        """The model has taken the request up: no wait that was told goes on."""
        self._told = None

    @property
    def may_be_reading(self) -> bool:
        """Whether nothing but the prompt can be in work, once the model has taken the request up."""
        loads = (
            self._told is not None and isinstance(self._told[0], Loading) and self._told[0].fraction != 1.0
        )
        quiet = self.finished is None and not self.has_words and self._status not in (READING, THINKING)
        return quiet and not loads

    def reading(self) -> None:
        """The model reads the prompt, and that takes long enough to be told."""
        self._status, self._told, self.due = READING, None, True

    def refuse_pages(self, number: int, why: str) -> None:
        """Discord takes no page of this number or a later one: the page before carries the end."""
        self._most_pages, self._why_refused, self.due = number, why, True

    def refuse_words(self, page: int, why: str) -> bool:
        """Discord takes the words of this page in no form; a sentence stands for them. False if that was known."""
        is_new = page not in self._refused_words
        self._refused_words[page] = why
        self.due |= is_new
        return is_new

    def now(self) -> Contents:
        """What to show while it grows."""
        self._read()
        if not self.has_words:
            return Contents([self._status])
        pages, note, beyond = self._splitter.contents, self._status, self._splitter.has_beyond
        if self._most_pages is not None and len(pages) + beyond > self._most_pages:
            note = rest_refused_line(self._why_refused)
        elif beyond:
            note = REST_FOLLOWS
        return Contents(_with_note(self._without_refused(pages), note, self._most_pages))

    def end(
        self, finished: Finished, alias: str, stopped_by: str | None = None, reference: str = ""
    ) -> Contents:
        """What to show for good; for the last two see `ending_lines`."""
        notes = ending_lines(finished, alias, stopped_by, reference)
        if self.unread:
            notes = f"{unread_line(self.unread)}\n{notes}"
        contents = list(self._splitter.contents) if self.has_words else [self._nothing(finished)]
        contents = self._without_refused(contents)
        beyond = self._splitter.has_beyond
        if self._most_pages is not None:
            if beyond or len(_with_note(contents, notes)) > self._most_pages:
                notes = f"{rest_refused_line(self._why_refused, in_details=True)}\n{notes}"
        elif beyond:
            return Contents([*contents, notes], self._splitter.beyond)
        return Contents(_with_note(contents, notes, self._most_pages))

    def _without_refused(self, pages: list[str]) -> list[str]:
        pages = list(pages)
        for page, why in self._refused_words.items():
            pages[page : page + 1] = [words_refused_text(why)]
        return pages

    def _nothing(self, finished: Finished) -> str:
        if finished.reason not in (FinishReason.STOP, FinishReason.LENGTH):
            return ""
        return _ONLY_THOUGHT if self.has_thoughts else _SILENCE


def _with_note(pages: list[str], note: str, most: int | None = None) -> list[str]:
    """The note under the last page; in a message of its own where it does not fit there.

    Where no more than `most` messages can be had, the last of them is cut to make room.
    """
    *others, last = pages[:most]
    together = under(last, note).strip("\n")
    if units(together) <= MESSAGE_LIMIT:
        return [*others, together]
    if most is None or len(others) + 1 < most:
        return [*others, last, note]
    room = MESSAGE_LIMIT - units(note) - 1
    last = with_ending_quote(last)
    while room > 0:
        together = under(split_pages(last, room)[0].content, note)
        if (excess := units(together) - MESSAGE_LIMIT) <= 0:
            return [*others, together]
        room -= excess
    return [*others, note]
