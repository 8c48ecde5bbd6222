"""The catalogue: which models there are, under which alias, and how each likes to be run.

`models.toml` beside this package is the shipped one; an operator's file is laid over it key by key. Both are
checked before anything starts: an unknown key or a wrong type is refused with its file and line.
"""

from __future__ import annotations

import difflib
import re
import secrets
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bot.errors import CatalogError, UnknownModel

SHIPPED = Path(__file__).parent.parent / "models.toml"
EMBEDDED = "embedded"

_KEY = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""  # one part of a TOML key, bare or quoted
_ALIAS = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_REPOSITORY = r"^[\w.-]+/[\w.-]+$"
_GREEDY_BELOW = 1e-5
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


_LONGEST_MARK = 64  # characters


def _marks(value: object) -> object:
    """The marks of a model's thoughts: "none", or a list of the two."""
    if value is None or value == "none":
        return value
    two = tuple(value) if isinstance(value, list | tuple) else ()
    is_pair = len(two) == 2 and two[0] != two[1]
    if is_pair and all(isinstance(one, str) and one.strip() and len(one) <= _LONGEST_MARK for one in two):
        marks = tuple(one.strip() for one in two)
        if not any("\n" in one for one in marks):
            return marks
    raise ValueError(
        'must be "none", or what stands before and behind a thought, such as ["<think>", "</think>"]'
    )


class SamplingParams(BaseModel):
    """How the next token is drawn. The names are those of `transformers.GenerationConfig`.

    What is not set gives way to what the checkpoint recommends (`with_defaults`); the defaults here come after that.
    """

    model_config = _STRICT

    temperature: float = Field(0.7, ge=0, le=5)  # 0 takes the likeliest token every time
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(50, ge=0)  # 0 is no limit
    repetition_penalty: float = Field(1.0, ge=1, le=3)
    max_new_tokens: int = Field(512, ge=1)
    min_new_tokens: int = Field(0, ge=0)
    seed: int | None = Field(None, ge=0, lt=2**63)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken every time. So close to 0, a temperature leaves nothing else."""
        return self.temperature < _GREEDY_BELOW

    def with_defaults(self, defaults: Mapping[str, float]) -> SamplingParams:
        """The same, with these values for what was not set when it was made: what the model family recommends."""
        unset = {name: value for name, value in defaults.items() if name not in self.model_fields_set}
        return self.model_copy(update=unset)

    def capped(self, max_new_tokens: int) -> SamplingParams:
        """The same, with answers of at most `max_new_tokens`."""
        return self.model_copy(update={"max_new_tokens": min(self.max_new_tokens, max_new_tokens)})

    def seeded(self) -> SamplingParams:
        """The same, with a seed drawn now if there is none, so that the answer can be had again."""
        return self if self.seed is not None else self.model_copy(update={"seed": secrets.randbits(32)})


@dataclass(frozen=True, slots=True)
class ModelKey:
    """The identity of a model in memory: two catalogue entries with the same key are answered by the same weights.

    The alias, the description, the sampling, `enable_thinking` and `thoughts` are not part of it: they may differ from
    one request to the next.
    """

    repository: str | None
    source: str | None
    revision: str | None  # None for a local source, which has no revisions
    quantization: str
    context_tokens: int


class ModelSpec(BaseModel):
    """One entry of the catalogue: exactly one of `repository` (on the Hub) and `source`.

    `source` is "embedded" for the model that comes with the bot, or the path of a local checkpoint.
    """

    model_config = _STRICT

    alias: str
    repository: Annotated[str, Field(pattern=_REPOSITORY)] | None = None
    source: Annotated[str, Field(min_length=1)] | None = None
    revision: str = Field("main", min_length=1)
    quantization: Literal["nf4", "none"] = "nf4"
    context_tokens: int = Field(ge=64)
    enable_thinking: bool | None = (
        None  # the switch of templates that have one, such as Qwen 3's; None leaves it
    )
    thoughts: Annotated[Literal["none"] | tuple[str, str] | None, BeforeValidator(_marks)] = (
        None  # how the model marks them; None leaves that to its template and vocabulary
    )
    description: str = Field(min_length=1, max_length=100)
    sampling: SamplingParams = SamplingParams()

    @model_validator(mode="after")
    def _exactly_one_place(self) -> Self:
        if (self.repository is None) == (self.source is None):
            raise ValueError("needs exactly one of 'repository' and 'source'")
        return self

    @property
    def key(self) -> ModelKey:
        """What a model in memory is known by. Compare keys, not entries, to ask whether it is the same model."""
        revision = None if self.repository is None else self.revision
        return ModelKey(self.repository, self.source, revision, self.quantization, self.context_tokens)

    @property
    def place(self) -> str:
        """Where the files come from; a local folder's path is the operator's business, see `place_for_people`."""
        return self.repository or self.source or ""

    @property
    def shown_place(self) -> str:
        """Where the files come from, for people."""
        return place_for_people(self.place)


def place_for_people(place: str) -> str:
    """A repository, or the name of a local folder without the way to it."""
    is_repository = re.fullmatch(_REPOSITORY, place) is not None
    return place if is_repository or place == EMBEDDED else PurePath(place).name or "a local folder"


class ModelCatalog(Mapping[str, ModelSpec]):
    """The models on offer by alias, in the order of the files.

    Args:
        specs: by alias.
        default: the alias that is meant when nobody names one.

    Raises:
        CatalogError: `default` is not among them.
    """

    def __init__(self, specs: Mapping[str, ModelSpec], *, default: str) -> None:
        self._specs = dict(specs)
        if default not in self._specs:
            raise CatalogError(
                f"DEFAULT_MODEL is '{default}', which is not in the catalogue: {self._offer(default)}"
            )
        self.default = default

    def __getitem__(self, alias: str) -> ModelSpec:
        return self._specs[alias]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def become(self, other: ModelCatalog) -> None:
        """Offer what `other` offers from now on, to all who hold this one."""
        self._specs, self.default = dict(other._specs), other.default

    def resolve(self, alias: str | None) -> ModelSpec:
        """The entry under `alias` (any case, spaces around it), or the default one for None.

        Raises:
            UnknownModel: there is none; the message offers the nearest.
        """
        wanted = (alias or self.default).strip().lower()
        if wanted not in self._specs:
            said = f"There is no model called '{wanted[:40]}'. {self._offer(wanted)}"
            raise UnknownModel(said, for_people=said)  # what they typed is no folder of the operator's
        return self._specs[wanted]

    def search(self, typed: str, *, limit: int) -> list[ModelSpec]:
        """Up to `limit` entries whose alias, description or place contains what was typed, aliases first."""
        needle = typed.strip().casefold()
        by_alias = [spec for spec in self._specs.values() if needle in spec.alias]
        by_rest = [
            spec
            for spec in self._specs.values()
            if needle not in spec.alias and needle in f"{spec.description} {spec.shown_place}".casefold()
        ]
        return (by_alias + by_rest)[:limit]

    def _offer(self, wanted: str) -> str:
        near = difflib.get_close_matches(wanted, self._specs, n=1)
        if near:
            return f"Did you mean '{near[0]}'?"
        shown = list(self._specs)[:10]
        return f"Choose from: {', '.join(shown)}{' …' if len(self._specs) > len(shown) else ''}."


def load_catalog(override: Path | None = None, *, default: str = "smol") -> ModelCatalog:
    """Read the shipped catalogue, with the operator's file laid over it.

    Raises:
        CatalogError: a file cannot be read, or says something that is not understood; with its line.
    """
    shipped = _read(SHIPPED)
    tables = {alias: dict(table) for alias, table in shipped.tables.items()}
    origins = dict.fromkeys(tables, shipped)
    if override is not None:
        own = _read(override)
        for alias, table in own.tables.items():
            tables[alias] = _laid_over(tables.get(alias, {}), table)
            origins[alias] = own
    return ModelCatalog(
        {alias: _spec(alias, table, origins[alias]) for alias, table in tables.items()}, default=default
    )


class _Source:
    """A TOML file and its lines, to say where a fault is."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()
        try:
            self.tables: dict[str, dict[str, Any]] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise CatalogError(f"{path} is not valid TOML: {error}.") from None
        for alias, table in self.tables.items():
            if not isinstance(table, dict):
                raise self.fault((alias,), "does not belong to a model: put it under a [alias] line")
            if not _ALIAS.fullmatch(alias):
                raise self.fault((alias,), "is no alias: use up to 32 of a-z, 0-9, '.', '_' and '-'")

    def fault(self, location: tuple[str, ...], problem: str) -> CatalogError:
        return CatalogError(f"{self._path}, line {self._line(location)}: '{'.'.join(location)}' {problem}.")

    def _line(self, location: tuple[str, ...]) -> int:
        """The line of a dotted key: the deepest part of it that is written down, from the top of the file.

        tomllib keeps no positions; this follows table headers and `key =` lines, which is how people write
        such a file. A key that is missing is reported at its table.
        """
        table: tuple[str, ...] = ()
        best, best_depth = 1, 0
        for number, line in enumerate(self._lines, start=1):
            if header := re.match(r"\s*\[{1,2}([^\[\]]+)\]", line):
                table = path = _parts(header.group(1))
            elif assignment := re.match(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*=", line):
                path = (*table, *_parts(assignment.group(1)))
            else:
                continue
            if path == location[: len(path)] and len(path) > best_depth:
                best, best_depth = number, len(path)
        return best


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, dotted))


