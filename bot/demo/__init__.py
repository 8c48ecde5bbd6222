"""The bot without Discord: the same bot, cogs and engine, in a simulated Discord in this process."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import tempfile
from pathlib import Path

from bot.errors import BotError, UsageError
from bot.ops.logs import configure_logging
from bot.settings import NO_LIMITS, Settings


def demo(settings: Settings, *, once: str | None, port: int) -> int:
    """Serve the demo page until it is stopped, or run one command in the terminal.

    Args:
        settings: as for the real bot; no token is needed.
        once: a command as it is typed into Discord, or None for the page.
        port: the page's port on 127.0.0.1; 0 takes a free one.

    Returns:
        The exit code: 0, or 1 if the one command was not answered.

    Raises:
        BotError: the demo cannot start.
    """
    if importlib.util.find_spec("simcord") is None:
        raise UsageError("The demo needs its extra packages: run `pip install 'punchline[demo]'`.")
    # simcord makes a client of discord.py when it is imported, which warns of voice and of intents.
    logging.getLogger("discord").setLevel(logging.ERROR)  # until the log is configured below
    from bot.demo.page import serve
    from bot.demo.terminal import answer_once

    level = "WARNING" if settings.log_level == "INFO" else settings.log_level
    configure_logging(level, settings.secrets, form=settings.log_format)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="punchline-demo-")
    except OSError as error:
        raise BotError(
            f"The demo keeps its database in a temporary folder, and none can be made ({error.strerror}): set TMPDIR "
            "to a folder you may write to."
        ) from None
    with temporary as folder:
        # What is chosen in a simulated server is not for the real database, and nobody else asks there.
        own = settings.model_copy(
            update={"data_dir": Path(folder), "database_file": None, "access_file": None, **NO_LIMITS}
        )
        return asyncio.run(serve(own, port) if once is None else answer_once(own, once))
