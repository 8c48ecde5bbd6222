"""Models that are made ready while the bot starts, so that nobody is the first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bot.chat.prompt import ask_messages
from bot.errors import BotError
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import Engine, Finished, FinishReason, GenerationRequest
from bot.inference.queue import InferenceQueue

log = logging.getLogger(__name__)

# The first token makes the cache and whatever else a model makes once; the second is a step like all others.
_TOKENS = 2


@asynccontextmanager
async def made_ready_beside(
    engine: Engine, queue: InferenceQueue, specs: Sequence[ModelSpec]
) -> AsyncIterator[None]:
    """Load models, and have each answer once, while the block runs; it does not wait for them.

    The answer waits in the queue like anybody's, for one model at a time answers. A model that cannot be made ready is
    a line in the log.
    """

    async def make_ready() -> None:
        for spec in {spec.key: spec for spec in specs}.values():
            try:
                await _made_ready(engine, queue, spec)
            except BotError as error:
                log.error("%s is not loaded at the start: %s", spec.alias, error)

    making = asyncio.create_task(make_ready())
    try:
        yield
    finally:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)


async def _made_ready(engine: Engine, queue: InferenceQueue, spec: ModelSpec) -> None:
    await engine.fetch(spec, lambda _: None)
    await engine.load(spec, lambda _: None)
    request = GenerationRequest(spec, ask_messages("Hello"), SamplingParams(max_new_tokens=_TOKENS))
    async with queue.submit(request) as generation:
        async for event in generation:
            if isinstance(event, Finished) and event.reason is FinishReason.ERROR:
                log.error("%s is loaded and does not answer: %s", spec.alias, event.error)
                return
    log.info("%s is ready", spec.alias)
