"""`@Punchline why?`: a question without a command, and a conversation by replying to its answers."""

from __future__ import annotations

import discord
from discord.ext import commands

from bot import deadline, trace
from bot.access.asker import Asker
from bot.archive import Origin, conversation
from bot.chat.prompt import Messages, ask_messages
from bot.client import PunchlineBot
from bot.errors import AccessRefused, UnknownModel
from bot.inference.catalog import ModelSpec
from bot.replies.explain import explained, tell_in_channel
from bot.replies.mention import may_answer, question_in, quoted_in, surface_for
from bot.replies.places import place_of_message
from bot.services import Services

_GREETING = (
    "Ask me something behind my name, such as “@Punchline why is the sky blue?”, or type `/joke`. "
    "Reply to an answer of mine and we go on from there."
)


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
        trace.begin("mention", [question])
        deadline.begin()
        surface, asker, services = surface_for(message), Asker.of_message(message), self._services
        try:
            await services.gate.require_on(asker.server_id)  # before anything can go wrong that would be said
            asked = await self._understood(message, question)
            if asked is None:
                await services.gate.welcome(asker)
                if services.refusals.worth_saying("greeting", asker.person_id, message.channel.id):
                    await surface.show(0, _GREETING, None)
                return
            typing = services.typing.shown(surface.channel)
            await services.answers.give_on(surface, asker, Origin.of_message(message), *asked, typing)
        except Exception as error:  # nobody above can tell the person
            if not isinstance(error, AccessRefused):
                services.observer.failed(error)
            if services.refusals.worth_saying(error, asker.person_id, message.channel.id):
                await tell_in_channel(surface, error)
            else:
                explained(error)  # a bug is in the log, whoever hears of it

    async def _understood(self, message: discord.Message, question: str) -> tuple[ModelSpec, Messages] | None:
        """Who is to answer, and what it is to read; None if nothing was asked."""
        chooser, place = self._services.chooser, place_of_message(message)
        replied_to = None if message.reference is None else message.reference.message_id
        kept = None if replied_to is None else await self._services.archive.of_message(replied_to)
        if kept is None:
            quoted = quoted_in(message)
            if not question and not quoted:
                return None
            return await chooser.resolve(None, place), ask_messages(
                question or quoted, about=question and quoted
            )
        if not question:
            return None
        try:
            spec = await chooser.resolve(kept.alias, place)
        except UnknownModel:  # it is not offered any more
            spec = await chooser.resolve(None, place)
        return spec, await conversation(kept, question)


async def setup(bot: PunchlineBot) -> None:
    """Called by discord.py when the extension is loaded."""
    await bot.add_cog(Mentions(bot=bot, services=bot.services))
