"""`python -m bot check`: is this machine ready, and the bot's application? One line for each thing, with the fix."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import TextIO

from bot.configured import model_loader, read_catalog
from bot.errors import SettingsError
from bot.ops.examination import Examination
from bot.ops.findings import Finding, Verdict, document, worst
from bot.ops.logs import configure_logging
from bot.ops.quotes import without_secrets
from bot.settings import Settings


def check(
    settings: Settings, *, server_id: int | None = None, offline: bool = False, as_json: bool = False
) -> int:
    """Print what was found, each line as soon as it is known or all as one JSON document; 1 if anything failed.

    Args:
        settings: how the bot is set up.
        server_id: a server in which to look at the bot's permissions.
        offline: leave out what asks Discord or the Hub.
        as_json: print one document, and nothing else, on stdout.
    """
    configure_logging("ERROR", settings.secrets, form=settings.log_format)
    examination = Examination(settings, lambda: read_catalog(settings), model_loader(settings))

    async def examined(out: TextIO) -> list[Finding]:
        findings = []
        async for finding in examination.everything(server_id=server_id, offline=offline):
            findings.append(replace(finding, text=without_secrets(finding.text, settings.secrets)))
            if not as_json:
                _print(findings[-1], out)
        return findings

    with _own_stdout() as out:
        findings = asyncio.run(examined(out))
        if as_json:
            out.write(document(findings) + "\n")
    return 1 if worst(findings) is Verdict.FAILED else 0


def unsettled(error: SettingsError) -> None:
    """Print a document for settings that cannot be read, so that scripts always get one."""
    lines = str(error).splitlines()
    findings = [Finding("settings", Verdict.FAILED, "settings", line) for line in lines]
    sys.stdout.write(document(findings) + "\n")


def _print(finding: Finding, out: TextIO) -> None:
    out.write(f"{finding.verdict:<8} {finding.subject:<12} {finding.text}\n")
    out.flush()


@contextmanager
def _own_stdout() -> Iterator[TextIO]:
    """Keep stdout to ourselves: what libraries print there, native ones too, goes to stderr."""
    sys.stdout.flush()
    try:
        number = sys.stdout.fileno()
    except (OSError, io.UnsupportedOperation):  # no real file, as in tests
        out = sys.stdout
        with redirect_stdout(sys.stderr):
            yield out
        return
    with os.fdopen(os.dup(number), "w", encoding="utf-8") as kept, redirect_stdout(sys.stderr):
        os.dup2(2, number)
        try:
            yield kept
        finally:
            kept.flush()
            os.dup2(kept.fileno(), number)
