"""The bot as an operator runs it: a process of its own, with settings, a log and a port for numbers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parents[2]
TOWARDS_STANDIN = ROOT / "tests" / "deploy" / "towards_standin"
TOKEN = "part-one.part-two.part-three"
OPERATOR = 777
_START_S = 90.0
_STOP_S = 45.0  # more than the grace and the closing together


@dataclass(frozen=True, slots=True)
class Readings:
    """What a process holds: bytes in memory, threads, open files, tasks on its event loop, requests in the queue, and
    models."""

    resident_bytes: int
    threads: int
    files: int
    tasks: int
    running: int
    waiting: int
    models: int


class BotProcess:
    """Starts and ends the bot, one process after the other, all with the same data and the same log.

    Args:
        folder: where data, log and temporary files go.
        cache_dir: where the embedded model is.
        discord: the address of the simulated Discord.
    """

    def __init__(self, folder: Path, cache_dir: Path, discord: str) -> None:
        self.log = folder / "log.txt"
        self.data_dir = folder / "data"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        models = folder / "models.toml"
        models.write_text(_MODELS)
        self._folder = folder
        self._port = _free_port()
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": os.pathsep.join(
                [str(TOWARDS_STANDIN), str(ROOT), os.environ.get("PYTHONPATH", "")]
            ),
            "DISCORD_STANDIN": discord,
            "DISCORD_TOKEN": TOKEN,
            "CACHE_DIR": str(cache_dir),
            "DATA_DIR": str(self.data_dir),
            "MODELS_FILE": str(models),
            "OPERATOR_IDS": str(OPERATOR),
            "METRICS_PORT": str(self._port),
        } | _SETTINGS
        self._process: asyncio.subprocess.Process | None = None

    @property
    def database(self) -> Path:
        """The file."""
        return self.data_dir / "punchline.sqlite3"

    async def start(self, connected: asyncio.Event) -> None:
        """Start it, and return when it is connected.

        Raises:
            TimeoutError: it is not, after a long time.
            RuntimeError: it ended.
        """
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bot", "run", cwd=self._folder, env=self._environment, stderr=log
            )
        ended = asyncio.create_task(self._process.wait())
        ready = asyncio.create_task(connected.wait())
        try:
            async with asyncio.timeout(_START_S):
                await asyncio.wait((ended, ready), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise RuntimeError(f"the bot ended at its start with code {ended.result()}")
        finally:
            ended.cancel()
            ready.cancel()

    async def kill(self) -> None:
        """SIGKILL."""
        await self._end(signal.SIGKILL, 10.0)

    async def stop(self) -> int:
        """SIGTERM; its exit code.

        Raises:
            TimeoutError: it does not end.
        """
        return await self._end(signal.SIGTERM, _STOP_S)

    async def close(self) -> None:
        """End it, whatever state it is in."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    async def _end(self, how: signal.Signals, patience_s: float) -> int:
        assert self._process is not None
        self._process.send_signal(how)
        async with asyncio.timeout(patience_s):
            return await self._process.wait()

    async def readings(self) -> Readings:
        """What it holds now."""
        assert self._process is not None
        proc = Path(f"/proc/{self._process.pid}")
        status = (proc / "status").read_text()
        timeout = aiohttp.ClientTimeout(total=20)
        url = f"http://127.0.0.1:{self._port}/metrics"
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            page = await response.text()
        return Readings(
            resident_bytes=_number(status, r"VmRSS:\s+(\d+)") * 1024,
            threads=_number(status, r"Threads:\s+(\d+)"),
            files=len(list((proc / "fd").iterdir())),
            tasks=_number(page, r"^punchline_tasks (\d+)"),
            running=_number(page, r"^punchline_queue_running (\d+)"),
            waiting=_number(page, r"^punchline_queue_waiting (\d+)"),
            models=_number(page, r"^punchline_resident_models (\d+)"),
        )


def _number(text: str, pattern: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, pattern
    return int(found[1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Two models of which one has room, so that they take turns, and that go when nobody asks: memory is compared without
# them. Limits that people run into now and then.
_SETTINGS = {
    "GPU_MEMORY_BUDGET": "700MB",
    "UNLOAD_IDLE_AFTER_MIN": "0.1",
    "BATCH_REQUESTS": "8",
    "QUEUE_LIMIT": "12",
    "MAX_NEW_TOKENS": "60",
    "GENERATION_TIMEOUT_S": "40",
    "QUEUE_TIMEOUT_S": "60",
    "SHUTDOWN_GRACE_S": "3",
    "PERSON_REQUESTS_PER_MINUTE": "20",
    "SERVER_REQUESTS_PER_MINUTE": "0",
    "SERVER_QUEUE_SHARE": "1",
}
_MODELS = """
[twin]
source = "embedded"
revision = "0.1.2"
quantization = "nf4"
context_tokens = 4096
description = "the same model under another name"
[twin.sampling]
temperature = 0.7
"""
