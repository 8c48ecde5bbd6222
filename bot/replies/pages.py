"""Cutting a text into messages that Discord takes. Pure, no I/O.

A page depends only on the text up to its own end, so a page that was shown full never changes while more
text arrives.
"""

from __future__ import annotations

MESSAGE_LIMIT = 2_000  # characters of content, Discord API v10
FOOTER_ROOM = 160  # kept free on every page, for the status or the footer under the last one
PAGE_LIMIT = MESSAGE_LIMIT - FOOTER_ROOM

# Where a page may end, the best first. Each is looked for in the last half of the page.
_BREAKS = ("\n\n", "\n", ". ", "! ", "? ", " ")


def split_pages(text: str, limit: int = PAGE_LIMIT) -> list[str]:
    """The text in pieces of at most `limit` UTF-16 units, cut at a paragraph, line, sentence or word.

    Joined, the pieces are the text, less pieces of nothing but white space: Discord refuses those.
    """
    pages: list[str] = []
    start = 0
    while (room := _fitting(text, start, limit)) < len(text):
        end = start + _cut(text[start:room])
        if text[start:end].strip():
            pages.append(text[start:end])
        start = end
    if text[start:].strip() or not pages:
        pages.append(text[start:])
    return pages


def _fitting(text: str, start: int, limit: int) -> int:
    """The end of the longest piece from `start` that fits, one character at least. Counted in UTF-16 units, as
    Discord's clients count: never less than in characters, so that it fits however the server counts."""
    end = min(len(text), start + limit)
    while (
        end > start + 1
        and (excess := len(text[start:end].encode("utf-16-le", "surrogatepass")) // 2 - limit) > 0
    ):
        end = max(start + 1, end - (excess + 1) // 2)
    return end


def _cut(page: str) -> int:
    for separator in _BREAKS:
        at = page.rfind(separator, len(page) // 2)
        if at >= 0:
            return at + len(separator)
    return len(page)
