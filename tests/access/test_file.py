"""The operator's file of who may ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.access.file import read_access_file
from bot.access.rules import OperatorAccess
from bot.errors import SettingsError
from bot.storage.access import Quota, Rule, Subject, SubjectKind

ALIASES = ("smol", "mixtral")


def written(folder: Path, text: str) -> Path:
    path = folder / "access.toml"
    path.write_text(text, encoding="utf-8")
    return path


def told(folder: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read_access_file(written(folder, text), ALIASES)
    said = str(caught.value)
    assert said.startswith("ACCESS_FILE: ")
    assert "access.toml" in said
    assert "\n" not in said
    return said


def test_without_a_file_and_with_an_empty_one_nothing_is_said(tmp_path: Path) -> None:
    assert read_access_file(None, ALIASES) == OperatorAccess()
    assert read_access_file(written(tmp_path, ""), ALIASES) == OperatorAccess()


def test_a_file_says_who_may_ask_which_model_and_how_much(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        allow.people = [1]
        deny.people = [2]
        deny.places = [3]
        only.roles = [4]
        only.places = [5]

        [models.mixtral]
        only.roles = [6]
        deny.people = [7]

        [quota.people]
        1 = { requests_per_minute = 0 }
        [quota.roles.80351110224678912]
        tokens_per_day = 1_000
        gpu_seconds_per_day = 60
        [quota.servers]
        5 = { tokens_per_day = 5_000 }
        """,
    )
    person, role, place = SubjectKind.PERSON, SubjectKind.ROLE, SubjectKind.PLACE
    read = read_access_file(path, ALIASES)
    assert set(read.rules) == {
        Rule(Subject(person, 1), True),
        Rule(Subject(person, 2), False),
        Rule(Subject(place, 3), False),
        Rule(Subject(person, 7), False, "mixtral"),
    }
    assert read.only == {"": {Subject(role, 4), Subject(place, 5)}, "mixtral": {Subject(role, 6)}}
    assert read.quotas == {
        Subject(person, 1): Quota(requests_per_minute=0),
        Subject(role, 80351110224678912): Quota(None, 1_000, 60),
        Subject(place, 5): Quota(tokens_per_day=5_000),
    }


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("deny.people = [1", "not valid TOML"),
        ("deny.persons = [1]", "'deny.persons'"),
        ("deny.people = ['alice']", "'deny.people.0'"),
        ("deny.people = [0]", "'deny.people.0'"),
        ("deney.people = [1]", "'deney'"),
        ("[quota.roles.5]\ntokens_per_day = -1", "'quota.roles.5.tokens_per_day'"),
        ("[quota.roles.5]\ntokens = 1", "'quota.roles.5.tokens'"),
        ("[models.mixtrall]\nonly.roles = [1]", "'models.mixtrall' is not in the catalogue: smol, mixtral"),
        ("allow.people = [1]\ndeny.people = [1]", "1 is in 'allow' and in 'deny'"),
        ("[models.smol]\nallow.places = [1]\ndeny.places = [1]", "1 is in 'models.smol.allow'"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, text: str, names: str) -> None:
    assert names in told(tmp_path, text)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_access_file(tmp_path / "access.toml", ALIASES)
