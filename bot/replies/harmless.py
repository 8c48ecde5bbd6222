"""Making what a model writes safe to show. Pure.

Pings are dealt with where messages are sent (`surface.py`). Here: characters that turn text around or hide it, links
that say one thing and lead elsewhere, and invitations that Discord would unfold into a card.
"""

from __future__ import annotations

import re

from bot.replies.markdown import Open, lines_of, read

_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
# Embeddings, overrides and isolates of direction, and tags: nothing a person would see, and used to deceive.
_CONTROLS |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xE0000, 0xE0080)))

_INVITATION = r"<?https?://(?:www\.)?(?:discord\.gg|discord(?:app)?\.com/invite)/[\w-]+>?"
_CODE = r"(?P<ticks>`+).+?(?P=ticks)"
_MASK = r"(?P<mask>\]\((?=\s*<?[a-zA-Z]+:))"
_PARTS = re.compile(rf"{_CODE}|{_MASK}|(?P<invitation>{_INVITATION})")


def without_controls(text: str) -> str:
    """The text without characters that cannot be seen and do something; line ends and tabs stay."""
    return text.translate(_CONTROLS)


def with_plain_links(text: str, before: Open) -> str:
    """The same text with its links as they are: a masked one shows where it leads, an invitation stays a line of text.

    Code is left alone.

    Args:
        text: a part of an answer.
        before: what is open where it begins.
    """
    lines = []
    for line in lines_of(text):
        lines.append(line if before.fence is not None else _PARTS.sub(_plain, line))
        before = read(line, before)
    return "".join(lines)


def _plain(found: re.Match[str]) -> str:
    if found["mask"]:
        return "]\\("
    if found["invitation"]:
        return f"<{found['invitation'].strip('<>')}>"
    return found[0]
