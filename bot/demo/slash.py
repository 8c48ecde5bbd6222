"""A typed slash command to a name and options, as Discord's own input box would make them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from bot.errors import UsageError


def parse_slash(typed: str, commands: Mapping[str, Iterable[str]]) -> tuple[str, dict[str, str]]:
    """Take `/joke topic:cats and dogs model:smol` apart.

    A value goes on until the next option of the command, so it may hold spaces and colons.

    Args:
        typed: the command.
        commands: each command's options by its name.

    Raises:
        UsageError: it is none of the commands, or not in this form; says what is.
    """
    name, _, rest = typed.strip().removeprefix("/").partition(" ")
    if not typed.strip().startswith("/") or name not in commands:
        known = ", ".join(f"/{command}" for command in commands)
        raise UsageError(f"'{typed.strip()[:60]}' is none of the commands: {known}.")
    options = tuple(commands[name])
    parts = re.split(rf"(?:^|\s)({'|'.join(map(re.escape, options))}):", rest) if options else [rest]
    if parts[0].strip():
        form = " ".join(f"{option}:…" for option in options)
        raise UsageError(f"'{parts[0].strip()[:60]}' is no option of /{name}: write /{name} {form}")
    values = {option: value.strip() for option, value in zip(parts[1::2], parts[2::2], strict=True)}
    if empty := next((option for option, value in values.items() if not value), None):
        raise UsageError(f"'{empty}:' has no value: write {empty}:something, or leave it out.")
    return name, values
