"""docs/install-systemd.md followed line by line on a fresh machine with a real systemd, down to uninstalling."""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot.bench import discord_payloads, discord_standin
from bot.inference.embedded import checkpoint_path
from tests.conftest import CACHE_DIR
from tests.deploy.machine import Machine, NoMachine, booted, inside
from tests.deploy.pages import blocks
from tests.deploy.unit import ROOT

PAGE = "install-systemd.md"
TOKEN = "part-one.part-two.part-three"
HERE = Path(__file__).parent
DOWNLOAD = bool(os.environ.get("INSTALL_TEST_DOWNLOADS"))  # then nothing is spared, and it takes minutes

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]


@dataclass(frozen=True)
class Installed:
    """A machine on which the page was followed."""

    machine: Machine
    discord_side: discord_standin.StandIn

    def until(self, true: Callable[[], bool], patience_s: float = 60.0) -> None:
        deadline_s = time.monotonic() + patience_s
        while not true():
            log = "" if time.monotonic() < deadline_s else self.log()
            assert time.monotonic() < deadline_s, log
            time.sleep(0.1)

    def log(self) -> str:
        return self.machine.sh("journalctl --no-pager --unit punchline --output cat")

    def state(self) -> str:
        return self.machine.shown("punchline", "ActiveState")

    def pid(self) -> int:
        return int(self.machine.shown("punchline", "MainPID"))


@contextmanager
def followed() -> Iterator[Installed]:
    """The page, followed to its running unit."""
    libraries = Path(sysconfig.get_path("purelib"))
    seen = [folder for folder in (ROOT, libraries, CACHE_DIR) if folder.exists()]
    try:
        with discord_standin.running(0.01) as discord_side, booted(seen) as machine:
            prepare(machine, libraries)
            for block in blocks(PAGE, "Install"):
                follow(machine, block)
            yield Installed(machine, discord_side)
    except NoMachine as error:
        pytest.skip(f"NEEDS A MACHINE THAT CAN RUN SYSTEMD IN NAMESPACES: this one lacks {error}")


def prepare(machine: Machine, libraries: Path) -> None:
    """What is of this test, and not of the page."""
    version = machine.sh("python3 -c 'import sys; print(*sys.version_info[:2])'").split()
    if tuple(map(int, version)) != sys.version_info[:2]:
        raise NoMachine(f"a system Python of this version ({'.'.join(map(str, sys.version_info[:2]))})")
    # Discord's address, and 5 s in the place of a minute: seconds are what a test can wait.
    import discord.http

    standin = discord.http.Route.BASE.removeprefix("http://")
    lines = ["[Service]", "WatchdogSec=5s", "RestartSec=1s", f"Environment=DISCORD_STANDIN={standin}"]
    lines.append(f"Environment=PYTHONPATH={inside(HERE / 'towards_standin')}")
    machine.write("/etc/systemd/system/punchline.service.d/test.conf", "\n".join(lines))
    # Whoever edits the settings writes the token; and short answers, for slow processors.
    machine.write(
        "/usr/local/bin/nano",
        f'#!/bin/sh\nsed -i "s/^DISCORD_TOKEN=$/DISCORD_TOKEN={TOKEN}/" "$1"\necho MAX_NEW_TOKENS=8 >> "$1"',
    )
    machine.sh("chmod +x /usr/local/bin/nano")
    machine.write("/root/libraries.pth", str(inside(libraries)))


def follow(machine: Machine, block: str) -> None:
    for written in block.splitlines():
        line = written.replace("ADDRESS_OF_THIS_REPOSITORY", f"file://{inside(ROOT)}")
        # What the check finds is for its own tests to say; here it has to run.
        said = machine.sh(line, timeout_s=300, check=line != "punchline check")
        assert "Traceback" not in said
        if not DOWNLOAD and line.startswith("python3 -m venv"):
            # pip then finds what the tests run with.
            machine.sh("cp /root/libraries.pth /opt/punchline/.venv/lib/python3.*/site-packages")
        if line.startswith("install -d -o punchline") and checkpoint_path(CACHE_DIR).exists():
            machine.sh(f"cp -r {inside(CACHE_DIR)}/embedded /var/cache/punchline")
            machine.sh("chown -R punchline: /var/cache/punchline")


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with followed() as machine:
        yield machine


@pytest.fixture
def running(installed: Installed) -> Installed:
    """Whatever a test before did to it."""
    installed.machine.sh("systemctl reset-failed punchline; systemctl start punchline")
    return installed


def test_whoever_follows_the_page_has_a_running_unit(running: Installed) -> None:
    machine = running.machine
    assert running.state() == "active"
    assert machine.shown("punchline", "StatusText") == "0 running, 0 waiting"
    assert machine.shown("punchline", "UnitFileState") == "enabled"
    assert "ready as" in running.log()
    assert machine.sh(f"ps -o user:20= -p {running.pid()}").strip() == "punchline"


def test_the_bot_answers_inside_the_sandbox(running: Installed) -> None:
    if not checkpoint_path(CACHE_DIR).exists():
        pytest.skip("NEEDS THE EMBEDDED MODEL: run `python -m bot pull smol` first, as `make test` does")
    running.discord_side.dispatch(
        discord_payloads.command_payload(os.getpid() % 1000, "joke", topic="tea", model="smol")
    )
    said: list[str] = []

    def answered() -> bool:
        said.extend(one.content for one in running.discord_side.arrivals())
        return any("tokens/s" in one for one in said)

    running.until(answered, 90)
    assert "Traceback" not in running.log()


