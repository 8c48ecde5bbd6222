"""The replies that were given, for the buttons under them. Nobody waits long for it, and no answer fails for it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import discord

from bot.chat.messages import UNKNOWN_AUTHOR, AnswerTokens, ChatMessage, Role
from bot.chat.prompt import Messages, follow_up
from bot.deadline import before_answer
from bot.errors import PromptTooLong, ReplyForgotten, StorageError
from bot.inference.engine import Finished
from bot.inference.generation import Generation
from bot.replies.long_texts import read_apart
from bot.replies.think import without_thoughts
from bot.storage.database import in_time
from bot.storage.replies import INTERRUPTED, TOO_LONG, KeptReply, Replies
from bot.unwritten import PATIENCE_S, Unwritten

log = logging.getLogger(__name__)

_SOMEBODY_ELSES = "not shown: somebody else wrote this"

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked, and where, by Discord's ids."""

    asker_id: int
    channel_id: int
    server_id: int | None = None

    @classmethod
    def of(cls, interaction: discord.Interaction[Any]) -> Origin:
        """That of a command or a press."""
        channel_id = interaction.channel_id or interaction.user.id
        return cls(interaction.user.id, channel_id, interaction.guild_id)

    @classmethod
    def of_message(cls, message: discord.Message) -> Origin:
        """That of a message that mentions the bot."""
        server_id = None if message.guild is None else message.guild.id
        return cls(message.author.id, message.channel.id, server_id)


class Keeping:
    """Keeps one reply while it is given; a `Keep`.

    What the database does not take is remembered and written later; see `Unwritten`.
    """

    def __init__(
        self, replies: Replies, unwritten: Unwritten, generation: Generation, origin: Origin
    ) -> None:
        request = generation.request
        self._generation = generation
        self._replies = replies
        self._unwritten = unwritten
        self._is_written = False  # as one that is under way, with all its messages
        said = request.messages[-1].tokens
        self._kept = KeptReply(
            id=generation.id,
            **asdict(origin),
            alias=request.model.alias,
            request={
                "model": request.model.place,
                "revision": request.model.revision,
                "quantization": request.model.quantization,
                "sampling": request.params.model_dump(),
                "messages": [_kept_message(one, origin.asker_id) for one in request.messages],
            },
            tokens=None if said is None else _kept_tokens(said, said=len(said.ids)),
        )

    async def begun(self, message_ids: Sequence[int]) -> None:
        """See `Keep.begun`."""
        self._kept = replace(self._kept, message_ids=tuple(message_ids))
        self._is_written = False
        try:
            await in_time(self._replies.put(self._kept), PATIENCE_S)
            self._is_written = True
        except StorageError as error:
            log.warning("reply %s is not kept yet: %s", self._kept.id, error)

    async def ended(self, finished: Finished, text: str) -> None:
        """See `Keep.ended`."""
        reason, numbers = finished.reason.value, asdict(finished.usage)
        if isinstance(finished.error, PromptTooLong):
            reason = TOO_LONG
        # The checkpoint may have given values that the catalogue leaves open: kept is what was used.
        request = self._kept.request | {"sampling": self._generation.request.params.model_dump()}
        self._kept = replace(self._kept, request=request, answer=text, reason=reason, numbers=numbers)
        if finished.tokens is not None:
            said = len(finished.tokens.ids) - finished.usage.completion_tokens
            self._kept = replace(self._kept, tokens=_kept_tokens(finished.tokens, said=said))
        self._is_written = await self._unwritten.write(self._kept, is_begun=self._is_written)

    async def over(self, finished: Finished, text: str, *, end_shown: bool) -> None:
        """Nothing more is shown of it. One whose end is not shown is found at the next start."""
        if not self._kept.message_ids and self._kept.reason is None:
            return  # nobody saw anything of it
        self._kept = replace(self._kept, end_shown=end_shown)
        await self.ended(finished, text)


