"""Bringing models into memory for those who wait: fetched beside each other, loaded one after another.

Everybody who waits for a model shares its preparation. It ends when nobody waits for it any more, and its failure
is everybody's. How long loads take is measured here, so that the next ones can be announced.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial

from bot.errors import BotError, Unexpected
from bot.inference.catalog import ModelKey, ModelSpec
from bot.inference.engine import Engine, Loading, LoadStep
from bot.inference.estimate import LEAST_S, Arrival, Estimates
from bot.inference.generation import Generation

log = logging.getLogger(__name__)

# Whether these models may be unloaded.
MayUnload = Callable[[tuple[ModelKey, ...]], bool]


class _Stage(Enum):
    FETCHING = auto()
    FETCHED = auto()  # its files are here; it waits for memory, or for another one's load
    LOADING = auto()


@dataclass(slots=True)
class _Preparation:
    """What is being done for one model.

    Attributes:
        model: the entry of who asked first.
        begun_s: when the stage began.
        last: what people heard last; `last_s` when that was.
        reported: whether the engine said anything of this stage: it does nothing for a model that is there.
    """

    model: ModelSpec
    stage: _Stage
    begun_s: float
    last: Loading
    last_s: float
    reported: bool = False
    task: asyncio.Task[None] | None = None


class Preparations:
    """What is being done for models that are not in memory.

    Args:
        engine: what fetches and loads.
        estimates: learns how long loads take, and knows how long they took.
        told: hears of progress, for all who wait for the model.
        failed: hears why a model cannot be had, likewise.
        changed: called when something may be started that could not be before.
    """

    def __init__(
        self,
        engine: Engine,
        estimates: Estimates,
        *,
        told: Callable[[ModelSpec, Loading], None],
        failed: Callable[[ModelSpec, BotError], None],
        changed: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._estimates = estimates
        self._told = told
        self._failed = failed
        self._changed = changed
        self._all: dict[ModelKey, _Preparation] = {}

    def progress(self, model: ModelSpec) -> Loading | None:
        """How far a model is that is being fetched or loaded right now; None if it is not."""
        preparation = self._all.get(model.key)
        if preparation is None or preparation.task is None:
            return None
        return self._announced(preparation)

    def arrival(self, model: ModelSpec) -> Arrival | None:
        """When a model will be in memory; None if it is there."""
        if self._engine.ready(model):
            return None
        preparation = self._all.get(model.key)
        if preparation is None:
            return Arrival(None, under_way=False)
        return Arrival(self._left_s(preparation), under_way=preparation.task is not None)

    def update(self, waiting: Sequence[Generation], may_unload: MayUnload) -> None:
        """Begin and give up what the line in front of the models asks for."""
        missing: dict[ModelKey, ModelSpec] = {}
        for one in waiting:
            if not self._engine.ready(one.request.model):
                missing.setdefault(one.request.model.key, one.request.model)
        for key, preparation in list(self._all.items()):
            if key not in missing:
                self._give_up(key, preparation)
        for key, model in missing.items():  # in the order of who has waited longest for each
            if key not in self._all:
                self._begin(model, _Stage.FETCHING)
        if not any(one.stage is _Stage.LOADING for one in self._all.values()):
            self._load_next(missing, may_unload)

    def cancel_all(self) -> list[asyncio.Task[None]]:
        """Ask everything to stop; the tasks to wait for."""
        tasks = [one.task for one in self._all.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    def _load_next(self, missing: Iterable[ModelKey], may_unload: MayUnload) -> None:
        """Load the fetched model that somebody has waited for longest, as soon as there is room for it."""
        for key in missing:
            if self._all[key].stage is not _Stage.FETCHED:
                continue
            model = self._all[key].model
            try:
                victims = self._engine.victims(model)
            except BotError as error:
                del self._all[key]
                self._failed(model, error)  # which comes back here for the others
                return
            if victims is not None and may_unload(victims):
                self._engine.unload(victims)  # at once, so that nobody is given a turn on them
                self._begin(model, _Stage.LOADING)
            return

    def _begin(self, model: ModelSpec, stage: _Stage) -> None:
        now_s = self._estimates.clock()
        preparation = _Preparation(model, stage, now_s, Loading(model.alias, None), now_s)
        self._all[model.key] = preparation

        def report(event: Loading) -> None:
            preparation.last, preparation.last_s = event, self._estimates.clock()
            preparation.reported = True
            self._told(model, self._announced(preparation))

        work = self._engine.fetch if stage is _Stage.FETCHING else self._engine.load
        preparation.task = asyncio.get_running_loop().create_task(work(model, report))
        preparation.task.add_done_callback(partial(self._ended, model.key))

    def _announced(self, preparation: _Preparation) -> Loading:
        """What people hear: where the load has no speed yet, with the time that this model's loads take."""
        last = preparation.last
        usual_s = self._estimates.load_s(preparation.model)
        if last.step is not LoadStep.LOADING or last.eta_s is not None or usual_s is None:
            return last
        return last if last.fraction == 1.0 else replace(last, eta_s=self._of_load_s(preparation, usual_s))

    def _left_s(self, preparation: _Preparation) -> float | None:
        """How long until the model is there; None while that depends on what nobody has measured."""
        last, usual_s = preparation.last, self._estimates.likely_load_s(preparation.model)
        step_s = None
        if last.eta_s is not None:
            step_s = max(LEAST_S, last.eta_s - (self._estimates.clock() - preparation.last_s))
        match preparation.stage:
            case _Stage.FETCHING if last.step is LoadStep.LOADING:
                return self._estimates.load_s(preparation.model)  # without one, its files may be anywhere
            case _Stage.FETCHING:
                return None if step_s is None or usual_s is None else step_s + usual_s
            case _Stage.LOADING if step_s is not None:
                return step_s
            case _:
                return None if usual_s is None else self._of_load_s(preparation, usual_s)

    def _of_load_s(self, preparation: _Preparation, usual_s: float) -> float:
        """What is left of the usual time of a load, which may have begun."""
        had_s = self._estimates.clock() - preparation.begun_s if preparation.stage is _Stage.LOADING else 0.0
        return max(LEAST_S, usual_s - had_s)

    def _give_up(self, key: ModelKey, preparation: _Preparation) -> None:
        if preparation.task is None:
            del self._all[key]
        elif not preparation.task.cancelling():
            log.info("nobody waits for %s any more", preparation.model.alias)
            preparation.task.cancel()

    def _ended(self, key: ModelKey, task: asyncio.Task[None]) -> None:
        preparation = self._all[key]
        model = preparation.model
        if not task.cancelled() and task.exception() is None and preparation.stage is _Stage.FETCHING:
            preparation.stage, preparation.task = _Stage.FETCHED, None
        else:
            if not task.cancelled() and task.exception() is None and preparation.reported:
                self._estimates.loaded(model, self._estimates.clock() - preparation.begun_s)
            del self._all[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(model, _explained(model, error))
        self._changed()


def _explained(model: ModelSpec, error: BaseException) -> BotError:
    if isinstance(error, BotError):
        return error
    reference = secrets.token_hex(4)
    log.error("%s: preparing %s failed", reference, model.alias, exc_info=error)
    return Unexpected(f"while {model.alias} was being loaded", reference)
