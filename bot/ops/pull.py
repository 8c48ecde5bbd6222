"""`python -m bot pull ALIAS`: fetch a model's files before anybody asks for them."""

from __future__ import annotations

import sys
from typing import Any, Self

from tqdm import tqdm

from bot.configured import model_loader, read_catalog
from bot.inference import embedded
from bot.inference.catalog import EMBEDDED, ModelSpec
from bot.ops.logs import configure_logging
from bot.settings import Settings


def pull(settings: Settings, alias: str) -> int:
    """Fetch the files of `alias`, with a progress bar on stderr; says first how much disk they take.

    Raises:
        BotError: there is no such alias, or its files cannot be had.
    """
    configure_logging(settings.log_level, settings.secrets, form=settings.log_format)
    spec = read_catalog(settings).resolve(alias)
    loader = model_loader(settings)
    present = loader.present(spec)
    if present is not None:
        sys.stdout.write(f"{spec.alias} is here already: {present}\n")
        return 0
    loader.prepare()
    sys.stdout.write(f"{spec.alias}: {_disk_need(settings, spec)}\n")
    sys.stdout.flush()
    with _Bar() as bar:
        folder = loader.fetch(spec, bar.report)
    sys.stdout.write(f"{spec.alias} is ready: {folder}\n")
    return 0


def _disk_need(settings: Settings, spec: ModelSpec) -> str:
    if spec.source == EMBEDDED:
        kept, working = embedded.CHECKPOINT_BYTES, embedded.WORKING_BYTES
        return f"needs {kept / 1e6:.0f} MB of disk, and {working / 1e6:.0f} MB more while it is prepared"
    from bot.inference import hub

    return f"needs {hub.size_bytes(spec, settings.hub_token) / 1e9:.1f} GB of disk"


class _Bar:
    """A line for each step of a fetch, with a bar where it can be told how far the step is."""

    def __init__(self) -> None:
        self._step = ""
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def report(self, step: str, fraction: float | None) -> None:
        if step != self._step:
            self.__exit__()
            self._step = step
            measured = "{desc:<20} {bar:30} {percentage:3.0f} %"
            # Said here because libraries' own bars are switched off by default.
            self._bar = tqdm(
                total=100, desc=step, bar_format="{desc} …" if fraction is None else measured, disable=False
            )
        if fraction is not None:
            self._bar.n = round(100 * fraction)
            self._bar.refresh()
