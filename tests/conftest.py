from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from bot.inference.embedded import checkpoint_path
from bot.inference.loader import ModelLoader
from bot.inference.local import LocalEngine
from bot.settings import Settings, load_settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes share the cores: more threads than cores wait for each other most of the time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Read before the tests hide the environment: where `make test` has put the embedded model.
CACHE_DIR = load_settings(None).cache_dir


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine's environment sets must not decide whether a test passes."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def smol_engine() -> Iterator[LocalEngine]:
    """The real engine; the embedded model is loaded by whoever asks first and then stays."""
    if not checkpoint_path(CACHE_DIR).exists():
        pytest.skip("NEEDS THE EMBEDDED MODEL: run `python -m bot pull smol` first, as `make test` does")
    engine = LocalEngine(ModelLoader(CACHE_DIR))
    yield engine
    asyncio.run(engine.aclose())
