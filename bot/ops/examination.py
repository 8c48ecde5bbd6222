"""All checks together, for whoever asks: the command line before a start, or an operator of a running bot."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from bot.configured import read_access
from bot.errors import CatalogError
from bot.inference.catalog import ModelCatalog
from bot.inference.loader import ModelLoader
from bot.inference.threads import SharedLooks
from bot.ops.checks import Check, NotChecked, Once, run_checks
from bot.ops.clock import Clock
from bot.ops.device_failures import failure_checks
from bot.ops.discord_checks import DiscordChecks, logged_in_checks
from bot.ops.findings import Finding, Verdict
from bot.ops.fitting import Fitting, Room
from bot.ops.hub_checks import HubChecks
from bot.ops.machine_checks import AcceleratorChecks, folder_checks
from bot.registration import refused
from bot.settings import Settings


class Examination:
    """Looks at everything that must be right.

    Args:
        settings: how the bot is set up.
        catalog: reads the catalogue.
        loader: knows where models are.
        room: what models may take, where that is known already, as in a bot that runs.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Callable[[], ModelCatalog],
        loader: ModelLoader,
        *,
        room: Callable[[], Room | None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._loader = loader
        self._room = room
        self._looks = SharedLooks()

    async def everything(self, *, server_id: int | None, offline: bool) -> AsyncGenerator[Finding, None]:
        """For a bot that does not run: Discord is asked as by one that logs in."""
        clock = Clock()
        async with logged_in_checks(self._settings, clock) as discord_side:
            async for finding in self._run(discord_side, clock, server_id=server_id, offline=offline):
                yield finding

    async def machine(self, clock: Clock) -> AsyncGenerator[Finding, None]:
        """For a bot that runs: all but Discord, which the bot itself asks."""
        async for finding in self._run(None, clock, server_id=None, offline=False):
            yield finding

    async def _run(
        self, discord_side: DiscordChecks | None, clock: Clock, *, server_id: int | None, offline: bool
    ) -> AsyncGenerator[Finding, None]:
        async with AsyncExitStack() as opened:
            hub = HubChecks(self._settings.hub_token, self._loader, clock, self._looks)
            opened.push_async_callback(hub.answer.aclose)
            accelerator = AcceleratorChecks(self._looks)
            opened.push_async_callback(accelerator.reading.aclose)

            async def told_time() -> tuple[Verdict, str]:
                asked: list[Once[Any]] = [hub.answer]
                if discord_side is not None:
                    asked.insert(0, discord_side.application)
                for ask in asked:
                    with suppress(Exception):  # told by the check that is about it
                        await ask()
                    if (verdict := clock.verdict()) is not None:
                        return verdict
                raise NotChecked("neither Discord nor the Hub has told the time")

            checks: list[Check] = [] if discord_side is None else discord_side.checks(server_id)
            checks.append(Check("clock", "clock", told_time, asks="Discord or the Hub"))
            checks += failure_checks(self._settings.data_dir)
            checks += [*_command_checks(self._settings.data_dir), *folder_checks(self._settings, self._looks)]
            try:
                catalog = self._catalog()
            except CatalogError as error:
                checks += [_catalog_check(error), *accelerator.checks()]
            else:
                checks += [_catalog_check(catalog), _access_check(self._settings, catalog)]
                fitting = Fitting(
                    self._settings,
                    catalog,
                    self._loader,
                    asks_hub=not offline,
                    room=self._room,
                    looks=self._looks,
                )
                checks += [*hub.checks(catalog), *accelerator.checks(), *fitting.checks()]
            findings = run_checks(checks, offline=offline)
            opened.push_async_callback(findings.aclose)
            async for finding in findings:
                yield finding


def _command_checks(data_dir: Path) -> list[Check]:
    """What Discord refused when the bot registered its commands; nothing to look at if it took them all."""
    if not (reason := refused(data_dir)):
        return []

    async def told() -> tuple[Verdict, str]:
        return (
            Verdict.FAILED,
            f"Discord did not take all commands at the last start: {reason}. Start the bot again, or look for a "
            "newer version.",
        )

    return [Check("commands", "commands", told)]


def _catalog_check(read: ModelCatalog | CatalogError) -> Check:
    async def told() -> str:
        if isinstance(read, CatalogError):
            raise read
        return f"{len(read)} models; {read.default} answers by default"

    return Check("catalogue", "catalogue", told)


def _access_check(settings: Settings, catalog: ModelCatalog) -> Check:
    async def told() -> str:
        if settings.access_file is None:
            return "no file of yours: everybody may ask, within the limits"
        read_access(settings, catalog)
        return f"{settings.access_file} can be used"

    return Check("access_file", "ACCESS_FILE", told)
