"""Discord's limits on what is shown, and cutting texts and cards to them.

Lengths count in UTF-16 units, see `pages.units`: what fits so counted fits however Discord counts. The texts may come
from an operator's catalogue, a moderator or a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import discord

from bot.replies.characters import without_hidden_characters
from bot.replies.harmless import with_plain_links
from bot.replies.pages import MESSAGE_LIMIT, units

CHOICE_NAME_LIMIT = 100  # of a choice in autocomplete; of a value too
OPTION_LIMIT = 100  # of an option's label and description in a select
TITLE_LIMIT = 256  # of a card; of a field's name too
DESCRIPTION_LIMIT = 4_096
FIELD_LIMIT = 1_024
FOOTER_LIMIT = 2_048
CARD_LIMIT = 6_000
FIELDS_LIMIT = 25
_LOOK = 4  # times as long as what may be shown; the rest is not read, however much of this is hidden


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning with "…" where it is longer than `limit` units."""
    if units(text) <= limit:
        return text
    taken = 0
    for at, character in enumerate(text):
        taken += units(character)
        if taken > limit - 1:
            return f"{text[:at].rstrip()}…"
    return text


def safe(text: str, limit: int) -> str:
    """Somebody's text as it may be shown, within `limit` units: nothing hidden, no masked link, no invitation, nobody
    named by number. For a whole message, or a part of one without code around it."""
    looked_at = text[: _LOOK * limit]  # a library's error may be of any length
    text = without_hidden_characters(looked_at) + "…" * (len(looked_at) < len(text))
    room = limit
    while room > 0:
        shown = with_plain_links(shortened(text, room))
        if (excess := units(shown) - limit) <= 0:
            return shown
        room -= excess
    return ""


def one_line(text: str) -> str:
    """The text without line breaks, runs of white space and hidden characters."""
    return " ".join(without_hidden_characters(text).split())


def fitted(card: discord.Embed) -> discord.Embed:
    """The same card, with each part safe to show, and each part and the whole within Discord's limits."""
    if card.title is not None:
        card.title = safe(card.title, TITLE_LIMIT)
    if card.description is not None:
        card.description = safe(card.description, DESCRIPTION_LIMIT)
    if card.footer.text is not None:
        card.set_footer(text=safe(card.footer.text, FOOTER_LIMIT))
    while len(card.fields) > FIELDS_LIMIT:
        card.remove_field(FIELDS_LIMIT)
    for at, field in enumerate(card.fields):
        name, value = safe(field.name or "", TITLE_LIMIT), safe(field.value or "", FIELD_LIMIT)
        card.set_field_at(at, name=name, value=value, inline=bool(field.inline))
    while card.fields and _units_of(card) > CARD_LIMIT:
        card.remove_field(len(card.fields) - 1)
    return card


def packed(entries: Sequence[str], *, most: int, limit: int = MESSAGE_LIMIT) -> list[list[str]]:
    """Entries that are lines of a message, on pages of at most `most` entries and `limit` units each."""
    pages: list[list[str]] = []
    room = 0
    for one in entries:
        entry = shortened(one, limit)
        size = units(entry) + 1
        if not pages or len(pages[-1]) >= most or size > room:
            pages.append([])
            room = limit + 1
        pages[-1].append(entry)
        room -= size
    return pages


def _units_of(card: discord.Embed) -> int:
    texts = [card.title or "", card.description or "", card.footer.text or ""]
    texts += [text for field in card.fields for text in (field.name or "", field.value or "")]
    return sum(map(units, texts))
