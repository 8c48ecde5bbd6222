"""Whether each model of the catalogue can run on this machine: the part of `check` about models."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bot.errors import BotError, HubUnreachable
from bot.inference import embedded
from bot.inference.catalog import EMBEDDED, ModelCatalog, ModelSpec
from bot.inference.device import read_device
from bot.inference.inspector import Inspection, Inspector
from bot.inference.loader import ModelLoader
from bot.inference.memory import gigabytes
from bot.inference.threads import SharedLooks
from bot.ops.checks import Check
from bot.ops.findings import Verdict
from bot.settings import Settings

PATIENCE_S = 15.0  # for one model; most of it is the Hub's
_HELPFUL_CONTEXTS = (32_768, 16_384, 8_192, 4_096, 2_048, 1_024)


@dataclass(frozen=True, slots=True)
class Room:
    """The memory that models may take, and whose it is. `free_bytes` is what they may take now."""

    whose: str
    total_bytes: int
    free_bytes: int


class Fitting:
    """Looks at the models of a catalogue, one after the other: each look reads files, and imports transformers.

    Args:
        settings: where files are, and what models may take.
        catalog: the models.
        loader: knows which of them are here.
        asks_hub: whether the Hub may be asked about the others.
        room: what they may take; None for what the device has, or GPU_MEMORY_BUDGET of it.
        looks: does what blocks; shared by all who check.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: ModelCatalog,
        loader: ModelLoader,
        *,
        asks_hub: bool = True,
        room: Callable[[], Room | None] = lambda: None,
        looks: SharedLooks | None = None,
    ) -> None:
        self._looks = looks or SharedLooks()
        self._settings = settings
        self._catalog = catalog
        self._loader = loader
        self._inspector = Inspector(loader, settings.hub_token)
        self._room = room
        self._asks_hub = asks_hub
        self._hub_answers = True
        self._turn = asyncio.Lock()

    def checks(self) -> list[Check]:
        """A check for each alias; the Hub is not asked again once it did not answer."""
        # Each look has its own time, in its turn.
        patience_s = (PATIENCE_S + 1) * (len(self._catalog) + 4)

        def of(spec: ModelSpec) -> Check:
            return Check(f"model.{spec.alias}", spec.alias, lambda: self._look(spec), patience_s=patience_s)

        return [of(spec) for spec in self._catalog.values()]

    async def _look(self, spec: ModelSpec) -> tuple[Verdict, str]:
        is_default = spec.alias == self._catalog.default
        here = False
        async with self._turn:
            try:
                here = self._loader.present(spec) is not None
                asks_hub = self._asks_hub and self._hub_answers
                if not here and (spec.source == EMBEDDED or not asks_hub):
                    return self._absent(spec, is_default)
                found, room = await self._looks(
                    ("model", spec),
                    lambda: (self._inspector.look(spec), self._room() or self._room_here()),
                    timeout_s=PATIENCE_S,
                )
            except (HubUnreachable, TimeoutError):
                if here:
                    raise
                self._hub_answers = False
                return self._absent(spec, is_default)
            except BotError as error:
                # A fault at the Hub, such as terms to be accepted, may be meant; one on this machine is not.
                at_hub = spec.repository is not None and not here
                return Verdict.WARNING if at_hub else Verdict.FAILED, str(error)
        return _fits(found, room, needed=here or is_default)

    def _room_here(self) -> Room:
        device, budget_bytes = read_device(), self._settings.gpu_memory_budget
        if budget_bytes is not None and budget_bytes < device.total_bytes:
            return Room("GPU_MEMORY_BUDGET", budget_bytes, min(budget_bytes, device.free_bytes))
        whose = "this GPU" if device.is_gpu else "this machine"
        return Room(whose, device.total_bytes, device.free_bytes)

    def _absent(self, spec: ModelSpec, is_default: bool) -> tuple[Verdict, str]:
        how = f"not fetched yet: `python -m bot pull {spec.alias}`, or the first question will wait for it"
        if spec.source == EMBEDDED:
            cache_dir = self._settings.cache_dir
            needed = embedded.CHECKPOINT_BYTES + embedded.WORKING_BYTES
            free = _free_bytes(cache_dir)
            if free < needed:
                how += f"; it needs {needed / 1e6:.0f} MB of disk, and {free / 1e6:.0f} MB are free in {cache_dir}"
                return Verdict.WARNING, how
        elif not self._asks_hub:
            how += "; what it needs was NOT CHECKED, because of --offline"
        elif not self._hub_answers:
            how += "; the Hub cannot be reached to ask what it needs"
        return Verdict.WARNING if is_default else Verdict.OK, how


def _fits(found: Inspection, room: Room, *, needed: bool) -> tuple[Verdict, str]:
    """Compare with what is free; `needed` says that a model that cannot run at all is a failure."""
    anatomy, spec = found.anatomy, found.spec
    need = anatomy.footprint(anatomy.context_tokens).peak_bytes
    text = f"needs about {gigabytes(need)} for {anatomy.context_tokens} tokens"
    text += f"; {room.whose} has {gigabytes(room.total_bytes)}"
    if need > room.total_bytes:
        return Verdict.FAILED if needed else Verdict.WARNING, f"{text}: {_help(found, room.total_bytes)}"
    if need > room.free_bytes:
        text += f", and {gigabytes(room.free_bytes)} are free now"
        return Verdict.WARNING, f"{text}: end what else uses it, or {_help(found, room.free_bytes)}"
    if not found.missing_bytes:
        return Verdict.OK, f"its files are here; {text}"
    from bot.inference import hub

    free = hub.free_disk_bytes()
    text = f"not fetched yet ({gigabytes(found.missing_bytes)}): `python -m bot pull {spec.alias}`; {text}"
    if free < found.missing_bytes:
        text += f"; only {gigabytes(free)} of disk are free: free space, or move the cache with HF_HOME"
        return Verdict.WARNING, text
    return Verdict.WARNING if needed else Verdict.OK, text


def _help(found: Inspection, room_bytes: int) -> str:
    """What would make it fit, tried out and not guessed."""
    anatomy, spec = found.anatomy, found.spec
    for tokens in _HELPFUL_CONTEXTS:
        if tokens < anatomy.context_tokens and anatomy.footprint(tokens).peak_bytes <= room_bytes:
            return f"with context_tokens = {tokens} in the catalogue it would fit"
    if spec.quantization == "none":
        return 'quantization = "nf4" in the catalogue takes about a quarter of the memory'
    return "choose a smaller model"


def _free_bytes(folder: Path) -> int:
    folder = folder.absolute()
    return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free
