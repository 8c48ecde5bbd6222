"""What a message says, as words that a model can read. No I/O.

A message is more than its content. Mentions, custom emoji and times are numbers in it; embeds, stickers, polls,
components and forwarded messages stand beside it. What can be read becomes words; what cannot (files, voice messages,
messages that Discord does not show the bot) is named.

Everything here is people's text. It is given to models only; what is shown of it goes through `shown_name`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import discord

from bot.replies.limits import one_line, shortened
from bot.replies.markdown import code_in

_NAME_LIMIT = 64  # characters of a person's, role's or file's name
_PART_LIMIT = 4_000  # characters of an embed, a poll or a forwarded message
_PARTS_LIMIT = 10
_UNREAD_FORWARD = "the forwarded message"  # Discord leaves out polls, and forwards in forwards

_MARKUP = re.compile(
    r"<@!?(?P<person>\d{1,20})>"
    r"|<@&(?P<role>\d{1,20})>"
    r"|<#(?P<channel>\d{1,20})>"
    r"|<a?:(?P<emoji>\w{1,64}):\d{1,20}>"
    r"|<t:(?P<time>-?\d{1,17})(?::[A-Za-z])?>"
    r"|</(?P<command>[^<>:\n]{1,100}):\d{1,20}>"
    r"|<id:(?P<place>[a-z-]{1,20})(?::\d{1,20})?>"
    r"|<sound:\d{1,20}:(?P<sound>\d{1,20})>",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class MessageText:
    """What a message says.

    Attributes:
        words: what can be read; empty if there is nothing.
        unread: what cannot be read, as in "the file a.pdf", ready to be shown.
    """

    words: str = ""
    unread: tuple[str, ...] = ()


def text_of(
    message: discord.Message | discord.MessageSnapshot,
    guild: discord.Guild | None,
    *,
    without: Sequence[int] = (),
) -> MessageText:
    """What a message, or one that was forwarded, says.

    Args:
        message: as far as Discord shows it to the bot.
        guild: where it is, for names.
        without: ids of people and roles whose mentions are left out: the bot's own.
    """
    people: Iterable[discord.abc.User] = getattr(message, "mentions", ())
    words = readable(message.content, guild, people, without=without)
    parts = [f"[sticker: {_name(one.name)}]" for one in message.stickers]
    unread = [_file(one) for one in message.attachments]
    for embed in message.embeds[:_PARTS_LIMIT]:
        if (text := _embed_text(embed)) and text not in words:
            parts.append(f"[embed]\n{readable(text, guild, people)}")
    # discord.py leaves the attribute out where Discord leaves the field out, as it may.
    if text := "\n".join(_component_texts(getattr(message, "components", ()))):
        parts.append(readable(text, guild, people))
    if (poll := getattr(message, "poll", None)) is not None:
        parts.append(_poll_text(poll))
    if is_forward(message):
        said = [text_of(one, guild) for one in getattr(message, "message_snapshots", ())[:_PARTS_LIMIT]]
        parts += [f"[forwarded message]\n{one.words}" for one in said if one.words]
        unread += [name for one in said for name in one.unread]
        if not any(one.words or one.unread for one in said):
            unread.append(_UNREAD_FORWARD)
    whole = "\n\n".join(one for one in (words, *(part[:_PART_LIMIT] for part in parts)) if one)
    return MessageText(whole.strip(), tuple(dict.fromkeys(unread)))


def is_forward(message: discord.Message | discord.MessageSnapshot) -> bool:
    """Whether a message only passes on another one. It refers to that as a reply does."""
    reference = getattr(message, "reference", None)
    return reference is not None and reference.type is discord.MessageReferenceType.forward


def readable(
    text: str,
    guild: discord.Guild | None,
    people: Iterable[discord.abc.User] = (),
    *,
    without: Sequence[int] = (),
) -> str:
    """A text with names in the place of Discord's numbers, but for its code: there Discord shows the numbers, too.

    Args:
        text: what somebody wrote.
        guild: where, for the names of its members, roles and channels.
        people: who is mentioned, as far as Discord said so.
        without: ids of people and roles whose mentions are left out.
    """
    if "<" not in text:
        return text.strip()
    known = {one.id: one.display_name for one in people}
    names: dict[str, str] = {}  # a message of 4,000 characters can mention somebody a thousand times

    def name(found: re.Match[str]) -> str:
        if found[0] not in names:
            names[found[0]] = _named(found, guild, known, without)
        return names[found[0]]

    parts, at = [], 0
    for begin, end in code_in(text).regions:
        parts += [_MARKUP.sub(name, text[at:begin]), text[begin:end]]
        at = end
    return "".join((*parts, _MARKUP.sub(name, text[at:]))).strip()


def _named(
    found: re.Match[str], guild: discord.Guild | None, known: dict[int, str], without: Sequence[int]
) -> str:
    kind, value = str(found.lastgroup), found[str(found.lastgroup)]
    if kind in ("person", "role") and int(value) in without:
        return ""
    if kind == "person":
        member = None if guild is None else guild.get_member(int(value))
        return f"@{_name(known.get(int(value)) or (member.display_name if member else '') or 'somebody')}"
    if kind == "role":
        role = None if guild is None else guild.get_role(int(value))
        return f"@{_name(role.name) if role else 'some role'}"
    if kind == "channel":
        channel = None if guild is None else guild.get_channel_or_thread(int(value))
        return f"#{_name(channel.name) if channel else 'some channel'}"
    if kind == "time":
        return _time(int(value))
    shown = {"emoji": f":{value}:", "command": f"/{value}", "place": f"#{value}", "sound": "[a sound]"}
    return shown[kind]


def _time(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return "some time"


def _name(name: str) -> str:
    return shortened(one_line(name), _NAME_LIMIT)


def shown_name(name: str) -> str:
    """A file's name as it can be shown: one line, nothing in it does anything."""
    plain = re.sub(r"[^\w .,…()+-]", "_", _name(name))
    return discord.utils.escape_markdown(plain)


def _file(attachment: discord.Attachment) -> str:
    if attachment.is_voice_message():
        return "the voice message"
    kind = "picture" if (attachment.content_type or "").startswith("image/") else "file"
    return f"the {kind} {shown_name(attachment.filename)}"


def _embed_text(embed: discord.Embed) -> str:
    author, footer = embed.author.name, embed.footer.text
    fields = [f"{field.name}: {field.value}" for field in embed.fields]
    return "\n".join(text for text in (author, embed.title, embed.description, *fields, footer) if text)


def _poll_text(poll: discord.Poll) -> str:
    """The question and the answers. Either may be an emoji alone, or nothing."""
    answers = [" ".join(str(part) for part in (one.emoji, one.text) if part) for one in poll.answers]
    return "\n".join((f"[poll] {poll.question or ''}".rstrip(), *(f"- {answer}" for answer in answers)))


def _component_texts(components: Iterable[object]) -> Iterator[str]:
    """The texts of a message that a bot built of components, which has no content. They nest two deep."""
    for one in components:
        if isinstance(one, discord.TextDisplay):
            yield one.content
        yield from _component_texts(getattr(one, "children", ()))
