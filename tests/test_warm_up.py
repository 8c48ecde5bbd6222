"""Models that are made ready while the bot starts."""

from __future__ import annotations

import asyncio

from bot.inference.catalog import ModelSpec
from bot.inference.queue import InferenceQueue
from bot.inference.scripted import ScriptedEngine
from bot.warm_up import made_ready_beside


async def test_a_model_with_two_aliases_is_made_ready_once() -> None:
    spec = ModelSpec(alias="a", source="/models/a", context_tokens=256, description="a model")
    engine = ScriptedEngine()
    specs = [spec, spec.model_copy(update={"alias": "b", "description": "the same one"})]
    async with InferenceQueue(engine) as queue, made_ready_beside(engine, queue, specs):
        for _ in range(100):
            await asyncio.sleep(0)
    assert [request.model.key for request in engine.started] == [spec.key]