class Archive:
    """Keeps replies.

    Args:
        replies: the store.
        kept_days: how long they are kept.
    """

    def __init__(self, replies: Replies, *, kept_days: float) -> None:
        self._replies = replies
        self._kept_days = kept_days
        self._unwritten = Unwritten(replies)

    def keeping(self, generation: Generation, origin: Origin) -> Keeping:
        """What keeps a reply that is about to be given."""
        return Keeping(self._replies, self._unwritten, generation, origin)

    async def forget_old(self) -> None:
        """Forget replies that are too old.

        Raises:
            StorageError: not all of them are forgotten.
        """
        await self._replies.forget(older_than_days=self._kept_days)

    async def find(self, reply_id: str) -> KeptReply:
        """A reply.

        Raises:
            ReplyForgotten: it is not kept, or not any more.
            StorageError: the database does not answer.
        """
        kept = self._unwritten.find(reply_id) or await before_answer(self._replies.find(reply_id), PATIENCE_S)
        if kept is None:
            raise ReplyForgotten("This answer is not kept any more. Please ask again.")
        return kept

    async def of_message(self, message_id: int) -> KeptReply | None:
        """The reply that a message is a page of, if it is kept and the database answers."""
        waiting = self._unwritten.of_message(message_id)
        return waiting or await _if_possible(before_answer(self._replies.of_message(message_id), PATIENCE_S))

    async def unfinished(self) -> list[KeptReply]:
        """Right after a start: the replies that a crash left behind, those among them that had ended unseen."""
        return await _if_possible(self._replies.unfinished()) or []

    async def interrupted(self, kept: KeptReply) -> KeptReply:
        """A crash was the end of such a reply; people do not know yet."""
        ended = replace(kept, reason=INTERRUPTED)
        await _if_possible(self._replies.end(ended))
        return ended

    async def told(self, kept: KeptReply) -> None:
        """People see now how such a reply ended."""
        await _if_possible(self._replies.end(replace(kept, end_shown=True)))


def messages_of(kept: KeptReply) -> list[ChatMessage]:
    """What the model was given to read, and who wrote it as far as that was kept.

    Where it was not, the last question is that of the person who asked; if it is the only one, so is the rest.
    """
    messages = [
        ChatMessage(Role(one["role"]), one["content"], one.get("author_id", UNKNOWN_AUTHOR))
        for one in kept.request["messages"]
    ]
    asked = [place for place, one in enumerate(messages) if one.role is Role.USER]
    surely_theirs = range(len(messages)) if len(asked) == 1 else asked[-1:]
    for place in surely_theirs:
        # One that was kept as unknown came out of an older conversation, perhaps shortened to its last question.
        if "author_id" not in kept.request["messages"][place]:
            messages[place] = replace(messages[place], author_id=kept.asker_id)
    if messages[-1].role is Role.ASSISTANT and kept.tokens is not None:
        said = _tokens(kept.tokens, kept.tokens["said"])
        messages[-1] = replace(messages[-1], tokens=said)
    return messages


def messages_for(kept: KeptReply, person_id: int) -> list[dict[str, Any]]:
    """The same as JSON, as far as it is for this person to read: what they wrote, and what models answered in that
    place. What others wrote may have been a command, which Discord shows nobody else; it is said that it is there."""
    return [
        {"role": str(one.role), "content": one.content}
        if one.role is Role.ASSISTANT or one.author_id == person_id
        else {"role": str(one.role), "content": None, "note": _SOMEBODY_ELSES}
        for one in messages_of(kept)
    ]


def messages_to_go_on(kept: KeptReply) -> list[ChatMessage]:
    """What it is to read so that it goes on where it was cut."""
    *before, last = messages_of(kept)
    tokens = None if kept.tokens is None else _tokens(kept.tokens)
    if last.role is Role.ASSISTANT:
        if kept.answer and tokens == last.tokens:
            tokens = None  # these are the earlier part's alone
        return [*before, replace(last, content=last.content + kept.answer, tokens=tokens)]
    return [*before, last, ChatMessage(Role.ASSISTANT, kept.answer, tokens=tokens)]


def words_of(kept: KeptReply) -> str:
    """All that the model wrote, with the part that a continued one goes on from."""
    return messages_to_go_on(kept)[-1].content


async def conversation(kept: KeptReply, question: str) -> Messages:
    """What a model is to read that is asked something after an answer.

    A question that was too long to be read is no part of it: everything asked after it would be too long as well.
    """
    if kept.reason == TOO_LONG:
        *before, last = messages_of(kept)
        if last.role is Role.ASSISTANT:
            before.pop()
        return follow_up(before, "", question)
    *before, last = messages_to_go_on(kept)
    return follow_up(before, await read_apart(without_thoughts, last.content), question)


def _kept_message(message: ChatMessage, asker_id: int) -> dict[str, Any]:
    """A message as JSON. The model's own words have no author."""
    kept: dict[str, Any] = {"role": str(message.role), "content": message.content}
    if message.role is not Role.ASSISTANT:
        kept["author_id"] = asker_id if message.author_id is None else message.author_id
    return kept


def _kept_tokens(tokens: AnswerTokens, *, said: int) -> dict[str, Any]:
    return {"vocabulary": tokens.vocabulary, "ids": list(tokens.ids), "said": said}


def _tokens(kept: dict[str, Any], most: int | None = None) -> AnswerTokens:
    return AnswerTokens(kept["vocabulary"], tuple(kept["ids"][:most]))


async def _if_possible(work: Awaitable[_Result]) -> _Result | None:
    try:
        return await in_time(work, PATIENCE_S)
    except StorageError as error:
        log.warning("a reply could not be kept or found: %s", error)
        return None
