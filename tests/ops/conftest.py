from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from bot.ops import logs
from bot.settings import Settings


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Configuring the log is for the whole process: put it back."""
    loggers = [logging.getLogger(name) for name in (*logs._QUIET, *logs._TELLING, *logs._MUTE)]
    root = logging.getLogger()
    call_handlers = logging.Logger.callHandlers
    levels, handlers = [(log, log.level) for log in (root, *loggers)], root.handlers[:]
    yield
    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]
    root.handlers[:] = handlers
    for log, level in levels:
        log.setLevel(level)


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
