"""What waits for all of a GPU, or gives its memory back, and the recording of a step keep out of each other's way.

While a stream is recorded as a CUDA graph, CUDA refuses to wait for the device on any thread, and PyTorch to empty its
cache: a load beside it would fail with words that mean nothing to anybody. So a step is not recorded while a model is
loaded or memory given back, and whoever begins either waits for the recording, which takes about two steps.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_turn = threading.Lock()
_users = 0


@contextmanager
def whole_device() -> Iterator[None]:
    """While the block runs, no step is recorded. Not for the event loop: it may wait for a recording."""
    global _users  # there is one device
    with _turn:
        _users += 1
    try:
        yield
    finally:
        with _turn:
            _users -= 1


@contextmanager
def recording() -> Iterator[bool]:
    """Whether a step may be recorded in the block; if so, nobody else uses the whole device meanwhile."""
    with _turn:
        if not _users:
            yield True
            return
    yield False
