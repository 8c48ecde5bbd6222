"""The commands as somebody sees them whose Discord is in Japanese, by what is sent to Discord."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import discord
import pytest
import regex

from bot.client import PunchlineBot
from bot.inference.scripted import ScriptedEngine
from bot.translator import LOCALES, read_words
from tests.world import World, open_world

# Discord API v10, the names of commands and options.
NAME = regex.compile(r"[-_'\p{L}\p{N}\p{sc=Deva}\p{sc=Thai}]{1,32}")
TEXT_LIMIT = 100


@dataclass(frozen=True)
class Shown:
    """Something with a name in what was sent to Discord: a command, an option or a choice."""

    key: str
    level: str
    is_choice: bool
    sent: dict[str, Any]

    def japanese(self, field: str) -> str | None:
        word: str | None = (self.sent.get(f"{field}_localizations") or {}).get("ja")
        return word


def shown(sent: list[dict[str, Any]], level: str = "", *, are_choices: bool = False) -> Iterator[Shown]:
    """All that has a name, from the commands down to the choices."""
    for one in sent:
        word = str(one["value"]) if are_choices else one["name"]
        key = f"{level} {word}".strip()
        yield Shown(key, level, are_choices, one)
        yield from shown(one.get("options", []), key)
        yield from shown(one.get("choices", []), key, are_choices=True)


def registrations(world: World) -> list[list[Shown]]:
    """What was registered, each time."""
    sent: list[Any] = [
        request.json
        for request in world.env.http_requests
        if request.method == "PUT" and request.path.endswith("/commands")
    ]
    return [list(shown(commands)) for commands in sent]


async def registered(folder: Path) -> list[Shown]:
    async with open_world(ScriptedEngine(), folder) as world:
        (once,) = registrations(world)
    return once


async def test_every_command_option_and_choice_has_a_japanese_name_that_discord_takes(tmp_path: Path) -> None:
    everything = await registered(tmp_path)
    assert {"joke", "ask prompt", "model set scope here", "gpu"} <= {one.key for one in everything}
    for one in everything:
        name = one.japanese("name")
        assert name, f"{one.key} has no name in ja.toml"
        if one.is_choice:
            assert len(name) <= TEXT_LIMIT
        else:
            assert NAME.fullmatch(name), f"{one.key} may not be called {name}"
            assert name == name.lower()


async def test_every_command_and_option_is_described_in_japanese(tmp_path: Path) -> None:
    described = [one for one in await registered(tmp_path) if not one.is_choice]
    texts = {one.key: one.japanese("description") or "" for one in described}
    assert [key for key, text in texts.items() if not 1 <= len(text) <= TEXT_LIMIT] == []
    assert [key for key, text in texts.items() if not regex.search(r"[\p{Hiragana}\p{Katakana}]", text)] == []


async def test_no_two_things_in_one_list_have_the_same_japanese_name(tmp_path: Path) -> None:
    names = Counter((one.level, one.japanese("name")) for one in await registered(tmp_path))
    assert [name for name, count in names.items() if count > 1] == []


async def test_the_same_english_word_has_its_own_words_in_each_place(tmp_path: Path) -> None:
    described = {one.key: one.japanese("description") for one in await registered(tmp_path)}
    places = ["joke model", "ask model", "model", "model set model", "model inspect model"]
    assert len({described[place] for place in places}) == len(places)


async def test_no_word_is_in_the_file_that_nothing_is_called_by(tmp_path: Path) -> None:
    used = {
        one.key: {"name"} if one.is_choice else {"name", "description"} for one in await registered(tmp_path)
    }
    written = {key: set(words) for key, words in read_words(LOCALES)[discord.Locale.japanese].items()}
    assert written == used


async def test_a_changed_word_registers_the_commands_again_and_the_same_words_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "locales"
    shutil.copytree(LOCALES, folder)
    monkeypatch.setattr("bot.translator.LOCALES", folder)
    async with open_world(ScriptedEngine(), tmp_path) as world:
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path))
        assert len(registrations(world)) == 1
        file = folder / "ja.toml"
        file.write_text(file.read_text(encoding="utf-8").replace("お題", "話題"), encoding="utf-8")
        await world.env.restart_bot(PunchlineBot(services=world.bot.services, data_dir=tmp_path))
        _, again = registrations(world)
    (topic,) = [one for one in again if one.key == "joke topic"]
    assert topic.japanese("name") == "話題"


async def test_what_has_no_word_stays_english_and_the_rest_is_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "locales"
    folder.mkdir()
    (folder / "ja.toml").write_text('["joke"]\nname = "ジョーク"\n', encoding="utf-8")
    monkeypatch.setattr("bot.translator.LOCALES", folder)
    async with open_world(ScriptedEngine(), tmp_path) as world:
        (everything,) = registrations(world)
        in_japanese = [one.key for one in everything if one.japanese("name") or one.japanese("description")]
        assert in_japanese == ["joke"]
        result = await world.alice.slash(world.channel, "joke", topic="tea")
        assert result.acknowledged


async def test_without_any_file_the_commands_are_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.translator.LOCALES", tmp_path / "nowhere")
    everything = await registered(tmp_path)
    assert everything
    assert not any(one.japanese("name") for one in everything)
