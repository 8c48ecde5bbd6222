"""Making what a model writes safe to show. Pure.

Pings are dealt with where messages are sent (`surface.py`). Here: characters that turn text around or hide it, links
that say one thing and lead elsewhere, and invitations that Discord would unfold into a card.
"""

from __future__ import annotations

import re

from bot.replies.certain_code import LINK_TARGET, certain_code

_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
# Embeddings, overrides and isolates of direction, and tags: nothing a person would see, and used to deceive.
_CONTROLS |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xE0000, 0xE0080)))

_INVITATION = r"<?https?://(?:www\.)?(?:discord\.gg|discord(?:app)?\.com/invite)/[\w-]+>?"
_PARTS = re.compile(rf"(?P<mask>{LINK_TARGET.pattern})|(?P<invitation>{_INVITATION})")

# Everything `with_plain_links` may make longer, in one pattern that needs to see nothing behind it, and by how much.
GROWS = re.compile(r"\]\(|[/.]discord")
GROWTH = {"](": 1, "/discord": 2, ".discord": 2}
GROWS_LONGEST = max(map(len, GROWTH))


def without_controls(text: str) -> str:
    """The text without characters that cannot be seen and do something; line ends and tabs stay."""
    return text.translate(_CONTROLS)


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
