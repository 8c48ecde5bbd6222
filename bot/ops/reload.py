"""Reading the settings, the catalogue and the file of who may ask once more, while the bot runs.

All of it is read and looked through before anything is put in place: a fault leaves everything as it was. What people
were let in for goes on as it began.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bot.access.gate import Gate, Limits
from bot.access.rules import OperatorAccess
from bot.answers import Answers
from bot.configured import limits_of, read_access, read_catalog
from bot.errors import SettingsError
from bot.inference.catalog import ModelCatalog, ModelSpec
from bot.inference.queue import InferenceQueue
from bot.inference.threads import SharedLooks
from bot.operators import Operators
from bot.ops.logs import set_level
from bot.replies.wait import Wait, just_wait
from bot.settings import NO_LIMITS, Settings, load_settings

log = logging.getLogger(__name__)

PATIENCE_S = 20.0  # for some small files

# What a reload puts in place; anything else holds until the next start.
RELOADED = frozenset(
    {
        *NO_LIMITS,
        "access_file",
        "default_model",
        "generation_timeout_s",
        "load_timeout_s",
        "log_level",
        "max_new_tokens",
        "models_file",
        "operator_ids",
        "queue_limit",
        "queue_timeout_s",
        "shutdown_grace_s",
    }
)


def reread_settings(before: Settings) -> Settings:
    """The settings as the same file and the environment have them now.

    Raises:
        SettingsError: they are faulty, or the file is gone, without which all would be as if nothing were set.
    """
    if before.file is not None and not before.file.is_file():
        raise SettingsError(
            f"The settings file {before.file} is gone: put it back, or restart the bot without it."
        )
    return load_settings(before.file)


@dataclass(frozen=True, slots=True)
class _Read:
    """What the files say, looked through."""

    settings: Settings
    catalog: ModelCatalog
    access: OperatorAccess
    limits: Limits
    later: tuple[str, ...]  # names of settings and variables that differ, and hold from the next start on
    warnings: tuple[str, ...]  # what counts for nothing in the file, and did not stand there at the start


class Reload:
    """Puts in place what the files say now.

    Args:
        settings: those the bot was started with.
        reread: reads them once more.
        catalog: the models on offer.
        gate: holds the limits, and the operator's file.
        operators: who they are.
        answers: holds the limit on an answer's length.
        queue: holds the times.
        pin: tells the engine which models stay in memory.
        wait: how to await what does not come from Discord, see `Wait`.

    Attributes:
        settings: what holds now.
    """

    def __init__(
        self,
        settings: Settings,
        reread: Callable[[], Settings],
        *,
        catalog: ModelCatalog,
        gate: Gate,
        operators: Operators,
        answers: Answers,
        queue: InferenceQueue,
        pin: Callable[[Iterable[ModelSpec]], None],
        wait: Wait = just_wait,
    ) -> None:
        self.settings = settings
        self._reread = reread
        self._catalog = catalog
        self._gate = gate
        self._operators = operators
        self._answers = answers
        self._queue = queue
        self._pin = pin
        self._wait = wait
        self._one = asyncio.Lock()
        self._looks = SharedLooks()

    async def __call__(self) -> str:
        """Reload; what has changed, in sentences.

        Raises:
            SettingsError: a setting or the file of who may ask is faulty, or the files take too long.
            CatalogError: the catalogue is.
        """
        async with self._one:
            try:
                # What an earlier reload began to read may be older than what is asked for now.
                if self._looks.is_under_way("files"):
                    raise TimeoutError
                reading = self._looks("files", self._read, timeout_s=PATIENCE_S)
                read = await self._wait(reading, reason="the settings")
            except TimeoutError:
                raise SettingsError(
                    f"The files could not be read within {PATIENCE_S:.0f} s: is their disk well?"
                ) from None
            said = self._put_in_place(read)
        log.info("reloaded: %s", said.replace("\n", " "))
        return said

    def _read(self) -> _Read:
        read = self._reread()
        # With what cannot change now as it is: that is what the rest has to go with.
        settings = self.settings.model_copy(update={name: getattr(read, name) for name in RELOADED})
        catalog = read_catalog(settings)
        later = [name.upper() for name in _changed(self.settings, read) if name not in RELOADED]
        later += _differing(self.settings.variables, read.variables)
        return _Read(
            settings,
            catalog,
            read_access(settings, catalog),
            limits_of(settings),
            tuple(later),
            tuple(told for told in read.warnings if told not in self.settings.warnings),
        )

    def _put_in_place(self, read: _Read) -> str:
        new = read.settings
        changed = [name.upper() for name in _changed(self.settings, new)]
        if models := _difference(self._catalog, read.catalog):
            changed.append(f"the catalogue ({models})")
        if read.access != self._gate.operator:
            changed.append("who may ask")
        self._catalog.become(read.catalog)
        # By the new entries: what an alias meant before need not stay in memory for it.
        self._pin([self._catalog[alias] for alias in self.settings.pinned_models])
        self._gate.operator, self._gate.limits = read.access, read.limits
        self._operators.name(new.operator_ids)
        self._answers.max_new_tokens = new.max_new_tokens
        queue = self._queue
        queue.limit, queue.queue_timeout_s = new.queue_limit, new.queue_timeout_s
        queue.load_timeout_s, queue.generation_timeout_s = new.load_timeout_s, new.generation_timeout_s
        if new.log_level != self.settings.log_level:
            set_level(new.log_level, content=new.log_content)
        self.settings = new
        return "\n".join([_sentences(changed, read.later), *read.warnings])


def _changed(before: Settings, now: Settings) -> list[str]:
    return [name for name in Settings.model_fields if getattr(before, name) != getattr(now, name)]


def _difference(before: Mapping[str, ModelSpec], now: Mapping[str, ModelSpec]) -> str:
    """What came, went and changed, by alias; empty for nothing."""
    came = [f"+{alias}" for alias in now if alias not in before]
    went = [f"-{alias}" for alias in before if alias not in now]
    changed = [alias for alias in now if alias in before and now[alias] != before[alias]]
    return ", ".join([*came, *went, *changed])


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def _sentences(changed: Sequence[str], later: Sequence[str]) -> str:
    said = f"Reloaded. Changed: {', '.join(changed)}." if changed else "Reloaded. Nothing has changed."
    if later:
        said += f"\nAt the next start only: {', '.join(later)}."
    return said
