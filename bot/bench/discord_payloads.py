"""What Discord's gateway sends, as far as discord.py looks at it: a server, messages and commands."""

from __future__ import annotations

from typing import Any

APPLICATION_ID = "100"
CHANNEL_ID = "300"  # of the first channel; the others have the numbers behind it
GUILD_ID = "400"
BOT = {"id": APPLICATION_ID, "username": "Punchline", "discriminator": "0", "avatar": None, "bot": True}


def guild_payload(channels: int = 1) -> dict[str, Any]:
    """The gateway's GUILD_CREATE for the server, with its channels, in which everybody may do everything."""
    everyone = {"id": GUILD_ID, "name": "@everyone", "permissions": str(2**50 - 1), "position": 0}
    everyone |= {"color": 0, "hoist": False, "managed": False, "mentionable": False, "flags": 0}
    me = {
        "user": BOT,
        "roles": [],
        "joined_at": "2026-01-01T00:00:00+00:00",
        "deaf": False,
        "mute": False,
        "flags": 0,
    }
    return {
        "id": GUILD_ID,
        "name": "A server",
        "owner_id": "1",
        "roles": [everyone],
        "members": [me],
        "member_count": 1,
        "channels": [
            {"id": str(int(CHANNEL_ID) + number), "type": 0, "name": f"jokes-{number}", "position": number}
            | {"permission_overwrites": [], "nsfw": False, "topic": None, "parent_id": None}
            for number in range(channels)
        ],
    }


def mention_payload(number: int, question: str, *, channel: int = 0) -> dict[str, Any]:
    """The gateway's MESSAGE_CREATE for a message that mentions the bot in the server's channel of this number."""
    return {
        "id": str(10_000 + number),
        "channel_id": str(int(CHANNEL_ID) + channel),
        "guild_id": GUILD_ID,
        "author": _person(number),
        "member": {
            "roles": [],
            "joined_at": "2026-01-01T00:00:00+00:00",
            "deaf": False,
            "mute": False,
            "flags": 0,
        },
        "content": f"<@{APPLICATION_ID}> {question}",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [BOT],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "pinned": False,
        "type": 0,
    }


def _person(number: int) -> dict[str, Any]:
    return {"id": str(500 + number), "username": f"user{number}", "discriminator": "0", "avatar": None}


def command_payload(number: int, name: str, channel: int = 0, /, **options: str) -> dict[str, Any]:
    """The gateway's INTERACTION_CREATE for a slash command in the server's channel of this number; a name of two words
    is a subcommand's."""
    root, _, subcommand = name.partition(" ")
    filled: list[dict[str, Any]] = [
        {"name": key, "type": 3, "value": value} for key, value in options.items()
    ]
    if subcommand:
        filled = [{"name": subcommand, "type": 1, "options": filled}]
    channel_id = str(int(CHANNEL_ID) + channel)
    member = {
        "user": _person(number),
        "roles": [],
        "joined_at": "2026-01-01T00:00:00+00:00",
        "permissions": "0",
        "flags": 0,
    }
    return {
        "id": str(10_000 + number),
        "application_id": APPLICATION_ID,
        "type": 2,
        "token": f"token{number}",
        "version": 1,
        "guild_id": GUILD_ID,
        "channel_id": channel_id,
        "channel": {"id": channel_id, "type": 0, "guild_id": GUILD_ID, "name": "jokes", "position": 0},
        "member": member | {"deaf": False, "mute": False},
        "locale": "en-US",
        "app_permissions": "0",
        "entitlements": [],
        "authorizing_integration_owners": {},
        "context": 0,
        "attachment_size_limit": 10 * 2**20,
        "data": {"id": "900", "name": root, "type": 1, "options": filled},
    }
