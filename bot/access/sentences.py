"""What somebody reads who has had what is theirs for now. Pure.

Times are Discord's own marks, which everybody sees in their own words: "in 40 seconds".
"""

from __future__ import annotations

import math

from bot.storage.usage import ScopeKind

_WHO = {
    ScopeKind.PERSON: "You have",
    ScopeKind.MEMBER: "You have",
    ScopeKind.SERVER: "The people of this server have together",
}
_HERE = {
    ScopeKind.PERSON: "",
    ScopeKind.MEMBER: " here, which is what this server's moderators give you",
    ScopeKind.SERVER: "",
}


def asked_often(kind: ScopeKind, requests: int, opens_s: float) -> str:
    """For somebody who has asked as often as they may within a minute."""
    times = "once" if requests == 1 else f"{requests:,} times"
    return f"{_WHO[kind]} asked {times} within a minute{_HERE[kind]}. You can ask again {_mark(opens_s)}."


def tokens_used(kind: ScopeKind, tokens: int, opens_s: float) -> str:
    """For somebody who has used their tokens of a day."""
    used = f"used {tokens:,} tokens within a day"
    return f"{_WHO[kind]} {used}{_HERE[kind]}. You can ask again {_mark(opens_s)}."


def gpu_used(kind: ScopeKind, gpu_s: int, opens_s: float) -> str:
    """For somebody who has used their GPU time of a day."""
    used = f"used {spoken_time(gpu_s)} of GPU time within a day"
    return f"{_WHO[kind]} {used}{_HERE[kind]}. You can ask again {_mark(opens_s)}."


def holds_many(kind: ScopeKind, most: int) -> str:
    """For somebody who has as many requests under way as they may."""
    if kind is ScopeKind.SERVER:
        waiting = "One request" if most == 1 else f"{most:,} requests"
        return f"{waiting} from this server may wait or run at a time, and no more. Please try again in a minute."
    under_way = "An answer for you is" if most == 1 else f"{most:,} answers for you are"
    return (
        f"{under_way} on the way, and more at a time is not fair to others. Wait for one to end, or stop one."
    )


def prompt_long(characters: int, most: int) -> str:
    """For somebody whose question is too long."""
    return f"Your question has {characters:,} characters, and the most is {most:,}. Please make it shorter."


def spoken_time(seconds: float) -> str:
    """An amount of time: "90 s", "30 min", "24 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.0f} h"


def _mark(at_s: float) -> str:
    return f"<t:{math.ceil(at_s)}:R>"
