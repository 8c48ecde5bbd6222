"""The commands in other languages: the words of `bot/locales/*.toml`, a file for each language beside English."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import discord
from discord import app_commands
from discord.app_commands import TranslationContextLocation as At

LOCALES = Path(__file__).parent / "locales"

Words = Mapping[str, Mapping[str, str]]  # "joke topic" → "name" and "description"

_FIELDS = {
    At.command_name: "name",
    At.command_description: "description",
    At.group_name: "name",
    At.group_description: "description",
    At.parameter_name: "name",
    At.parameter_description: "description",
    At.choice_name: "name",
}


class FileTranslator(app_commands.Translator):
    """Says what a command, an option or a choice is called in a language that has a file; the file is read once.

    What no file has a word for stays English: discord.py leaves it out of what it registers.

    Args:
        tree: the commands; a choice does not know which option it belongs to, so it is looked for there.
    """

    def __init__(self, tree: app_commands.CommandTree[Any]) -> None:
        self._tree = tree
        self._words = read_words(LOCALES)

    async def translate(
        self,
        string: app_commands.locale_str,
        locale: discord.Locale,
        context: app_commands.TranslationContextTypes,
    ) -> str | None:
        """The word for something, or None to leave it English."""
        words = self._words.get(locale)
        field = _FIELDS.get(context.location)
        if words is None or field is None:
            return None
        return words.get(self._key(context), {}).get(field)

    def _key(self, context: app_commands.TranslationContextTypes) -> str:
        """What is translated, as it is typed: a command, an option behind it, a choice behind that."""
        data: Any = context.data
        if isinstance(data, app_commands.Parameter):
            return _option_key(data)
        if isinstance(data, app_commands.Choice):
            of = next((option for option in self._options() if _has(option, data)), None)
            return "" if of is None else f"{_option_key(of)} {data.value}"
        return str(data.qualified_name)

    def _options(self) -> list[app_commands.Parameter]:
        every = self._tree.walk_commands()
        return [option for one in every if isinstance(one, app_commands.Command) for option in one.parameters]


def read_words(folder: Path) -> dict[discord.Locale, Words]:
    """The words of every language that has a file in the folder, named for Discord's code of the language."""
    files = {locale: folder / f"{locale.value}.toml" for locale in discord.Locale}
    return {
        locale: tomllib.loads(file.read_text(encoding="utf-8"))
        for locale, file in files.items()
        if file.exists()
    }


def _option_key(option: app_commands.Parameter) -> str:
    return f"{option.command.qualified_name} {option.display_name}"


def _has(option: app_commands.Parameter, choice: app_commands.Choice[Any]) -> bool:
    """Whether it is this very choice: choices of two options may be equal."""
    return any(one is choice for one in option.choices)
