"""`@Punchline why?`: a question without a command, and a conversation by replying to its answers."""

from __future__ import annotations

import discord
from discord.ext import commands

from bot import deadline, trace
from bot.access.asker import Asker
from bot.archive import Origin, conversation
from bot.chat.prompt import Messages, ask_messages, with_unread
from bot.client import PunchlineBot
from bot.errors import AccessRefused, UnknownModel
from bot.inference.catalog import ModelSpec
from bot.replies.explain import explained, tell_in_channel
from bot.replies.mention import Question, may_answer, question_in, quoted_in, replied_to, surface_for
from bot.replies.places import place_of_message
from bot.replies.status import enumerated
from bot.services import Services

_GREETING = (
    "Ask me something behind my name, such as “@Punchline why is the sky blue?”, or type `/joke`. "
    "Reply to an answer of mine and we go on from there."
)
_BY_ROLE = (
    "You mentioned my role, and Discord does not show me what you wrote then. Choose me, not the role of the same "
    "name, when you type `@`, or type `/ask`."
)
_UNREAD = "I cannot read {} here. Ask me in words, or paste the text into your message."


class Mentions(commands.Cog):
    """Answers to messages that mention the bot, and to direct messages."""

    def __init__(self, *, bot: PunchlineBot, services: Services) -> None:
        self._bot = bot
        self._services = services

    @commands.Cog.listener()
    async def on_message(self, message: discord.Message) -> None:
        """Answer, if it is meant for the bot."""
        question = None if self._bot.user is None else question_in(message, self._bot.user)
        if question is None or not may_answer(message):
            return
        trace.begin("mention", [message.content, question.text.words])
        deadline.begin()
        surface, asker, services = surface_for(message), Asker.of_message(message), self._services
        try:
            await services.gate.require_on(asker.server_id)  # before anything can go wrong that would be said
            asked = await self._understood(message, question)
            if isinstance(asked, str):
                await services.gate.welcome(asker)
                if services.refusals.worth_saying("greeting", asker.person_id, message.channel.id):
                    await surface.show(0, asked, None)
                return
            typing = services.typing.shown(surface.channel)
            spec, messages, unread = asked
            await services.answers.give_on(
                surface, asker, Origin.of_message(message), spec, messages, typing, unread=unread
            )
        except Exception as error:  # nobody above can tell the person
            if not isinstance(error, AccessRefused):
                services.observer.failed(error)
            if services.refusals.worth_saying(error, asker.person_id, message.channel.id):
                await tell_in_channel(surface, error)
            else:
                explained(error)  # a bug is in the log, whoever hears of it

    async def _understood(
        self, message: discord.Message, question: Question
    ) -> tuple[ModelSpec, Messages, tuple[str, ...]] | str:
        """Who is to answer, what it is to read, and what came with that and cannot be read; or what to say instead,
        where there is nothing that a model could be asked."""
        chooser, place = self._services.chooser, place_of_message(message)
        asked, to = question.text, replied_to(message)
        kept = None if to is None else await self._services.archive.of_message(to)
        if kept is None:
            quoted = quoted_in(message)
            unread = (*asked.unread, *quoted.unread)
            if not asked.words and not quoted.words:
                return _nothing_asked(question, unread)
            words = with_unread(asked.words or quoted.words, unread)
            about = quoted.words if asked.words else ""
            return await chooser.resolve(None, place), ask_messages(words, about=about), unread
        if not asked.words:
            return _nothing_asked(question, asked.unread)
        try:
            spec = await chooser.resolve(kept.alias, place)
        except UnknownModel:  # it is not offered any more
            spec = await chooser.resolve(None, place)
        messages = await conversation(kept, with_unread(asked.words, asked.unread))
        return spec, messages, asked.unread


def _nothing_asked(question: Question, unread: tuple[str, ...]) -> str:
    """How to ask, for a message that a model cannot be asked about."""
    if unread:
        return _UNREAD.format(enumerated(unread))
    return _BY_ROLE if question.by_role else _GREETING


async def setup(bot: PunchlineBot) -> None:
    """Called by discord.py when the extension is loaded."""
    await bot.add_cog(Mentions(bot=bot, services=bot.services))
