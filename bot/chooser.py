"""Which model answers, where: policy over the catalogue and what people chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bot.deadline import before_answer
from bot.errors import StorageError, UnknownModel
from bot.inference.catalog import ModelCatalog, ModelSpec
from bot.storage.choices import Chosen, ModelChoices, PlaceKind

PATIENCE_S = 2.0  # Discord wants to hear of a command within 3 s, and this comes before
_SHOWN = 10


class Level(StrEnum):
    """Who decided, the nearest first."""

    COMMAND = "command"
    THREAD = "thread"
    CHANNEL = "channel"
    SERVER = "server"
    BOT = "bot"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command was given, by Discord's ids."""

    channel_id: int
    server_id: int | None = None
    thread_id: int | None = None

    @property
    def kinds(self) -> list[tuple[PlaceKind, int]]:
        """The places that may have a choice, the nearest first."""
        found = [
            (PlaceKind.THREAD, self.thread_id),
            (PlaceKind.CHANNEL, self.channel_id),
            (PlaceKind.SERVER, self.server_id),
        ]
        return [(kind, place_id) for kind, place_id in found if place_id is not None]


@dataclass(frozen=True, slots=True)
class Standing:
    """Who answers at a place, and what each level says.

    `levels` holds the alias that each level chose, None where it did not, the nearest level first; an alias that
    is not among the `offered` is passed over.
    """

    spec: ModelSpec
    level: Level
    levels: tuple[tuple[Level, str | None], ...]
    offered: tuple[ModelSpec, ...]


class ModelChooser:
    """Decides which model answers.

    Args:
        catalog: the models there are.
        choices: what people chose.
        patience_s: how long the database may take; Discord does not wait.
    """

    def __init__(self, catalog: ModelCatalog, choices: ModelChoices, patience_s: float = PATIENCE_S) -> None:
        self._catalog = catalog
        self._choices = choices
        self._patience_s = patience_s

    async def resolve(self, alias: str | None, place: Place) -> ModelSpec:
        """The model for a command: the one it names, else what was chosen for its thread, channel or server, else
        the bot's default.

        Raises:
            UnknownModel: it names one that is not there, or not offered in this server.
            StorageError: the database does not answer.
        """
        standing = await self.standing(place)
        return standing.spec if not alias else self._offered(alias, standing.offered)

    async def standing(self, place: Place) -> Standing:
        """Who answers at a place when nobody is named, and why."""
        chosen = await self._chosen(place)
        offered = self._offer(chosen)
        aliases = {spec.alias: spec for spec in offered}
        levels = [(Level(kind), chosen.alias(kind)) for kind, _ in place.kinds]
        levels.append((Level.BOT, self._catalog.default))
        for level, alias in levels:
            if alias in aliases:
                return Standing(aliases[alias], level, tuple(levels), offered)
        return Standing(
            offered[0], Level.SERVER, tuple(levels), offered
        )  # not even the bot's default is offered

    async def search(self, typed: str, place: Place, *, limit: int) -> list[ModelSpec]:
        """What may be named at a place and fits what was typed; all there is where the database does not answer."""
        try:
            offered = {spec.alias for spec in (await self.standing(place)).offered}
        except StorageError:
            offered = set(self._catalog)
        found = self._catalog.search(typed, limit=len(self._catalog))
        return [spec for spec in found if spec.alias in offered][:limit]

    async def choose(self, kind: PlaceKind, place: Place, alias: str, *, by: int) -> ModelSpec:
        """Have a model answer at a place from now on.

        Raises:
            UnknownModel: it is not there, or not offered in this server.
        """
        spec = self._offered(alias, (await self.standing(place)).offered)
        await before_answer(self._choices.put(kind, dict(place.kinds)[kind], spec.alias, set_by=by))
        return spec

    async def reset(self, kind: PlaceKind, place: Place) -> bool:
        """Forget what was chosen for a place; whether something was."""
        return await before_answer(self._choices.clear(kind, dict(place.kinds)[kind]))

    async def offer(self, server_id: int, aliases: Sequence[str]) -> list[ModelSpec]:
        """Have a server offer only these models; none of them means all again.

        Raises:
            UnknownModel: one of them is not in the catalogue.
        """
        specs = [self._catalog.resolve(alias) for alias in aliases]
        await before_answer(self._choices.offer(server_id, [spec.alias for spec in specs]))
        return specs

    async def _chosen(self, place: Place) -> Chosen:
        return await before_answer(self._choices.at(place.kinds, place.server_id), self._patience_s)

    def _offer(self, chosen: Chosen) -> tuple[ModelSpec, ...]:
        """What the server offers; all, where none of what it names is left in the catalogue."""
        offered = tuple(spec for spec in self._catalog.values() if spec.alias in chosen.offered)
        return offered or tuple(self._catalog.values())

    def _offered(self, alias: str, offered: Sequence[ModelSpec]) -> ModelSpec:
        spec = self._catalog.resolve(alias)
        if spec not in offered:
            names = [one.alias for one in offered]
            more = " …" if len(names) > _SHOWN else ""
            raise UnknownModel(
                f"{spec.alias} is not offered in this server. Choose from: {', '.join(names[:_SHOWN])}{more}."
            )
        return spec
