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
    words = " ".join(typed.split()[:3]).removeprefix("/")
    names = [name for name in commands if f"{words} ".startswith(f"{name} ")]
    if not typed.strip().startswith("/") or not names:
        known = ", ".join(f"/{command}" for command in commands)
        raise UsageError(f"'{typed.strip()[:60]}' is none of the commands: {known}.")
    name = max(names, key=len)  # of "/model" and "/model set", the latter
    rest = typed.strip().removeprefix("/").split(maxsplit=len(name.split()))[len(name.split()) :]
    options = tuple(commands[name])
    parts = (
        re.split(rf"(?:^|\s)({'|'.join(map(re.escape, options))}):", "".join(rest))
        if options
        else rest or [""]
    )
    if parts[0].strip():
        form = " ".join(f"{option}:…" for option in options)
        raise UsageError(f"'{parts[0].strip()[:60]}' is no option of /{name}: write /{name} {form}")
    values = {option: value.strip() for option, value in zip(parts[1::2], parts[2::2], strict=True)}
    if empty := next((option for option, value in values.items() if not value), None):
        raise UsageError(f"'{empty}:' has no value: write {empty}:something, or leave it out.")
    return name, values
