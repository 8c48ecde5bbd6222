"""What systemd is told of the process: that it is ready, alive, stopping (the sd_notify protocol).

Written here because it is one datagram to a socket whose address is in the environment; the libraries that do it are
either bindings that need systemd's headers to build, or no longer looked after.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

log = logging.getLogger(__name__)


class Notifier:
    """Tells the service manager; without one, every method does nothing.

    Telling never waits and never fails: a bot that answers people is worth more than one that is well supervised.

    Args:
        address: the manager's socket: a path, or an abstract name behind an `@`. None for no manager.
        watchdog_s: within how long the manager wants to hear `beat`; None if it does not.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._socket: socket.socket | None = None
        if address is None:
            return
        if address[0] not in "/@":
            log.warning(
                "NOTIFY_SOCKET is of a kind that is not understood: the service manager is told nothing"
            )
            return
        self._address = f"\0{address[1:]}" if address[0] == "@" else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] | None = None) -> Notifier:
        """What the environment says; taken out of it, since none of it is meant for the processes started from here."""
        environment = os.environ if environment is None else environment
        address = environment.pop("NOTIFY_SOCKET", None) or None
        within_us = environment.pop("WATCHDOG_USEC", "")
        meant_for = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        watchdog_s = None
        if within_us.isascii() and within_us.isdigit() and meant_for == str(os.getpid()):
            watchdog_s = int(within_us) / 1e6 or None
        return cls(address, watchdog_s)

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager."""
        return self._socket is not None

    def ready(self) -> None:
        """The service does what it is for, for the first time or again after `reloading`."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """A line for `systemctl status`; of several lines, the first."""
        self._send(f"STATUS={text.partition(chr(10))[0]}")

    def beat(self) -> None:
        """Still well."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Settings are being read again; `ready` says when that is done."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, *, within_s: float) -> None:
        """The service is about to end, and asks for so long before it is killed."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(within_s * 1e6)}")

    def close(self) -> None:
        """Nothing more will be told."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            name = assignments[0].partition("=")[0]
            log.warning("the service manager could not be told %s (%s)", name, error.strerror)
