"""What people do, as Discord's gateway tells of it."""

from __future__ import annotations

from typing import Any

from bot.bench.discord_payloads import APPLICATION_ID, GUILD_ID, command_payload, mention_payload
from tests.soak.messages import Asked, Message

EVERYTHING = str(2**50 - 1)
_TYPES = {str: 3, int: 4}


def command(
    asked: Asked, name: str, options: dict[str, str | int], about: int | None = None
) -> dict[str, Any]:
    """A slash command; a name of two words is a subcommand's.

    Args:
        asked: by whom, and where.
        name: the command.
        options: what is filled in.
        about: the id of the person in the option `who`.
    """
    root, _, subcommand = name.partition(" ")
    filled: list[dict[str, Any]] = [
        {"name": key, "type": _TYPES[type(value)], "value": value} for key, value in options.items()
    ]
    data: dict[str, Any] = {"id": "900", "name": root, "type": 1}
    if about is not None:
        filled.append({"name": "who", "type": 9, "value": str(about)})
        member = {"roles": [], "joined_at": "2026-01-01T00:00:00+00:00", "permissions": "0", "flags": 0}
        data["resolved"] = {"users": {str(about): person(about)}, "members": {str(about): member}}
    if subcommand:
        filled = [{"name": subcommand, "type": 1, "options": filled}]
    return _interaction(asked) | {"data": data | {"options": filled}}


def press(asked: Asked, message: Message, custom_id: str, value: str | None = None) -> dict[str, Any]:
    """A press on a button under a message, or the choice of a value."""
    data: dict[str, Any] = {"custom_id": custom_id, "component_type": 2 if value is None else 3}
    component: dict[str, Any] = {"type": data["component_type"], "custom_id": custom_id, "id": 1}
    if value is None:
        component |= {"style": 2, "label": "A button"}
    else:
        data["values"] = [value]
        component |= {"options": [{"label": value, "value": value}]}
    # Discord sends the message with what was pressed in it, and discord.py looks for it there.
    shown = message.payload() | {"components": [{"type": 1, "id": 2, "components": [component]}]}
    return _interaction(asked) | {"type": 3, "message": shown, "data": data}


def mention(asked: Asked, words: str, answer: Message | None = None) -> dict[str, Any]:
    """A message to the bot; perhaps a reply to an answer of its."""
    payload = mention_payload(asked.number, words)
    payload |= {"author": person(asked.person), "channel_id": str(asked.channel)}
    if answer is not None:
        where = {"message_id": str(answer.id), "channel_id": str(answer.channel), "guild_id": GUILD_ID}
        payload |= {"type": 19, "message_reference": where}
        payload["referenced_message"] = answer.payload()
    return payload


def person(number: int) -> dict[str, Any]:
    """Somebody."""
    return {"id": str(number), "username": f"user{number}", "discriminator": "0", "avatar": None}


def _interaction(asked: Asked) -> dict[str, Any]:
    payload = command_payload(asked.number, "ask")
    channel = payload["channel"] | {"id": str(asked.channel)}
    member = payload["member"] | {"user": person(asked.person), "permissions": EVERYTHING}
    return payload | {
        "channel_id": str(asked.channel),
        "channel": channel,
        "member": member,
        "app_permissions": EVERYTHING,
        "application_id": APPLICATION_ID,
    }
