from __future__ import annotations

import pytest

from bot.inference.catalog import ModelSpec


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec(alias="tiny", source="embedded", context_tokens=256, description="a model")
