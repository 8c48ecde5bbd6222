"""The operator's file of who may ask, and how much: `ACCESS_FILE`, in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bot.access.rules import OperatorAccess
from bot.errors import SettingsError
from bot.storage.access import EVERY_MODEL, Quota, Rule, Subject, SubjectKind

_STRICT = ConfigDict(extra="forbid", frozen=True)
_Id = Annotated[int, Field(ge=1, lt=2**63)]
_Amount = Annotated[int, Field(ge=0, lt=2**63)]


class _Ids(BaseModel):
    model_config = _STRICT

    people: tuple[_Id, ...] = ()
    roles: tuple[_Id, ...] = ()
    places: tuple[_Id, ...] = ()

    @property
    def subjects(self) -> Iterator[Subject]:
        yield from (Subject(SubjectKind.PERSON, one) for one in self.people)
        yield from (Subject(SubjectKind.ROLE, one) for one in self.roles)
        yield from (Subject(SubjectKind.PLACE, one) for one in self.places)


class _Amounts(BaseModel):
    model_config = _STRICT

    requests_per_minute: _Amount | None = None
    tokens_per_day: _Amount | None = None
    gpu_seconds_per_day: _Amount | None = None

    @property
    def quota(self) -> Quota:
        return Quota(self.requests_per_minute, self.tokens_per_day, self.gpu_seconds_per_day)


class _Quotas(BaseModel):
    model_config = _STRICT

    people: dict[_Id, _Amounts] = {}
    roles: dict[_Id, _Amounts] = {}
    servers: dict[_Id, _Amounts] = {}

    @property
    def by_subject(self) -> dict[Subject, Quota]:
        kinds = (
            (SubjectKind.PERSON, self.people),
            (SubjectKind.ROLE, self.roles),
            (SubjectKind.PLACE, self.servers),
        )
        return {Subject(kind, one): said.quota for kind, table in kinds for one, said in table.items()}


class _Access(BaseModel):
    model_config = _STRICT

    allow: _Ids = _Ids()
    deny: _Ids = _Ids()
    only: _Ids | None = None

    def rules(self, alias: str) -> Iterator[Rule]:
        yield from (Rule(subject, True, alias) for subject in self.allow.subjects)
        yield from (Rule(subject, False, alias) for subject in self.deny.subjects)


class _File(_Access):
    models: dict[str, _Access] = {}
    quota: _Quotas = _Quotas()


def read_access_file(path: Path | None, aliases: Iterable[str]) -> OperatorAccess:
    """What the file says; nothing, if there is none.

    Args:
        path: the file.
        aliases: of the models there are.

    Raises:
        SettingsError: it cannot be read, or says something that is not understood, with where.
    """
    if path is None:
        return OperatorAccess()
    try:
        read = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"ACCESS_FILE: {path} cannot be read: make it a readable UTF-8 file.") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"ACCESS_FILE: {path} is not valid TOML: {error}.") from None
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"] if part != "[key]")
        raise SettingsError(f"ACCESS_FILE: {path}: '{where}' is wrong: {fault['msg'].lower()}.") from None
    if unknown := sorted(read.models.keys() - set(aliases)):
        raise SettingsError(
            f"ACCESS_FILE: {path}: 'models.{unknown[0]}' is not in the catalogue: {', '.join(aliases)}."
        )
    tables = {EVERY_MODEL: read, **read.models}
    _contradicts_nothing(path, tables)
    return OperatorAccess(
        rules=tuple(rule for alias, table in tables.items() for rule in table.rules(alias)),
        only={
            alias: frozenset(table.only.subjects) for alias, table in tables.items() if table.only is not None
        },
        quotas=read.quota.by_subject,
    )


def _contradicts_nothing(path: Path, tables: dict[str, _Access]) -> None:
    """Refuse a file that both allows and denies somebody."""
    for alias, table in tables.items():
        if both := set(table.allow.subjects) & set(table.deny.subjects):
            where = f"models.{alias}." if alias else ""
            raise SettingsError(
                f"ACCESS_FILE: {path}: {next(iter(both)).id} is in '{where}allow' and in '{where}deny'."
            )
