"""Making what a model writes safe to show. Pure.

Pings are dealt with where messages are sent (`surface.py`), characters that hide or reverse text in `characters.py`.
Here: links that say one thing and lead elsewhere, and invitations that Discord would unfold into a card.
"""

from __future__ import annotations

import re

from bot.replies.certain_code import LINK_TARGET, certain_code

_INVITATION = r"<?https?://(?:www\.)?(?:discord\.gg|discord(?:app)?\.com/invite)/[\w-]+>?"
_PARTS = re.compile(rf"(?P<mask>{LINK_TARGET.pattern})|(?P<invitation>{_INVITATION})")

# Everything `with_plain_links` may make longer, in one pattern that needs to see nothing behind it, and by how much.
GROWS = re.compile(r"\]\(|[/.]discord")
GROWTH = {"](": 1, "/discord": 2, ".discord": 2}
GROWS_LONGEST = max(map(len, GROWTH))


def with_plain_links(message: str) -> str:
    """The same message with its links as they are: a masked one shows where it leads, an invitation stays a line.

    What Discord shows as code for certain is left alone; what only may be code is not.

    Args:
        message: all of a message's content. Where code begins depends on all that is before and behind it.
    """
    if GROWS.search(message) is None:
        return message
    parts, at = [], 0
    for begin, end in certain_code(message) if "`" in message else ():
        parts += [_PARTS.sub(_plain, message[at:begin]), message[begin:end]]
        at = end
    return "".join((*parts, _PARTS.sub(_plain, message[at:])))


def _plain(found: re.Match[str]) -> str:
    if found["mask"]:
        return "]\\("
    return f"<{found['invitation'].strip('<>')}>"
