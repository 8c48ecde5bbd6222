from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.inference.catalog import ModelSpec
from bot.inference.loader import ModelLoader
from bot.inference.local import LocalEngine


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec(alias="tiny", source="embedded", context_tokens=256, description="a model")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    loader = ModelLoader(tmp_path)
    loader.prepare()
    engine = LocalEngine(loader, budget_bytes=10**9)
    yield engine
    asyncio.run(engine.aclose())
