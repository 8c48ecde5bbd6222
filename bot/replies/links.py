"""Finds in a message what Discord makes of it by itself: links to Discord, invitations, and mentions. Pure.

One reader decides what is clickable, and where it leads. `docs/discord-markdown.md` has the rules and their sources.

A link leads where a browser would go: user names, ports, escapes, capitals and letters of other alphabets that mean
the same host do not hide it. Any link to one of Discord's hosts counts: which paths unfold into a card is Discord's
business. An invitation needs no scheme.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

_SCHEME = r"(?:https?|steam)://"
_BARE_HOST = r"discord(?:\.(?:gg|gift|new)|(?:app)?\.com)"
_LONGEST_SUBDOMAIN = 32  # characters that are looked at before a host without a scheme
_LONGEST_HOST = 512  # characters; a browser takes 253, which escapes can make longer

_BEGINS = re.compile(rf"(?P<scheme><?{_SCHEME})|{_BARE_HOST}", re.I)
_AUTHORITY = re.compile(r"[/\\]*(?P<authority>[^/\\?#\s<]*)")
_ADDRESS_END = re.compile(rf"[\s<>]|{_SCHEME}", re.I)
_INVITATION_PATH = re.compile(r"(?:[/\\]+[\w\-%]+)+")
_NO_HOST = re.compile(r"[>*_~|`\[\]\"'()]")  # in front of a host, one belongs to a user's name
_SLASHES = re.compile(r"[/\\]+")
_INVITE = re.compile(r"[/\\]+(?:invite|gifts|template)[/\\]+[\w\-%]", re.I)
_SUBDOMAIN = re.compile(r"[a-z0-9.-]*\Z", re.I)
_DISCORD = re.compile(r"(?:^|\.)(?:discord\.(?:gg|com|gift|new)|discordapp\.com)\Z")
_DOTS = str.maketrans("。｡．", "...")
_TRAILING = ".,:;\"')!?"  # ends a sentence, not an address
# Emphasis, a spoiler, code, a label or a target that begins before an address can end at one of these in it.
_MARK = re.compile(r"[*~|`\[\]()\\]|_(?![0-9A-Za-z])")

# The beginning of a mention of a person or a role, which Discord shows by name.
MENTION = re.compile(r"<(?=@[!&]?\d+>)")


@dataclass(frozen=True, slots=True)
class DiscordLink:
    """A link to Discord in a text.

    Attributes:
        begin: where it begins, angle brackets included.
        end: where it ends.
        address: without angle brackets; with a scheme.
        is_hidden: angle brackets around the address would not hold, because of what stands in front of its host.
    """

    begin: int
    end: int
    address: str
    is_hidden: bool = False


def discord_links(text: str) -> Iterator[DiscordLink]:
    """The links to Discord that are clickable, or unfold into a card, in a text without code."""
    at = 0
    for found in _BEGINS.finditer(text):
        if found.start() < at:
            continue  # within the address before
        if not found["scheme"]:
            link = _without_scheme(text, found, at)
        else:
            end = _end_of_address(text, found.end())
            link = _with_scheme(text, found, end)
            mark = _MARK.search(text, found.end(), end)
            at = end if mark is None else mark.start()
        if link is not None:
            yield link
            at = link.end


def _end_of_address(text: str, begin: int) -> int:
    """Where an address ends whose scheme ends at `begin`: at white space, an angle bracket or another scheme."""
    found = _ADDRESS_END.search(text, begin)
    return len(text) if found is None else found.start()


def _with_scheme(text: str, found: re.Match[str], end: int) -> DiscordLink | None:
    authority = _AUTHORITY.match(text, found.end())
    assert authority is not None  # noqa: S101
    bracket = found[0].startswith("<")
    begin = found.start() + bracket
    host_begins = authority.start("authority")
    mark = _NO_HOST.search(text, host_begins, min(authority.end(), max(end, host_begins)))
    host_ends = max(host_begins, min(authority.end(), end)) if mark is None else mark.start()
    if not leads_to_discord(text[host_begins:host_ends]):
        parts = _NO_HOST.split(authority["authority"])
        if not any(map(leads_to_discord, parts[1:])):
            return None
        return DiscordLink(found.start(), found.end(), text[begin : found.end()], is_hidden=True)
    if (mark := _MARK.search(text, host_ends, end)) is not None:
        end = mark.start()
    end = max(host_ends, begin + len(text[begin:end].rstrip(_TRAILING)))
    closed = bracket and text.startswith(">", end)
    return DiscordLink(found.start(), end + closed, text[begin:end])


def _without_scheme(text: str, found: re.Match[str], since: int) -> DiscordLink | None:
    """An invitation, a gift or a server's template that begins with its host."""
    path = _INVITATION_PATH.match(text, found.end())
    if path is None or not (not found[0].lower().endswith(".com") or _INVITE.match(text, found.end())):
        return None
    before = _SUBDOMAIN.search(text, max(since, found.start() - _LONGEST_SUBDOMAIN), found.start())
    assert before is not None  # noqa: S101
    if before[0] and not before[0].endswith("."):
        return None  # another host
    begin = before.start() + len(before[0]) - len(before[0].lstrip(".-"))
    mark = _MARK.search(path[0].replace("\\", "/"))
    end = path.end() if mark is None else path.start() + mark.start()
    address = _SLASHES.sub("/", text[begin:end])
    return DiscordLink(begin, end, f"https://{address}")


def leads_to_discord(authority: str) -> bool:
    """Whether the part of an address between its scheme and its path names one of Discord's hosts."""
    host = authority.rpartition("@")[2][:_LONGEST_HOST]
    host = unicodedata.normalize("NFKC", unquote(host).translate(_DOTS)).casefold()
    host = host.rpartition("@")[2]
    host = "".join(letter for letter in host if letter.isalnum() or letter in ".-:")
    # What is no port is no host either to a browser. What Discord makes of that is not known: any part may count.
    return any(_DISCORD.search(part.rstrip(".")) for part in host.split(":"))
