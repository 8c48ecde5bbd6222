"""Making what a model or a person writes safe to show. Pure.

Nothing that is sent notifies anybody: `allowed_mentions` goes with every message (`surface.py`). Characters that hide
or reverse text are removed in `characters.py`. Here: links that say one thing and lead elsewhere, invitations that
Discord would unfold into a card, and mentions that Discord would show under somebody's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bot.replies.certain_code import LINK_TARGET, certain_code
from bot.replies.links import MENTION, discord_links

_ROUNDS = 3  # each may change what is code

# All that `with_plain_links` may make longer, in one pattern that needs to see nothing behind it, and by how much.
GROWS = re.compile(r"\]\(|://|<@|discord(?:\.(?:gg|gift|new)|(?:app)?\.com)", re.I)
GROWTH = {"](": 1, "://": 3, "<@": 1} | dict.fromkeys(
    ("discord.gg", "discord.gift", "discord.new", "discord.com", "discordapp.com"), 11
)
GROWS_LONGEST = max(map(len, GROWTH))


def growth(trigger: str) -> int:
    """By how much `with_plain_links` makes a message longer for this match of `GROWS`, at most."""
    return GROWTH[trigger.lower()]


def with_plain_links(message: str) -> str:
    """The same message with its links as they are: a masked one shows where it leads, a link to Discord and an
    invitation stay a line, a mention is shown as its number.

    What Discord shows as code for certain is left alone; what only may be code is not.

    Args:
        message: all of a message's content. Where code begins depends on all that is before and behind it.
    """
    if GROWS.search(message) is None:
        return message
    for _ in range(_ROUNDS):
        plain = _outside_code(message, _with_flat_invitations)
        if plain == message:
            break
        message = plain
    else:
        message = _with_flat_invitations(message)
    return _outside_code(message, _with_broken_masks)


def _outside_code(message: str, change: Callable[[str], str]) -> str:
    parts, at = [], 0
    for begin, end in certain_code(message) if "`" in message else ():
        parts += [change(message[at:begin]), message[begin:end]]
        at = end
    return "".join((*parts, change(message[at:])))


def _with_broken_masks(text: str) -> str:
    return LINK_TARGET.sub("]\\\\(", text)


def _with_flat_invitations(text: str) -> str:
    parts, at = [], 0
    for link in discord_links(text):
        flat = link.address.replace("://", ":\\//") if link.is_hidden else f"<{link.address}>"
        before = text[at : link.begin]
        apart = " " if before.endswith("\\") else ""  # a backslash would make a letter of an angle bracket
        parts += [before, apart, flat]
        at = link.end
    return MENTION.sub(r"<\\", "".join((*parts, text[at:])))
