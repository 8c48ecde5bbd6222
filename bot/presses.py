"""What the buttons under a reply do."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import discord

from bot import deadline, trace
from bot.access.gate import Gate
from bot.answers import Answers
from bot.archive import Archive, messages_for, messages_of, messages_to_go_on, words_of
from bot.chat.messages import ChatMessage
from bot.chooser import ModelChooser
from bot.errors import NotAllowed, ReplyForgotten
from bot.inference.observer import UNOBSERVED, Observer
from bot.replies.buttons import OPTIONS_LIMIT, Press, model_view
from bot.replies.characters import without_hidden_characters
from bot.replies.details import as_json, details_card, details_document
from bot.replies.explain import tell
from bot.replies.harmless import with_plain_links
from bot.replies.limits import one_line, shortened
from bot.replies.long_texts import read_apart
from bot.replies.pages import PAGE_LIMIT, PageSplitter, units
from bot.replies.places import place_of
from bot.replies.refusal import is_refusal, why_refused
from bot.replies.think import thoughts_in, without_thoughts
from bot.storage.replies import KeptReply

_NAME_LIMIT = 60  # the line under an answer has little room
_NO_THOUGHTS = "The model did not think aloud."
_MESSAGES_LIMIT = 4  # with a note, the five that Discord allows where somebody brought the bot themselves
_NOBODY = discord.AllowedMentions.none()

_Interaction = discord.Interaction[Any]


class Presses:
    """Takes presses. Whatever goes wrong is a sentence for who pressed, and for nobody else.

    Args:
        answers: gives answers, and knows those under way.
        archive: those that were given.
        chooser: which models may be had where.
        gate: where the bot is switched off.
        observer: hears what went wrong.
    """

    def __init__(
        self,
        answers: Answers,
        archive: Archive,
        chooser: ModelChooser,
        gate: Gate,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._answers = answers
        self._archive = archive
        self._chooser = chooser
        self._gate = gate
        self._observer = observer
        self._do: dict[Press, Callable[[_Interaction, str], Awaitable[None]]] = {
            Press.STOP: self._stop,
            Press.AGAIN: self._again,
            Press.RETRY: self._again,
            Press.OTHER: self._other,
            Press.GO_ON: self._go_on,
            Press.THOUGHTS: self._thoughts,
            Press.DETAILS: self._details,
        }

    async def pressed(self, interaction: _Interaction, press: Press, reply_id: str) -> None:
        """Do what a button says."""
        await self._told(interaction, press, partial(self._do[press], interaction, reply_id))

    async def chosen(self, interaction: _Interaction, reply_id: str, alias: str) -> None:
        """Have another model answer the same."""
        ask = partial(self._ask, interaction, reply_id, messages_of, alias)
        await self._told(interaction, Press.OTHER, ask)

    async def _told(
        self, interaction: _Interaction, press: Press, work: Callable[[], Awaitable[None]]
    ) -> None:
        trace.begin(f"button {press}")
        deadline.begin()
        try:
            if press is not Press.STOP:  # what is under way when a server is switched off can be stopped
                await self._gate.require_on(interaction.guild_id)
            await work()
        except Exception as error:  # the last one who can tell the person
            self._observer.failed(error)
            await tell(interaction, error)

    async def _stop(self, interaction: _Interaction, reply_id: str) -> None:
        found = self._answers.live(reply_id)
        if found is None:
            raise ReplyForgotten("This answer has ended already.")
        if interaction.user.id != found.origin.asker_id and not interaction.permissions.manage_messages:
            raise NotAllowed(
                "Only the person who asked, or somebody who may manage messages here, can stop this answer."
            )
        found.reply.stop(_name_of(interaction.user))
        await interaction.response.defer()

    async def _again(self, interaction: _Interaction, reply_id: str) -> None:
        await self._ask(interaction, reply_id, messages_of)

    async def _go_on(self, interaction: _Interaction, reply_id: str) -> None:
        await self._ask(interaction, reply_id, messages_to_go_on)

    async def _ask(
        self,
        interaction: _Interaction,
        reply_id: str,
        reads: Callable[[KeptReply], list[ChatMessage]],
        alias: str | None = None,
    ) -> None:
        """Have a reply's own model, or another one, answer what it `reads` of that reply."""
        kept = await self._theirs(interaction, reply_id)
        spec = await self._chooser.resolve(alias or kept.alias, place_of(interaction))
        await self._answers.give(interaction, spec, reads(kept))

    async def _other(self, interaction: _Interaction, reply_id: str) -> None:
        kept = await self._theirs(interaction, reply_id)
        standing = await self._chooser.standing(place_of(interaction))
        others = [spec for spec in standing.offered if spec.alias != kept.alias]
        if not others:
            raise NotAllowed(f"There is no other model here than {kept.alias}.")
        more = (
            "\nThere are more: type a few letters for `model` in a command."
            if len(others) > OPTIONS_LIMIT
            else ""
        )
        await interaction.response.send_message(
            f"The same question for another model:{more}", view=model_view(others, reply_id), ephemeral=True
        )

    async def _thoughts(self, interaction: _Interaction, reply_id: str) -> None:
        kept = await self._archive.find(reply_id)
        thoughts = await read_apart(_visible_thoughts, words_of(kept))
        first, *rest = await read_apart(_pages, thoughts)
        files = {"thinking.md": thoughts} if rest else {}
        if (why := await _shown(interaction, files, content=first or _NO_THOUGHTS)) is not None:
            await _shown_as_messages(interaction, rest, why)

    async def _details(self, interaction: _Interaction, reply_id: str) -> None:
        """Numbers for everybody; a long answer whole, for Discord may have refused a part of it. For the person who
        asked, also what they wrote. What others wrote before that in the same conversation is left out: a command
        keeps it to whoever gave it."""
        kept = await self._archive.find(reply_id)
        card = details_card(kept.id, kept.alias, kept.reason or "", kept.request, kept.numbers)
        files = {}
        answer = await read_apart(_visible_answer, kept.answer)
        if is_long := units(answer) > PAGE_LIMIT:
            files["answer.md"] = answer
        if kept.asker_id == interaction.user.id:
            request = kept.request | {"messages": messages_for(kept, interaction.user.id)}
            document = details_document(kept.id, kept.alias, kept.reason or "", request, kept.numbers)
            document["answer"] = kept.answer
            files[f"reply-{kept.id}.json"] = as_json(document)
        if (why := await _shown(interaction, files, embed=card)) is not None:
            pages = await read_apart(_pages, answer) if is_long else []
            await _shown_as_messages(interaction, pages, why)

    async def _theirs(self, interaction: _Interaction, reply_id: str) -> KeptReply:
        """The reply, for the person who asked for it.

        Raises:
            NotAllowed: it is somebody else's.
        """
        kept = await self._archive.find(reply_id)
        if kept.asker_id != interaction.user.id:
            raise NotAllowed("Only the person who asked can do that. Ask the model yourself: `/ask`.")
        return kept


