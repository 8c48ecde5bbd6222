"""The gate in front of the queue: who may ask is let in and counted; anybody else hears why not, and until when."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from bot.access.asker import Asker
from bot.access.quotas import DAY_S, MINUTE_S, Limit, limits_for, opens_at_s, scopes_of
from bot.access.recent import Admission, Recent
from bot.access.rules import OperatorAccess, require_access, require_on
from bot.access.sentences import asked_often, gpu_used, holds_many, prompt_long, tokens_used
from bot.chat.messages import ChatMessage, Role
from bot.deadline import before_answer
from bot.errors import Drained, LimitReached, StorageError
from bot.storage.access import EVERY_MODEL, AccessRules, Quota, ServerAccess
from bot.storage.database import in_time
from bot.storage.usage import Scope, ScopeKind, Spent, UsageSpans

log = logging.getLogger(__name__)

PATIENCE_S = 2.0  # Discord wants to hear of a command within 3 s, and this comes before
_UNLIMITED = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator gives everybody. 0 is no limit.

    Attributes:
        person: how much a person has, wherever they ask.
        server: how much a server has.
        person_requests: how many requests of a person may wait or run at a time.
        server_requests: the same for a server.
        prompt_characters: how long a question may be.
    """

    person: Quota = field(default_factory=Quota)
    server: Quota = field(default_factory=Quota)
    person_requests: int = _UNLIMITED
    server_requests: int = _UNLIMITED
    prompt_characters: int = _UNLIMITED