def _read(path: Path) -> _Source:
    try:
        return _Source(path, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise CatalogError(
            f"The catalogue {path} cannot be read: check MODELS_FILE and the file's rights."
        ) from None


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`; naming one of repository and source takes the place of the other."""
    places = {"repository", "source"}
    kept = {k: v for k, v in below.items() if not (k in places and places & above.keys())}
    merged = {**kept, **above}
    if isinstance(kept.get("sampling"), dict) and isinstance(above.get("sampling"), dict):
        merged["sampling"] = {**kept["sampling"], **above["sampling"]}
    return merged


def _spec(alias: str, table: Mapping[str, Any], source: _Source) -> ModelSpec:
    try:
        return ModelSpec(alias=alias, **table)
    except (ValidationError, TypeError) as error:
        if isinstance(error, TypeError):
            raise source.fault((alias, "alias"), "is given by the table's name: remove it") from None
        fault = error.errors()[0]
        location = (alias, *(str(part) for part in fault["loc"]))
        raise source.fault(location, _problem(fault, location)) from None


def _problem(fault: Any, location: tuple[str, ...]) -> str:
    match fault["type"]:
        case "extra_forbidden":
            known = (SamplingParams if "sampling" in location[1:-1] else ModelSpec).model_fields
            near = difflib.get_close_matches(location[-1], known, n=1)
            return "is not a key of the catalogue" + (f": write '{near[0]}'" if near else ": remove it")
        case "missing":
            return "is missing: write it under the model's line"
        case "value_error":
            return str(fault["ctx"]["error"])
        case _:
            return f"is wrong: {fault['msg'][0].lower()}{fault['msg'][1:]}"
