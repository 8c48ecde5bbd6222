"""What people may read of an error: the sentence, and no folder of the operator's."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import BotError, CatalogError, ModelUnavailable, StorageError, without_paths
from bot.inference import embedded
from bot.inference.catalog import ModelSpec, place_for_people
from bot.inference.loader import ModelLoader
from bot.inference.scripted import ScriptedEngine
from bot.storage.sentences import explained
from tests.world import World, open_world

FOLDER = "/srv/punchline-of-mine/cache"
FAULT = f"gemma cannot be kept in {FOLDER} (No space left on device): free space there."
PARTS = st.text("abcxyz019._-", min_size=1, max_size=12).filter(lambda part: part.strip("._-"))


@given(
    st.lists(PARTS, min_size=2, max_size=6),
    st.sampled_from(["", "~", "C:"]),
    st.sampled_from(["{}", "'{}'", "`{}`", "({})", "It is {}.", "{}: no", "{}, or not", "in {} (full)"]),
)
def test_no_absolute_path_is_in_what_people_read(parts: list[str], start: str, around: str) -> None:
    separator = "\\" if start == "C:" else "/"
    path = (start + separator + separator.join(parts)).rstrip(".")
    told = BotError(f"A model is not there: {around.format(path)}").for_people
    assert path not in told
    assert separator not in told


@pytest.mark.parametrize(
    "sentence",
    [
        "Type `/joke`, or `/access clear` and/or /model list.",
        "someone/smol has no revision 'main': look at https://huggingface.co/someone/smol/tree/main.",
        "smol answers 3/4 of it: 1/2.",
        "punchline.sqlite3 is damaged: the operator can restore a backup.",
    ],
)
def test_commands_addresses_and_repositories_stay(sentence: str) -> None:
    assert without_paths(sentence) == sentence


def test_what_only_operators_meet_names_the_file() -> None:
    assert CatalogError(FAULT).for_people == FAULT


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("/srv/models/tiny", "tiny"),
        ("~/models/tiny/", "tiny"),
        ("../models/of/mine", "mine"),
        ("someone/smol", "someone/smol"),
        ("embedded", "embedded"),
        ("/", "a local folder"),
    ],
)
def test_a_local_model_is_shown_by_its_folders_name(place: str, shown: str) -> None:
    assert place_for_people(place) == shown


def test_a_model_that_is_not_where_the_catalogue_says_is_told_without_the_place(tmp_path: Path) -> None:
    spec = ModelSpec(
        alias="tiny", source=str(tmp_path / "My Models" / "x"), context_tokens=256, description="a model"
    )
    with pytest.raises(ModelUnavailable) as raised:
        ModelLoader(tmp_path).present(spec)
    assert str(tmp_path) in str(raised.value)
    assert raised.value.for_people == (
        "tiny is not where the catalogue says. Please tell the bot's operator."
    )


def test_a_full_disk_is_told_without_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "WORKING_BYTES", 10**18)
    with pytest.raises(ModelUnavailable) as raised:
        embedded._require_space(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert str(tmp_path) not in raised.value.for_people
    assert "Please tell the bot's operator" in raised.value.for_people


def everything_said(world: World) -> str:
    return str([request.json for request in world.env.http_requests])


async def test_an_answer_that_fails_names_no_folder_and_the_log_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world(ScriptedEngine(script=("Once", ModelUnavailable(FAULT))), tmp_path) as world:
        await world.alice.slash(world.channel, "joke")
        await world.until(lambda: world.ended)
        assert "⚠️ gemma cannot be kept in … (No space left on device)" in world.messages[0].content
        assert FOLDER not in everything_said(world)
    assert FAULT in caplog.text


@pytest.mark.parametrize("way", ["command", "mention"])
async def test_a_question_that_is_refused_names_no_folder_and_the_log_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:

        async def broken(*_: object) -> None:
            raise StorageError(f"{FOLDER}/punchline.sqlite3 cannot be used.")

        with pytest.MonkeyPatch.context() as fault:
            fault.setattr(type(world.bot.services.chooser), "resolve", broken)
            if way == "command":
                result = await world.alice.slash(world.channel, "joke")
                assert result.response is not None
                assert result.response.content == "… cannot be used."
            else:
                assert world.bot.user is not None
                await world.alice.send(world.channel, f"{world.bot.user.mention} why?")
                await world.until(lambda: world.messages[-1].content == "… cannot be used.")
        assert FOLDER not in everything_said(world)
        world.env.errors.clear()
    assert [r for r in caplog.records if FOLDER in r.getMessage() and r.levelno >= logging.WARNING]


async def test_a_local_models_folder_is_in_no_card(tmp_path: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text(
        f"[mine]\nsource = '{FOLDER}/llama'\ncontext_tokens = 256\ndescription = 'a model of ours'\n"
    )
    async with open_world(ScriptedEngine(), tmp_path, models_file=own) as world:
        listed = await world.alice.slash(world.channel, "model list")
        assert listed.response is not None
        assert "-# llama" in listed.response.content
        await world.alice.slash(world.channel, "ask", prompt="Why?", model="mine")
        await world.until(lambda: world.ended)
        details = await world.alice.click(world.messages[0], label="Details")
        assert details.response is not None
        (attached,) = details.response.attachments
        assert FOLDER not in (await attached.read()).decode()
        assert await world.alice.autocomplete(world.channel, "ask", "model", "punchline-of-mine") == []
        assert FOLDER not in everything_said(world)


def test_a_full_disk_names_no_folder_even_with_a_space_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from bot.inference import hub

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/home/John Doe/.cache/hub")
    spec = ModelSpec(
        alias="phi", repository="a/b", revision="1" * 40, context_tokens=256, description="a model"
    )
    error = hub._disk_full(spec, "it takes 5.0 GB and 1.0 GB are free")
    assert "John Doe" in str(error)
    assert "Doe" not in error.for_people


@pytest.mark.parametrize(
    "fault",
    [
        sqlite3.OperationalError("database or disk is full"),
        sqlite3.DatabaseError("database disk image is malformed"),
        sqlite3.OperationalError("no such thing as {this}"),
        PermissionError(13, "Permission denied"),
    ],
)
def test_a_database_that_fails_is_named_to_operators_only(fault: Exception) -> None:
    with pytest.raises(StorageError) as caught, explained(Path("/home/John Doe/punchline.sqlite3")):
        raise fault
    assert "/home/John Doe/punchline.sqlite3" in str(caught.value)
    assert "Doe" not in caught.value.for_people
    assert "the database" in caught.value.for_people.lower()


async def test_what_somebody_typed_is_read_back_to_them_as_it_was(tmp_path: Path) -> None:
    async with open_world(ScriptedEngine(), tmp_path) as world:
        result = await world.alice.slash(world.channel, "ask", prompt="Why?", model="/my/own/model")
        assert result.response is not None
        assert result.response.content.startswith("There is no model called '/my/own/model'.")
        world.env.errors.clear()