def test_what_people_wrote_and_the_token_are_nobody_elses_to_read(running: Installed) -> None:
    machine = running.machine
    for path in (
        "/etc/punchline/punchline.env",
        "/var/lib/punchline",
        "/var/lib/punchline/punchline.sqlite3",
    ):
        owner, mode = machine.sh(f"stat --format '%U %a' {path}").split()
        assert (owner, mode[1:]) == ("punchline", "00"), path
    assert TOKEN not in machine.sh(f"tr '\\0' '\\n' < /proc/{running.pid()}/environ")
    assert TOKEN not in running.log()
    assert machine.sh(f"grep '^Max core file size' /proc/{running.pid()}/limits").split()[4] == "0"


def test_the_bot_can_change_nothing_but_what_is_its_own_and_sees_no_homes(running: Installed) -> None:
    inside = f"nsenter --target {running.pid()} --mount --root --wd=/ sh -c"
    files = "/opt/punchline/bot/x /usr/x /etc/punchline/x"
    seen = running.machine.sh(f"{inside} 'touch {files} 2>&1 || true'")
    assert seen.count("Read-only file system") == 3
    running.machine.sh(f"{inside} 'touch /var/lib/punchline/x /var/cache/punchline/x /tmp/x'")
    running.machine.sh("test ! -e /tmp/x")
    assert running.machine.sh("ls -A /root")
    assert running.machine.sh(f"{inside} 'ls -A /root'") == ""
    rights = running.machine.sh(f"grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/{running.pid()}/status")
    assert rights.split()[1::2] == ["0000000000000000", "1", "2"]


def test_a_blocked_event_loop_is_ended_logged_and_started_anew(running: Installed) -> None:
    before = running.pid()
    running.machine.sh(f"kill -USR1 {before}")
    running.until(lambda: running.pid() not in (0, before) and running.state() == "active", 90)
    log = running.log()
    assert "Watchdog timeout" in running.machine.sh("journalctl --no-pager --unit punchline")
    assert "most recent call first" in log  # where each thread was
    assert "towards_standin/sitecustomize.py" in log


def test_told_to_stop_it_leaves_in_good_order(running: Installed) -> None:
    running.machine.sh("systemctl stop punchline")
    assert running.machine.shown("punchline", "Result") == "success"
    assert running.machine.shown("punchline", "ExecMainStatus") == "0"
    assert running.machine.shown("punchline", "ActiveState") == "inactive"


def test_a_setting_is_changed_by_a_reload_and_the_process_stays(running: Installed) -> None:
    file, before = "/etc/punchline/punchline.env", running.pid()
    running.machine.sh(f"cp -p {file} /root/kept && echo MAX_NEW_TOKENS=99 >> {file}")
    try:
        running.machine.sh("systemctl reload punchline")
        running.until(lambda: "Changed: MAX_NEW_TOKENS" in running.log(), 20)
        running.until(lambda: running.state() == "active", 20)
        assert running.pid() == before
    finally:
        running.machine.sh(f"cp -p /root/kept {file}")
        running.machine.sh("systemctl reload punchline")


def test_a_fault_in_the_settings_is_said_and_not_tried_again(running: Installed) -> None:
    file = "/etc/punchline/punchline.env"
    running.machine.sh(f"cp -p {file} /root/kept && echo QUEUE_LIMIT=many >> {file}")
    try:
        said = running.machine.sh("systemctl restart punchline", check=False)
        assert "failed" in said
        running.until(lambda: running.state() == "failed", 20)
        assert "QUEUE_LIMIT is malformed" in running.log()
        assert running.machine.shown("punchline", "ExecMainStatus") == "2"
    finally:
        running.machine.sh(f"cp -p /root/kept {file}")


def test_systemd_finds_no_fault_with_the_units(installed: Installed) -> None:
    where = "/etc/systemd/system"
    said = installed.machine.sh(
        f"systemd-analyze verify {where}/punchline.service {where}/punchline-gpu.service 2>&1"
    )
    ours = [line for line in said.splitlines() if "punchline" in line]
    # What came with systemd 254, older ones pass over.
    assert [line for line in ours if "RestartSteps" not in line and "RestartMaxDelaySec" not in line] == []
    installed.machine.sh("systemd-analyze security --threshold=15 punchline.service >/dev/null")


def test_upgrading_and_uninstalling_as_the_page_says(tmp_path: Path) -> None:
    with followed() as one:
        before = one.pid()
        for block in blocks(PAGE, "Upgrade"):
            follow(one.machine, block)
        assert one.state() == "active"
        assert one.pid() != before
        assert one.machine.sh("ls /var/lib/punchline/before.sqlite3")
        for block in blocks(PAGE, "Uninstall"):
            follow(one.machine, block)
        one.machine.sh("rm -r /etc/systemd/system/punchline.service.d")  # this test's own
        assert one.machine.sh("find /etc /opt /usr/local /var /run -name '*punchline*'") == ""
        assert "punchline" not in one.machine.sh("cat /etc/passwd; systemctl list-unit-files")