class Gate:
    """Lets people in.

    Args:
        operator: what the operator's file says.
        limits: what the operator gives everybody.
        rules: what moderators decided.
        usage: what was used.
        clock: the time, with its zone.
        patience_s: how long the database may take; Discord does not wait.

    Attributes:
        operator, limits: the same, which a reload replaces.
        drained: whether nobody new is let in; who was before is served.
    """

    def __init__(
        self,
        operator: OperatorAccess,
        limits: Limits,
        rules: AccessRules,
        usage: UsageSpans,
        *,
        clock: Callable[[], datetime],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.operator = operator
        self.limits = limits
        self._rules = rules
        self._usage = usage
        self._clock = clock
        self._patience_s = patience_s
        self._recent = Recent()
        self.drained = False
        self._reason = ""

    def drain(self, reason: str = "") -> None:
        """Let nobody in any more. The reason is what they read."""
        self.drained, self._reason = True, reason

    def resume(self) -> None:
        """Let people in again."""
        self.drained = False

    async def require_on(self, server_id: int | None) -> None:
        """Let pass where the bot has not been switched off.

        Raises:
            PlaceClosed: it has been, in this server.
            StorageError: the database does not answer.
        """
        require_on(await self._decided(server_id))

    async def welcome(self, asker: Asker) -> None:
        """Let pass who may ask some model here, without anything being asked yet.

        Raises:
            AccessRefused: they may not.
            StorageError: the database does not answer.
        """
        self._check_open()
        require_access(self.operator, await self._decided(asker.server_id), asker, EVERY_MODEL)

    async def admit(self, asker: Asker, alias: str, messages: Sequence[ChatMessage]) -> Admission:
        """Let somebody ask a model, and count the request from now on.

        The request counts toward the per-minute limit even if it fails later, because the question is too long or the
        queue is full. A request that a rule or the limit itself refuses does not count.

        Raises:
            AccessRefused: they may not, or have had what is theirs for now.
            StorageError: the database does not answer.
        """
        self._check_open()
        decided = await self._decided(asker.server_id)
        require_access(self.operator, decided, asker, alias)
        person, server = self.limits.person, self.limits.server
        limits = limits_for(asker, self.operator, decided, person=person, whole_server=server)
        await self._check_day(limits)
        # Nothing is awaited from here on: whoever is let in is counted before anybody else is looked at.
        self._check_open()
        now_s = self._now_s()
        scopes = tuple(scopes_of(asker))
        for limit in limits:
            self._check_minute(limit, now_s)
        self._recent.count(scopes, now_s)
        self._check_prompt(messages)
        for scope in scopes:
            self._check_under_way(scope)
        return self._recent.enter(scopes)

    async def record(self, admission: Admission) -> None:
        """Add up what a request that has ended has used, however it ended. Never raises for the database's sake."""
        generation = admission.generation
        if generation is None:
            return
        usage = generation.usage if generation.finished is None else generation.finished.usage
        tokens, now_s = usage.prompt_tokens + usage.completion_tokens, self._now_s()
        try:
            if tokens or usage.generation_s:
                adding = self._usage.add(admission.scopes, now_s, tokens, usage.generation_s)
                await in_time(adding, self._patience_s)
        except StorageError as error:
            log.warning("what reply %s used could not be kept: %s", generation.id, error)

    async def forget_old(self) -> None:
        """Forget use that counts no more.

        Raises:
            StorageError: it is not forgotten.
        """
        await self._usage.forget(self._now_s() - DAY_S)

    async def used_by_server(self, server_id: int) -> tuple[int, float]:
        """The tokens and seconds of generation that a server has used within a day.

        Raises:
            StorageError: the database does not answer.
        """
        scope = Scope(ScopeKind.SERVER, server_id)
        spent = (await self._spent([scope]))[scope]
        return sum(one.tokens for one in spent), sum(one.gpu_s for one in spent)

    def _check_open(self) -> None:
        if self.drained:
            why = f" ({self._reason})" if self._reason else ""
            said = f"The bot takes no new questions for now{why}. Please ask again later."
            raise Drained(said, for_people=said)  # the reason was written for people

    async def _decided(self, server_id: int | None) -> ServerAccess:
        if server_id is None:
            return ServerAccess()
        return await before_answer(self._rules.of(server_id), self._patience_s)

    async def _spent(self, scopes: Sequence[Scope]) -> dict[Scope, list[Spent]]:
        return await before_answer(self._usage.since(scopes, self._now_s() - DAY_S), self._patience_s)

    async def _check_day(self, limits: Sequence[Limit]) -> None:
        by_day = [one for one in limits if one.quota.tokens_per_day or one.quota.gpu_s_per_day]
        if not by_day:
            return
        spent = await self._spent(list(dict.fromkeys(one.scope for one in by_day)))
        now_s = self._now_s()
        for limit in by_day:
            spans = spent[limit.scope]
            if tokens := limit.quota.tokens_per_day:
                opens_s = opens_at_s([(one.at_s, one.tokens) for one in spans], tokens, now_s, DAY_S)
                if opens_s is not None:
                    raise LimitReached(tokens_used(limit.scope.kind, tokens, opens_s))
            if gpu_s := limit.quota.gpu_s_per_day:
                opens_s = opens_at_s([(one.at_s, one.gpu_s) for one in spans], gpu_s, now_s, DAY_S)
                if opens_s is not None:
                    raise LimitReached(gpu_used(limit.scope.kind, gpu_s, opens_s))

    def _check_minute(self, limit: Limit, now_s: float) -> None:
        if requests := limit.quota.requests_per_minute:
            asked = [(at_s, 1.0) for at_s in self._recent.asked_s(limit.scope)]
            if (opens_s := opens_at_s(asked, requests, now_s, MINUTE_S)) is not None:
                raise LimitReached(asked_often(limit.scope.kind, requests, opens_s))

    def _check_under_way(self, scope: Scope) -> None:
        counted = {
            ScopeKind.PERSON: self.limits.person_requests,
            ScopeKind.SERVER: self.limits.server_requests,
        }
        most = counted.get(scope.kind, _UNLIMITED)
        if most and self._recent.under_way(scope) >= most:
            raise LimitReached(holds_many(scope.kind, most))

    def _check_prompt(self, messages: Sequence[ChatMessage]) -> None:
        """The question is what the person said last; what was said before it, they were let ask then."""
        question = next((one.content for one in reversed(messages) if one.role is Role.USER), "")
        most = self.limits.prompt_characters
        if most and len(question) > most:
            raise LimitReached(prompt_long(len(question), most))

    def _now_s(self) -> float:
        return self._clock().timestamp()
