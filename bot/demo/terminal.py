"""One command in the terminal: the reply as it grows, then a line of numbers."""

from __future__ import annotations

import asyncio
import re
import sys

import discord
from simcord.backend.errors import SetupError

from bot.app import open_engine
from bot.demo.slash import parse_slash
from bot.demo.world import World, open_world
from bot.errors import UsageError
from bot.inference.engine import Engine, Finished
from bot.settings import Settings

_TICK_S = 0.05
# Lines that are about the answer and not part of it: states, and what stands under the end.
_NOTE = re.compile(r"^(?:-# |⚠️ ).*$", re.MULTILINE)
_MARKUP = re.compile(r"```\n?|\*\*|^-# ", re.MULTILINE)


async def answer_once(settings: Settings, typed: str) -> int:
    """Run one command with the real engine; the exit code is 1 if it was not answered."""
    async with open_engine(settings) as engine:
        return await answer_with(settings, typed, engine)


async def answer_with(settings: Settings, typed: str, engine: Engine) -> int:
    """Run one command with `engine`; the exit code is 1 if it was not answered.

    Raises:
        UsageError: the command is not understood.
    """
    async with open_world(settings, engine) as world:
        commands = {
            command.qualified_name: [option.name for option in command.parameters]
            for command in world.bot.tree.walk_commands()
            if isinstance(command, discord.app_commands.Command)
        }
        name, options = parse_slash(typed, commands)
        try:
            result = await world.visitor.slash(world.channel, name, **options)
        except SetupError as error:  # what Discord's own input box would not let through
            raise UsageError(f"Discord would not send that: {error}.") from None
        if result.ephemeral and result.response is not None:
            refused = bool(world.env.errors)
            (sys.stderr if refused else sys.stdout).write(f"{result.response.content}\n")
            return 1 if refused else 0
        finished = await _printed(world)
    if finished is None:
        return 0
    if finished.error is not None:
        sys.stderr.write(f"{finished.error}\n")
        return 1
    usage = finished.usage
    sys.stdout.write(
        f"[{usage.completion_tokens} tokens · {usage.tokens_per_second or 0:.1f} tokens/s · first words after "
        f"{usage.time_to_first_token_s or 0:.2f} s · {usage.generation_s:.1f} s · ended by {finished.reason}]\n"
    )
    return 0


async def _printed(world: World) -> Finished | None:
    """Print what is new in the reply until it has ended; None if no model was asked."""
    shown, note = 0, ""  # how many characters, white space apart: where pages end may still move
    while True:
        over = bool(world.endings)
        contents = [message.content for message in world.messages()]
        if not world.begun and (cards := _cards(world)):
            sys.stdout.write(f"{cards}\n")
            return None
        text = "\n".join(_NOTE.sub("", content).strip() for content in contents).rstrip()
        sys.stdout.write(_behind(text, shown))
        shown = max(shown, len("".join(text.split())))
        notes = [line for content in contents for line in _NOTE.findall(content)]
        if notes and notes[-1] != note and not over and not shown:
            note = notes[-1]
            sys.stderr.write(f"{note.removeprefix('-# ')}\n")
        sys.stdout.flush()
        if over:
            sys.stdout.write("\n")
            return world.endings[0]
        await asyncio.sleep(_TICK_S)
        await world.catch_up()


def _behind(text: str, count: int) -> str:
    """What is behind the first `count` characters that are not white space."""
    for at, character in enumerate(text):
        if count == 0:
            return text[at:]
        count -= not character.isspace()
    return ""


def _cards(world: World) -> str:
    """The answer of a command that asks no model: its words and cards as lines, or nothing while it works."""
    lines = []
    for message in world.messages():
        lines += [message.content] if message.content else []
        for embed in message.embeds:
            lines += [text for text in (embed.title, embed.description) if text]
            for field in embed.fields:
                value = _MARKUP.sub("", str(field.value)).strip()
                lines.append(f"{field.name}:{chr(10) if chr(10) in value else ' '}{value}")
        lines += [f"[picture: {attachment.filename}]" for attachment in message.attachments]
    return "\n".join(lines)
