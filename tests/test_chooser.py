"""Which model answers where: the nearest choice wins, and what is not offered is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.chooser import Level, ModelChooser, Place
from bot.errors import StorageError, UnknownModel
from bot.inference.catalog import ModelCatalog, ModelSpec
from bot.storage.choices import Choice, Chosen, ModelChoices, PlaceKind
from bot.storage.database import open_database

HERE = Place(channel_id=2, server_id=1, thread_id=3)
ALIASES = ("bots", "of-command", "of-thread", "of-channel", "of-server")


def catalog_of(*aliases: str) -> ModelCatalog:
    specs = {
        alias: ModelSpec(
            alias=alias, source=f"/models/{alias}-1b", context_tokens=256, description=f"about {alias}"
        )
        for alias in aliases
    }
    return ModelCatalog(specs, default=aliases[0])


@pytest.fixture
async def choices(tmp_path: Path) -> AsyncIterator[ModelChoices]:
    async with open_database(tmp_path / "punchline.sqlite3") as database:
        yield ModelChoices(database)


@pytest.fixture
def chooser(choices: ModelChoices) -> ModelChooser:
    return ModelChooser(catalog_of(*ALIASES), choices)


async def test_the_command_goes_before_the_thread_the_channel_the_server_and_the_bot(
    chooser: ModelChooser,
) -> None:
    async def answering() -> tuple[str, Level]:
        standing = await chooser.standing(HERE)
        return standing.spec.alias, standing.level

    assert await answering() == ("bots", Level.BOT)
    await chooser.choose(PlaceKind.SERVER, HERE, "of-server", by=7)
    assert await answering() == ("of-server", Level.SERVER)
    await chooser.choose(PlaceKind.CHANNEL, HERE, "of-channel", by=7)
    assert await answering() == ("of-channel", Level.CHANNEL)
    await chooser.choose(PlaceKind.THREAD, HERE, "of-thread", by=7)
    assert await answering() == ("of-thread", Level.THREAD)
    assert (await chooser.resolve("of-command", HERE)).alias == "of-command"
    assert await chooser.reset(PlaceKind.THREAD, HERE)
    assert not await chooser.reset(PlaceKind.THREAD, HERE)
    assert await answering() == ("of-channel", Level.CHANNEL)


async def test_a_choice_holds_for_its_place_alone(chooser: ModelChooser) -> None:
    await chooser.choose(PlaceKind.CHANNEL, HERE, "of-channel", by=7)
    assert (await chooser.resolve(None, Place(channel_id=9, server_id=1))).alias == "bots"
    assert (await chooser.resolve(None, Place(channel_id=2, server_id=1))).alias == "of-channel"
    assert (await chooser.resolve(None, Place(channel_id=2, server_id=1, thread_id=8))).alias == "of-channel"


async def test_choosing_again_takes_the_place_of_what_was_chosen(chooser: ModelChooser) -> None:
    for alias in ("of-server", "of-channel"):
        await chooser.choose(PlaceKind.CHANNEL, HERE, alias, by=7)
    assert (await chooser.resolve(None, HERE)).alias == "of-channel"


async def test_a_restart_keeps_every_choice(tmp_path: Path) -> None:
    path = tmp_path / "kept.sqlite3"
    async with open_database(path) as database:
        before = ModelChooser(catalog_of(*ALIASES), ModelChoices(database))
        for channel_id in range(50):
            place = Place(channel_id=channel_id, server_id=1)
            await before.choose(PlaceKind.CHANNEL, place, ALIASES[channel_id % 5], by=7)
        await before.offer(1, ALIASES)
    async with open_database(path) as database:
        after = ModelChooser(catalog_of(*ALIASES), ModelChoices(database))
        for channel_id in range(50):
            place = Place(channel_id=channel_id, server_id=1)
            assert (await after.resolve(None, place)).alias == ALIASES[channel_id % 5]


async def test_a_model_that_left_the_catalogue_is_passed_over_and_said_to_be_gone(
    choices: ModelChoices,
) -> None:
    await choices.put(PlaceKind.CHANNEL, 2, "gone", set_by=7)
    await choices.put(PlaceKind.SERVER, 1, "of-server", set_by=7)
    standing = await ModelChooser(catalog_of(*ALIASES), choices).standing(HERE)
    assert (standing.spec.alias, standing.level) == ("of-server", Level.SERVER)
    assert dict(standing.levels)[Level.CHANNEL] == "gone"


async def test_what_a_server_does_not_offer_can_be_neither_named_nor_chosen_there(
    chooser: ModelChooser,
) -> None:
    await chooser.choose(PlaceKind.CHANNEL, HERE, "of-channel", by=7)
    await chooser.offer(1, ["of-server", "bots"])
    with pytest.raises(UnknownModel, match=r"not offered in this server\. Choose from: bots, of-server\."):
        await chooser.resolve("of-command", HERE)
    with pytest.raises(UnknownModel, match="not offered"):
        await chooser.choose(PlaceKind.SERVER, HERE, "of-thread", by=7)
    assert (await chooser.resolve(None, HERE)).alias == "bots"  # the channel's is passed over
    elsewhere = Place(channel_id=2, server_id=99)
    assert (await chooser.resolve("of-command", elsewhere)).alias == "of-command"
    await chooser.offer(1, [])
    assert (await chooser.resolve(None, HERE)).alias == "of-channel"


async def test_where_the_bots_default_is_not_offered_the_first_that_is_answers(chooser: ModelChooser) -> None:
    await chooser.offer(1, ["of-server", "of-thread"])
    assert (await chooser.resolve(None, HERE)).alias == "of-thread"  # in the catalogue's order


async def test_offering_what_is_not_in_the_catalogue_is_refused_with_the_nearest(
    chooser: ModelChooser,
) -> None:
    with pytest.raises(UnknownModel, match="Did you mean 'of-server'"):
        await chooser.offer(1, ["of-severe"])


async def test_a_search_finds_what_is_offered_by_alias_description_and_folder_but_not_by_the_way_to_it(
    chooser: ModelChooser,
) -> None:
    await chooser.offer(1, ["of-server", "of-channel"])

    async def found(typed: str, place: Place = HERE) -> list[str]:
        return [spec.alias for spec in await chooser.search(typed, place, limit=25)]

    assert await found("") == ["of-channel", "of-server"]
    assert await found("ABOUT of-s") == ["of-server"]
    assert await found("channel-1b") == ["of-channel"]
    assert await found("/models") == []  # which folders an operator has is not to be guessed letter by letter
    assert await found("thread") == []
    assert await found("thread", Place(channel_id=5)) == ["of-thread"]


class Hanging(ModelChoices):
    def __init__(self) -> None:
        pass

    async def at(self, *_: object) -> Chosen:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_database_that_hangs_is_a_sentence_in_time_and_completion_goes_on() -> None:
    chooser = ModelChooser(catalog_of(*ALIASES), Hanging(), patience_s=0.01)
    with pytest.raises(StorageError, match="does not answer"):
        await chooser.resolve(None, HERE)
    assert len(await chooser.search("of-", HERE, limit=25)) == 4


class Remembered(ModelChoices):
    """What hypothesis made up, in place of the database."""

    def __init__(self, chosen: Chosen) -> None:
        self._chosen = chosen

    async def at(self, *_: object) -> Chosen:
        return self._chosen


@settings(deadline=None)
@given(
    chosen=st.dictionaries(st.sampled_from(PlaceKind), st.sampled_from([*ALIASES, "gone"])),
    offered=st.frozensets(st.sampled_from([*ALIASES, "gone too"])),
    named=st.none() | st.sampled_from(ALIASES),
)
def test_whatever_was_chosen_the_nearest_that_is_offered_answers(
    chosen: dict[PlaceKind, str], offered: frozenset[str], named: str | None
) -> None:
    from datetime import UTC, datetime

    made = tuple(Choice(kind, 1, alias, 7, datetime.now(UTC)) for kind, alias in chosen.items())
    chooser = ModelChooser(catalog_of(*ALIASES), Remembered(Chosen(made, offered)))
    allowed = [alias for alias in ALIASES if alias in offered] or list(ALIASES)
    levels = [chosen.get(kind) for kind in (PlaceKind.THREAD, PlaceKind.CHANNEL, PlaceKind.SERVER)]
    if named is not None and named not in allowed:
        with pytest.raises(UnknownModel):
            asyncio.run(chooser.resolve(named, HERE))
        return
    expected = next((alias for alias in (named, *levels, "bots") if alias in allowed), allowed[0])
    assert asyncio.run(chooser.resolve(named, HERE)).alias == expected