def _name_of(user: discord.abc.User) -> str:
    name = shortened(one_line(user.display_name), _NAME_LIMIT)
    return with_plain_links(discord.utils.escape_markdown(name))


def _visible_thoughts(text: str) -> str:
    return without_hidden_characters(thoughts_in(text))


def _visible_answer(text: str) -> str:
    return without_hidden_characters(without_thoughts(text))


def _pages(text: str) -> list[str]:
    """A text as the messages that are shown at most where it cannot be a file, and one more if there is more."""
    splitter = PageSplitter(most=_MESSAGES_LIMIT + 1)
    splitter.feed(text)
    return [*splitter.contents, *(["…"] if splitter.has_beyond else [])]


async def _shown(interaction: _Interaction, files: Mapping[str, str], **what: Any) -> str | None:
    """Answer a press for the person alone, with files by name; where Discord refuses the files, without: then why.

    Raises:
        discord.HTTPException: Discord refuses the answer without files too.
    """
    send, why = interaction.response.send_message, None
    if files:
        try:
            attached = [discord.File(io.BytesIO(text.encode()), name) for name, text in files.items()]
            await send(**what, files=attached, ephemeral=True, allowed_mentions=_NOBODY)
            return None
        except discord.HTTPException as error:
            if not is_refusal(error):
                raise
            why = why_refused(error, has_file=True)
    await send(**what, ephemeral=True, allowed_mentions=_NOBODY)
    return why


async def _shown_as_messages(interaction: _Interaction, pages: Sequence[str], why: str) -> None:
    """Show the person, as messages, what was to be in a file; as much of it as Discord takes."""
    note = f"-# No file could be attached: {why}."
    if len(pages) > _MESSAGES_LIMIT:
        note += " There is more than can be shown so."
    for page in (*pages[:_MESSAGES_LIMIT], note):
        await interaction.followup.send(page, ephemeral=True, allowed_mentions=_NOBODY)
