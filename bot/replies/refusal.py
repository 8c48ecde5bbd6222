"""What Discord's refusals mean for a reply: its place is gone, or one request will never be taken.

A refused *new* message or file says nothing about the messages that exist: a bot without Send Messages or Attach Files
still edits its own. So only a refused edit shows that a reply's place is gone.
"""

from __future__ import annotations

import discord

from bot.replies.shown import Shown

_GONE = (50083, 50027)  # an archived thread, a dead token: neither 403 nor 404
_MISSING_PERMISSION = (50001, 50013)
_TOO_LARGE = (40005,)
_TOO_MANY_FOLLOW_UPS = (40094,)
_SLOW_MODE = (20016, 20028)
_CLOSED_THREAD = (50083, 160005)
_BLOCKED_WORDS = (200000, 200001, 240000)
# Slow mode, too many edits of an old message, a busy service: the same request may be taken later.
_FOR_NOW = (20016, 20028, 20029, 30046, 40062)

_NOT_TAKEN = (50035, 50109)  # the body of the request
_LONGEST_ASKED_S = 600.0


def is_gone(error: discord.HTTPException) -> bool:
    """Whether the refusal of an edit says that nothing can be shown there any more: the message is deleted, the channel
    closed to the bot, the thread archived, or the token dead."""
    gone = isinstance(error, discord.NotFound | discord.Forbidden) or error.status == 401
    return gone or error.code in _GONE


def retry_after_s(error: BaseException) -> float:
    """How long Discord asks to wait before the request is made again; 0 where it names nothing to wait for."""
    told = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "0")
    try:
        seconds = float(told)
    except ValueError:  # a date
        return 0.0
    return seconds if 0 < seconds <= _LONGEST_ASKED_S else 0.0


def is_refusal(error: BaseException) -> bool:
    """Whether Discord will refuse the same request again: any 4xx but a rate limit."""
    return isinstance(error, discord.HTTPException) and 400 <= error.status < 500 and error.status != 429


def is_final(error: BaseException) -> bool:
    """Whether the refusal of an edit is for good: Discord takes neither these words nor more of them."""
    return isinstance(error, discord.HTTPException) and is_refusal(error) and error.code not in _FOR_NOW


def blocks_words(error: BaseException) -> bool:
    """Whether a server's AutoMod or Discord's own filter does not let the words pass."""
    return isinstance(error, discord.HTTPException) and error.code in _BLOCKED_WORDS


def why_refused(error: discord.HTTPException, *, has_file: bool = False) -> str:
    """The reason in a few words for people, without Discord's text, which can quote what somebody wrote."""
    reasons = (
        (_MISSING_PERMISSION, f"the bot may not {'attach files' if has_file else 'send messages'} here"),
        (_TOO_LARGE, "it is too large for this place"),
        (_TOO_MANY_FOLLOW_UPS, "Discord allows no more messages where you brought the bot yourself"),
        (_SLOW_MODE, "slow mode is on here"),
        (_CLOSED_THREAD, "this thread is closed"),
        (_NOT_TAKEN, "Discord does not take its words"),
        (_BLOCKED_WORDS, "this server's rules (AutoMod) or Discord's filter do not take its words"),
    )
    for codes, reason in reasons:
        if error.code in codes:
            return reason
    if error.status == 413:
        return "it is too large for this place"
    return f"Discord refused it ({error.status} {error.code})"


def take_refusal(shown: Shown, error: Exception, *, page: int, is_new: bool, has_file: bool) -> bool:
    """Adapt what is shown to a request that Discord will never take; whether there is something else to show now.

    A refused further message has the one before it carry the end. Other refused words make way for a sentence; an
    answer that still grows is then over, for whatever it goes on with stands behind the words that were refused.
    """
    if not isinstance(error, discord.HTTPException) or not is_refusal(error):
        return False
    why = why_refused(error, has_file=has_file)
    if is_new and page > 0:
        shown.refuse_pages(page, why)
        return True
    if is_gone(error) or not is_final(error):
        return False
    return shown.refuse_words(page, why)
