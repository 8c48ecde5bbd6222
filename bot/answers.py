"""Giving answers: a request goes into the queue, its reply is shown while it grows, and both are kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import discord

from bot.access.asker import Asker
from bot.access.gate import Gate
from bot.access.recent import Admission
from bot.archive import Archive, Origin
from bot.chat.messages import ChatMessage
from bot.chat.prompt import said_before, within_history
from bot.inference.catalog import ModelSpec
from bot.inference.engine import Finished, GenerationRequest
from bot.inference.generation import Generation
from bot.inference.queue import InferenceQueue
from bot.replies.live import LiveReply
from bot.replies.long_texts import read_apart
from bot.replies.shown import Shown
from bot.replies.surface import InteractionSurface, Surface

log = logging.getLogger(__name__)

LiveReplies = Callable[[Surface, str, Shown], LiveReply]


@dataclass(frozen=True, slots=True)
class UnderWay:
    """An answer that waits or grows: what shows it, who asked where, and the request."""

    reply: LiveReply
    origin: Origin
    generation: Generation


class Answers:
    """Gives answers, and knows those that are under way.

    Args:
        inference: where requests go.
        live_reply: makes the growing reply for a surface, an id and what is seen at first.
        archive: where they are kept.
        gate: whom it lets in; there is no other way to the queue.
        max_new_tokens: the operator's limit on an answer's length; an attribute too, which a reload replaces.
    """

    def __init__(
        self,
        inference: InferenceQueue,
        live_reply: LiveReplies,
        archive: Archive,
        gate: Gate,
        *,
        max_new_tokens: int,
    ) -> None:
        self._inference = inference
        self._live_reply = live_reply
        self._archive = archive
        self._gate = gate
        self.max_new_tokens = max_new_tokens
        self._live: dict[str, UnderWay] = {}

    async def give(
        self, interaction: discord.Interaction[Any], spec: ModelSpec, messages: Sequence[ChatMessage]
    ) -> Finished:
        """Answer a command or a press; see `give_on`."""
        asker, origin = Asker.of(interaction), Origin.of(interaction)
        return await self.give_on(InteractionSurface(interaction), asker, origin, spec, messages)

    async def give_on(
        self,
        surface: Surface,
        asker: Asker,
        origin: Origin,
        spec: ModelSpec,
        messages: Sequence[ChatMessage],
        meanwhile: AbstractAsyncContextManager[None] | None = None,
        *,
        unread: tuple[str, ...] = (),
    ) -> Finished:
        """Answer on a surface. Messages that end with the assistant's are gone on with from where that one stops.

        Args:
            surface: where.
            asker: who asks, for the gate.
            origin: the same, for the archive.
            spec: the model.
            messages: what it reads; of a long conversation, its newest part (`within_history`).
            meanwhile: entered while an answer is on its way, and not for somebody who is refused.
            unread: what came with the question and cannot be read; the end of the reply says so.

        Raises:
            AccessRefused: the person may not ask that, or not now.
            StorageError: the database does not say who may.
            QueueFull: nobody else may wait.
            ShuttingDown: the bot is about to restart.
            discord.HTTPException: a command could not be acknowledged.
        """
        params = spec.sampling.capped(self.max_new_tokens).seeded()
        messages = within_history(messages, spec.context_tokens)
        request = GenerationRequest(spec, messages, params, person=origin.asker_id)
        said = said_before(messages)
        with await self._gate.admit(asker, spec.alias, messages) as admission:
            async with self._inference.submit(request) as generation:
                admission.generation = generation
                async with meanwhile or nullcontext():
                    return await self._follow(generation, admission, surface, origin, said, unread)

    async def _follow(
        self,
        generation: Generation,
        admission: Admission,
        surface: Surface,
        origin: Origin,
        said: str,
        unread: tuple[str, ...],
    ) -> Finished:
        """Show a generation, and keep how it ended. Inside of its block: whoever stops the bot waits for those who have
        not left it."""
        shown = await read_apart(Shown.going_on, said)
        shown.unread = unread
        reply = self._live_reply(surface, generation.id, shown)
        keeping = self._archive.keeping(generation, origin)
        self._live[generation.id] = UnderWay(reply, origin, generation)
        try:
            finished = await reply.follow(generation, keeping)
        finally:
            del self._live[generation.id]
            generation.cancel()  # whatever went wrong, it is over and has its numbers
            await self._gate.record(admission)
        _log_end(generation, finished)
        await keeping.over(finished, reply.shown.text, end_shown=reply.end_shown)
        return finished

    def live(self, reply_id: str) -> UnderWay | None:
        """A reply that is under way."""
        return self._live.get(reply_id)

    @property
    def under_way(self) -> tuple[UnderWay, ...]:
        """All that are, in the order in which they were asked for."""
        return tuple(self._live.values())


def _log_end(generation: Generation, finished: Finished) -> None:
    why = finished.reason.value if finished.error is None else type(finished.error).__name__
    usage = finished.usage
    alias = generation.request.model.alias
    tokens = f"{usage.completion_tokens} tokens in {usage.generation_s:.1f} s"
    log.info("reply %s by %s ended: %s, %s", generation.id, alias, why, tokens)
    if finished.error is not None and finished.error.is_more_for_operators:
        log.warning("reply %s: %s", generation.id, finished.error)
