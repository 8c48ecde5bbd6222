"""A fresh machine with a real systemd, in namespaces of its own: for tests that follow the installation's page."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BOOT = Path(__file__).with_name("boot.sh")
TOOLS = ("unshare", "nsenter", "setpriv", "systemctl", "git")
NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--cgroup")
BOOT_TIMEOUT_S = 30.0


class NoMachine(Exception):
    """What is missing here for one."""


@dataclass(frozen=True)
class Machine:
    """A machine that runs.

    Attributes:
        init: the process id of its systemd, out here.
    """

    init: int

    def sh(self, script: str, *, timeout_s: float = 100.0, check: bool = True) -> str:
        """Run a script as root in it; returns what it printed, both streams."""
        command = [
            "nsenter",
            "--target",
            str(self.init),
            *NAMESPACES,
            "--root",
            "--wd",
            "bash",
            "-eu",
            "-c",
            script,
        ]
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # What tells pip and others where packages are is of the machine's network, which is shared.
        outside = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_CERT"))}
        outside = {name: value for name, value in outside.items() if name != "PIP_CONSTRAINT"}
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            env={"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", **outside},
        )
        if check and ran.returncode != 0:
            raise AssertionError(f"exit code {ran.returncode} of:\n{script}\n{ran.stdout}")
        return ran.stdout

    def shown(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.sh(f"systemctl show --property={name} --value {unit}").strip()

    def write(self, path: str, text: str) -> None:
        """Put a file into it."""
        self.sh(f"mkdir -p {Path(path).parent} && cat > {path} <<'END_OF_FILE'\n{text}\nEND_OF_FILE")


def inside(path: Path) -> Path:
    """Where a folder that was given to `booted` is in the machine: where services see it, unlike /root or /tmp."""
    return Path("/srv/host") / path.relative_to("/")


@contextmanager
def booted(seen: Sequence[Path]) -> Iterator[Machine]:
    """Boot one; it is gone with the block, whatever was done in it.

    Args:
        seen: folders to be seen in it, read-only, see `inside`.

    Raises:
        NoMachine: it cannot be had here.
    """
    if os.geteuid() != 0:
        raise NoMachine("root")
    if missing := [name for name in TOOLS if shutil.which(name) is None]:
        raise NoMachine(", ".join(missing))
    if not Path("/lib/systemd/systemd").exists():
        raise NoMachine("systemd")
    with tempfile.TemporaryDirectory() as layers, tempfile.TemporaryFile("w+") as said:
        group = _cgroup2() / f"punchline-{Path(layers).name}"
        try:
            group.mkdir()
            enter = (
                f"echo $$ > {group}/cgroup.procs && exec setpriv --pdeathsig KILL unshare --fork --kill-child"
            )
            command = [
                "bash",
                "-c",
                f'{enter} {" ".join(NAMESPACES)} "$@"',
                "boot",
                "bash",
                str(BOOT),
                layers,
            ]
            process = subprocess.Popen(
                [*command, *map(str, seen)], stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
        except OSError as error:
            raise NoMachine(f"control groups that can be made ({error.strerror})") from error
        try:
            yield Machine(_init(process, said.fileno()))
        finally:
            for child in _children(process.pid):
                os.kill(child, signal.SIGKILL)  # and with a pid namespace's init everything in it
            process.kill()
            process.wait()
            _remove(group)


def _init(process: subprocess.Popen[bytes], said: int) -> int:
    """The machine's init, once it has booted."""
    deadline_s = time.monotonic() + BOOT_TIMEOUT_S
    state = ""
    while time.monotonic() < deadline_s and process.poll() is None:
        for child in _children(process.pid):
            asked = ["nsenter", "--target", str(child), *NAMESPACES, "systemctl", "is-system-running"]
            state = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.strip()
            if state in ("running", "degraded"):
                return child
        time.sleep(0.1)
    os.lseek(said, 0, os.SEEK_SET)
    raise NoMachine(f"a systemd that boots ({state}): {os.read(said, 2000).decode(errors='replace')}")


def _children(pid: int) -> list[int]:
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(child) for child in listed.split()]


def _cgroup2() -> Path:
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(where)
    raise NoMachine("a cgroup2 file system that can be written to")


def _remove(group: Path) -> None:
    deadline_s = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline_s:
        folders = [Path(folder) for folder, _, _ in os.walk(group, topdown=False)]
        try:
            for folder in folders:
                folder.rmdir()
        except OSError:  # its last processes are still ending
            time.sleep(0.05)
