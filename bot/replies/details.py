"""All that is needed to have an answer again: for people as a card, for programs as a document. Pure."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Any

import discord

from bot.inference.catalog import place_for_people
from bot.replies.characters import with_escapes, without_hidden_characters
from bot.replies.limits import fitted

_COLOUR = 0x5FBF8F
_SHOWN = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "min_new_tokens")
_LIBRARIES = ("torch", "transformers", "bitsandbytes")


def details_card(
    reply_id: str, alias: str, reason: str, request: dict[str, Any], numbers: dict[str, Any]
) -> discord.Embed:
    """The card.

    Args:
        reply_id: the number of the reply.
        alias: the model's.
        reason: why it ended.
        request: the model's place, revision and quantization, and the sampling, as they are kept.
        numbers: the usage, as it is kept.
    """
    sampling = request["sampling"]
    card = discord.Embed(title=f"How {alias} answered", colour=_COLOUR)
    quantization = {"nf4": "NF4, double quantization, bfloat16 compute", "none": "none, bfloat16"}
    card.add_field(
        name="Model",
        value=f"`{place_for_people(request['model'])}`\nrevision `{request['revision']}`\n"
        f"quantization: {quantization.get(request['quantization'], request['quantization'])}",
        inline=False,
    )
    card.add_field(name="Seed", value=f"`{sampling['seed']}`", inline=False)
    values = [f"{name} {sampling[name]:g}" for name in _SHOWN if name in sampling]
    card.add_field(name="Sampling", value=" · ".join(values), inline=False)
    card.add_field(name="Tokens and times", value=_numbers(numbers), inline=False)
    card.set_footer(text=f"{reply_id} · {reason or 'under way'}")
    return fitted(card)


def details_document(
    reply_id: str, alias: str, reason: str, request: dict[str, Any], numbers: dict[str, Any]
) -> dict[str, Any]:
    """The same with what the model was given to read, and the versions of what ran it."""
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    return {
        "reply": reply_id,
        "alias": alias,
        **request,
        "model": place_for_people(request["model"]),
        "ended_by": reason,
        "usage": numbers,
        "versions": {"python": platform.python_version(), **versions},
    }


def as_json(document: dict[str, Any]) -> str:
    """The document as a file. It is exact: what would be hidden in a text is written as an escape."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return text if without_hidden_characters(text) == text else with_escapes(text)


def _numbers(numbers: dict[str, Any]) -> str:
    if not numbers:
        return "not known: the bot was interrupted"
    parts = [f"{numbers['prompt_tokens']} tokens read, {numbers['completion_tokens']} written"]
    if numbers["time_to_first_token_s"] is not None:
        parts.append(f"first token after {numbers['time_to_first_token_s']:.2f} s")
    parts.append(f"{numbers['generation_s']:.1f} s in all")
    if numbers["completion_tokens"] and numbers["generation_s"]:
        parts.append(f"{numbers['completion_tokens'] / numbers['generation_s']:.1f} tokens/s")
    return " · ".join(parts)
