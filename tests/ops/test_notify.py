"""The datagrams that a service manager gets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.ops.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        yield listening


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    notifier = Notifier(manager.getsockname())
    yield notifier
    notifier.close()


def test_each_thing_is_told_in_the_managers_words(manager: socket.socket, notifier: Notifier) -> None:
    notifier.ready()
    notifier.status("first line\nsecond")
    notifier.beat()
    notifier.stopping(within_s=1.5)
    told = [manager.recv(4096).decode() for _ in range(4)]
    assert told == ["READY=1", "STATUS=first line", "WATCHDOG=1", "STOPPING=1\nEXTEND_TIMEOUT_USEC=1500000"]


def test_a_reload_is_told_with_the_time_at_which_it_began(manager: socket.socket, notifier: Notifier) -> None:
    notifier.reloading()
    first, second = manager.recv(4096).decode().splitlines()
    assert first == "RELOADING=1"
    assert int(second.removeprefix("MONOTONIC_USEC=")) > 0


def test_the_environment_says_where_and_how_often_and_children_do_not_inherit_it(
    manager: socket.socket,
) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "60000000", "HOME": "/"}
    environment["WATCHDOG_PID"] = str(os.getpid())
    notifier = Notifier.from_environment(environment)
    assert (notifier.is_heard, notifier.watchdog_s) == (True, 60.0)
    assert environment == {"HOME": "/"}
    notifier.close()
    assert not notifier.is_heard
    notifier.ready()  # nobody is told any more, and nothing fails


@pytest.mark.parametrize(
    "watchdog",
    [
        {"WATCHDOG_PID": "1", "WATCHDOG_USEC": "60000000"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {},
    ],
    ids=["somebody else's", "no number", "zero", "none"],
)
def test_a_watchdog_that_is_not_ours_or_makes_no_sense_is_none(watchdog: dict[str, str]) -> None:
    assert Notifier.from_environment(dict(watchdog)).watchdog_s is None


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234"])
def test_without_a_socket_that_can_be_told_nothing_happens(address: str | None) -> None:
    notifier = Notifier.from_environment({} if address is None else {"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.stopping(within_s=1)
    assert not notifier.is_heard


def test_a_manager_that_is_gone_is_a_line_in_the_log_and_not_a_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    notifier.status("what is being done")
    notifier.close()
    assert "could not be told STATUS (No such file or directory)" in caplog.text
