"""The process leaves with its exit code, whatever a thread is still at."""

from __future__ import annotations

import subprocess
import sys

LEAVES = """
import sys, threading
import torch
from bot.inference.threads import OneShotThread, end_the_process

begun = threading.Event()

def calculate():
    begun.set()
    while True:
        torch.linalg.svd(torch.randn(64, 64))

OneShotThread("load").submit(calculate)
begun.wait()
print("told", flush=True)
end_the_process(3)
sys.exit(3)  # which Python would do with SIGABRT
"""


def ran(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_load_that_goes_on_does_not_turn_the_exit_code_into_an_abort() -> None:
    left = ran(LEAVES)
    assert (left.returncode, left.stdout) == (3, "told\n"), left.stderr


def test_without_threads_at_work_nothing_is_cut_off() -> None:
    code = "import sys; from bot.inference.threads import end_the_process; end_the_process(3); print('still here')"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "still here\n")
