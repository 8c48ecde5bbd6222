"""The disk is full, for real: answers are given, choices are read, and what was confirmed is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.chooser import Place
from bot.errors import StorageError
from bot.inference.scripted import ScriptedEngine
from bot.storage.backup import back_up
from bot.storage.database import open_database
from tests.full_disk import fill, small_disk
from tests.world import World, labels, open_world


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as folder:
        yield folder


def said(result: Any) -> str:
    return str(result.response.content)


async def asked(world: World, count: int) -> None:
    await world.alice.slash(world.channel, "joke")
    await world.until(lambda: world.ended and len(world.messages) == count)


async def filled(world: World, disk: Path) -> Path:
    """Fill the disk, and what SQLite has set aside on it too."""
    ballast = fill(disk)
    database = world.bot.services.archive._replies._database
    with pytest.raises(StorageError, match="full"):
        for _ in range(100):
            await database.run(
                lambda one: one.exec_driver_sql("CREATE TABLE IF NOT EXISTS junk (words TEXT)")
            )
            await database.run(
                lambda one: one.exec_driver_sql("INSERT INTO junk VALUES (hex(zeroblob(20000)))")
            )
    return ballast


async def test_on_a_full_disk_people_get_answers_with_buttons_and_read_what_they_chose(
    tmp_path: Path, disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(ScriptedEngine(), tmp_path, data_dir=disk) as world:
        await world.alice.slash(world.channel, "model set", model="gemma")
        ballast = await filled(world, disk)

        refused = await world.alice.slash(world.channel, "model set", model="phi")
        assert said(refused) == (
            "The disk of the database is full: nothing new can be kept. The operator must free space there."
        )
        assert refused.ephemeral
        assert len(world.env.errors) == 1
        shown = await world.alice.slash(world.channel, "model show")
        assert said(shown).startswith("**gemma** answers here")

        before = len(world.messages)
        await asked(world, before + 1)
        answer = world.messages[-1]
        assert answer.content.startswith("Hello, world.\n-# gemma")
        assert "Regenerate" in labels(answer)
        await world.alice.click(answer, label="Regenerate")
        await world.until(lambda: world.ended and len(world.messages) == before + 2)
        assert "is full" in caplog.text
        assert "Traceback" not in caplog.text

        ballast.unlink()
        await asked(world, before + 3)
        replies = world.bot.services.archive._replies
        for message in world.messages[before:]:
            kept = await replies.of_message(message.id)
            assert kept is not None
            assert kept.answer == "Hello, world."
        chosen = await world.alice.slash(world.channel, "model set", model="phi")
        assert said(chosen).startswith("**phi** answers in this channel")


async def test_what_was_confirmed_before_the_disk_was_full_is_there_after_a_restart(
    tmp_path: Path, disk: Path
) -> None:
    async with open_world(ScriptedEngine(), tmp_path, data_dir=disk) as world:
        await world.alice.slash(world.channel, "model set", model="gemma")
        await asked(world, len(world.messages) + 1)
        message_id = world.messages[-1].id
        await filled(world, disk)
        channel_id = world.channel.id
    # The disk is still full.
    async with open_world(ScriptedEngine(), tmp_path, data_dir=disk) as world:
        services = world.bot.services
        assert await services.archive.of_message(message_id) is not None
        assert (await services.chooser.resolve(None, Place(channel_id))).alias == "gemma"


async def test_a_backup_onto_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, disk: Path) -> None:
    path = tmp_path / "data" / "punchline.sqlite3"
    async with open_database(path):
        pass
    fill(disk)
    with pytest.raises(StorageError, match=r"The disk of .*copy is full"):
        back_up(path, disk / "copy")
    assert [file.name for file in disk.iterdir()] == ["ballast"]
