"""The small print of a reply: what somebody who waits reads, and what stands under an answer. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bot.errors import GenerationTimeout, QueueTimeout
from bot.inference.engine import Finished, FinishReason, Loading
from bot.replies.dialect import under
from bot.replies.limits import safe
from bot.replies.pages import MESSAGE_LIMIT, units

THINKING = "-# 💭 thinking…"
REST_FOLLOWS = "-# 📄 the rest comes as a file"
_ERROR_LIMIT = 1_000  # UTF-16 units, so that the lines under an answer fit a message
_REST_REFUSED = "-# 📄 the rest could not be posted"
_WAITING = "-# ⏳ "
READING = f"{_WAITING}Reading…"
_INTERRUPTED = "-# ⚡ interrupted"
_DOING = (
    THINKING,
    REST_FOLLOWS,
    _REST_REFUSED,
    _WAITING,
    _INTERRUPTED,
)  # that one where the bot was killed while it said so


def queued_line(position: int, eta_s: float | None) -> str:
    """What somebody who waits reads."""
    about = f" · about {spoken_eta(eta_s)}" if eta_s is not None else ""
    ahead = "You are next" if position == 1 else f"{position - 1} ahead of you"
    return f"{_WAITING}{ahead}{about}"


def loading_line(loading: Loading) -> str:
    """What somebody reads whose model is not in memory yet."""
    parts = [f"{_WAITING}{loading.step.capitalize()} {loading.model}"]
    if loading.fraction is not None and loading.fraction < 1:
        parts.append(f"{loading.fraction:.0%}")
    if loading.eta_s is not None:
        parts.append(f"about {spoken_eta(loading.eta_s)}")
    return " · ".join(parts)


def spoken_eta(seconds: float) -> str:
    """A wait for people: "9 s", "12 min"."""
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{round(seconds / 60)} min"


def rest_refused_line(why: str, *, in_details: bool = False) -> str:
    """What stands under the last message that there is, where Discord refuses a further one; `in_details` says that the
    whole answer is kept for the Details button."""
    where = " · the whole answer is behind Details" if in_details else ""
    return f"{_REST_REFUSED}: {why}{where}"


def enumerated(names: Sequence[str], most: int = 5) -> str:
    """Names for people: "a, b and c"; of very many only the first."""
    shown = list(names[:most])
    if (more := len(names) - len(shown)) > 0:
        shown.append(f"{more} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def unread_line(names: Sequence[str]) -> str:
    """What stands under an answer to a message that brought something which cannot be read."""
    return f"-# 📎 I cannot read {enumerated(names)} here"


def words_refused_text(why: str) -> str:
    """What stands in the place of words that Discord refuses."""
    return f"*(This part of the answer cannot be shown: {why}.)*"


def interrupted_text(content: str, model: str) -> str:
    """What a message says for good that a crash interrupted: its words, without what was being done, and that."""
    *before, last = content.split("\n")
    words = "\n".join(before) if last.startswith(_DOING) else content
    note = f"{_INTERRUPTED} by a restart · {model}"
    together = under(words, note).strip()
    return together if units(together) <= MESSAGE_LIMIT else f"{words}\n{note}".strip()


def ending_lines(finished: Finished, model: str, stopped_by: str | None = None, reference: str = "") -> str:
    """What stands under an answer: why it ended if that is not plain, and the numbers, in small print.

    Args:
        finished: how it ended.
        model: the alias.
        stopped_by: the name of who stopped it.
        reference: the number that the log has a failure under.
    """
    parts = [model]
    usage = finished.usage
    if usage.completion_tokens:
        parts.append(f"{usage.completion_tokens} tokens")
        if usage.tokens_per_second is not None:
            parts.append(f"{usage.tokens_per_second:.1f} tokens/s")
        parts.append(f"{usage.generation_s:.1f} s")
    match finished.reason:
        case FinishReason.CANCELLED:
            parts.insert(0, f"⏹ stopped by {stopped_by}" if stopped_by else "⏹ stopped")
        case FinishReason.LENGTH:
            parts.insert(0, "✂ cut at the token limit")
        case FinishReason.ERROR if isinstance(finished.error, GenerationTimeout | QueueTimeout):
            parts.insert(0, "⏱ timed out")
        case FinishReason.ERROR:
            parts.insert(0, "failed")
            if reference and reference not in str(finished.error):
                parts.append(f"reference {reference}")
    lines = [f"-# {' · '.join(parts)}"]
    if finished.error is not None:
        lines.insert(0, f"⚠️ {safe(finished.error.for_people, _ERROR_LIMIT)}")
    return "\n".join(lines)
