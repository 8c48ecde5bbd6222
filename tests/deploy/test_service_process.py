"""The service's process as the unit starts it, with a service manager's socket: for machines without a systemd too."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import discord.http

from bot.bench import discord_standin
from tests.deploy.unit import ROOT, environment, exec_start, seconds, settings_of

TOKEN = "part-one.part-two.part-three"
WATCHDOG_S = 1.0


@dataclass(frozen=True)
class Service:
    """A running ExecStart, and what it tells the manager."""

    process: subprocess.Popen[str]
    manager: socket.socket

    def told(self, wanted: str, patience_s: float = 60.0) -> list[str]:
        """What it tells until it tells this, that included."""
        self.manager.settimeout(patience_s)
        lines: list[str] = []
        while not lines or lines[-1] != wanted:
            for line in self.manager.recv(4096).decode().splitlines():
                lines.append(line)
                if line == wanted:
                    break
        return lines

    def silent(self, for_s: float) -> bool:
        """Whether it tells nothing for so long, after what it has told already."""
        self.manager.settimeout(0)
        try:
            while True:
                self.manager.recv(4096)
        except BlockingIOError:
            pass
        self.manager.settimeout(for_s)
        try:
            self.manager.recv(4096)
        except TimeoutError:
            return True
        return False


@contextmanager
def started(folder: Path, *, abstract: bool = False) -> Iterator[Service]:
    """The unit's ExecStart in the unit's environment; only folders and the program's place are this test's."""
    settings = folder / "punchline.env"
    settings.write_text(f"DISCORD_TOKEN={TOKEN}\n")
    program = Path(sysconfig.get_path("scripts")) / "punchline"
    places = {
        "/opt/punchline/.venv/bin/punchline": str(program),
        "/etc/punchline/punchline.env": str(settings),
    }
    command = [places.get(word, word) for word in exec_start()]
    assert set(places.values()) <= set(command)
    folders = {
        name: str(folder / value.strip("/")) if value.startswith("/") else value
        for name, value in environment().items()
    }
    address = f"\0punchline-tests-{os.getpid()}" if abstract else str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        outside = os.environ.get("PYTHONPATH", "")
        path = os.pathsep.join([str(Path(__file__).parent / "towards_standin"), str(ROOT), outside])
        process = subprocess.Popen(
            command,
            env={
                "PATH": os.environ["PATH"],
                **folders,
                "PYTHONPATH": path,
                "DISCORD_STANDIN": discord.http.Route.BASE.removeprefix("http://"),
                "NOTIFY_SOCKET": address.replace("\0", "@"),
                "WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6)),
            },
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield Service(process, manager)
        finally:
            process.kill()
            process.communicate()


def test_it_is_ready_after_the_login_beats_and_leaves_in_good_order(tmp_path: Path) -> None:
    with discord_standin.running(0.01), started(tmp_path) as service:
        told = service.told("READY=1")
        assert "STATUS=logging in to Discord" in told
        assert told[-2:] == ["STATUS=0 running, 0 waiting", "READY=1"]
        service.told("WATCHDOG=1", WATCHDOG_S)
        service.told("WATCHDOG=1", WATCHDOG_S)
        service.process.send_signal(signal.SIGTERM)
        told = service.told("STOPPING=1")
        assert not [line for line in told if line.startswith("STATUS=")]
        _, log = service.process.communicate(timeout=30)
        assert service.process.returncode == 0, log
    assert "ready as Punchline" in log
    assert TOKEN not in log


def test_told_to_reload_it_reads_its_settings_and_says_when_that_is_done(tmp_path: Path) -> None:
    with discord_standin.running(0.01), started(tmp_path) as service:
        service.told("READY=1")
        with (tmp_path / "punchline.env").open("a") as settings:
            settings.write("MAX_NEW_TOKENS=9\n")
        service.process.send_signal(signal.SIGHUP)
        assert "RELOADING=1" in service.told("READY=1")
        with (tmp_path / "punchline.env").open("a") as settings:
            settings.write("QUEUE_LIMIT=many\n")
        service.process.send_signal(signal.SIGHUP)
        service.told("RELOADING=1")
        service.told("READY=1")
        service.process.send_signal(signal.SIGTERM)
        _, log = service.process.communicate(timeout=30)
        assert service.process.returncode == 0, log
    assert "reloaded: Reloaded. Changed: MAX_NEW_TOKENS." in log
    assert "nothing was reloaded: QUEUE_LIMIT is malformed" in log


def test_an_abstract_socket_is_told_too(tmp_path: Path) -> None:
    with discord_standin.running(0.01), started(tmp_path, abstract=True) as service:
        service.told("READY=1")


def test_a_refused_token_is_never_ready_and_ends_with_the_code_that_is_not_tried_again(
    tmp_path: Path,
) -> None:
    with discord_standin.running(0, refuse_token=True), started(tmp_path) as service:
        refused = "DISCORD_TOKEN was refused by Discord: reset it on the application's Bot page."
        told = service.told(f"STATUS={refused}")
        assert "READY=1" not in told
        _, log = service.process.communicate(timeout=30)
    assert log.splitlines()[-1] == refused
    assert settings_of()["RestartPreventExitStatus"] == [str(service.process.returncode)]


def test_a_blocked_event_loop_is_heard_of_no_more_and_says_where_it_was(tmp_path: Path) -> None:
    with discord_standin.running(0.01), started(tmp_path) as service:
        service.told("READY=1")
        service.process.send_signal(signal.SIGUSR1)
        assert service.silent(2 * WATCHDOG_S)
        service.process.send_signal(signal.SIGABRT)  # what systemd's watchdog sends
        _, log = service.process.communicate(timeout=30)
    assert service.process.returncode == -signal.SIGABRT
    assert "most recent call first" in log
    assert "sitecustomize.py" in log


def test_without_a_service_manager_nothing_is_told_and_nothing_changes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bot", "run"]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert ran.returncode == 2
    assert "DISCORD_TOKEN is not set" in ran.stderr


def test_the_manager_waits_longer_than_answers_may_take() -> None:
    from bot.ops.supervision import CLOSING_S
    from bot.settings import Settings

    grace_s = Settings.model_fields["shutdown_grace_s"].default
    (wait,) = settings_of()["TimeoutStopSec"]
    assert seconds(wait) >= grace_s + CLOSING_S
