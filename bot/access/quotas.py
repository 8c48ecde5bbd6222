"""How much somebody may have, and when there is more. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from bot.access.asker import Asker
from bot.access.rules import OperatorAccess
from bot.storage.access import Quota, ServerAccess, Subject, SubjectKind
from bot.storage.usage import Scope, ScopeKind

MINUTE_S = 60.0
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Limit:
    """A quota that holds for somebody who asks: for what is added up in `scope`."""

    scope: Scope
    quota: Quota


def opens_at_s(
    spent: Iterable[tuple[float, float]], limit: float, now_s: float, window_s: float
) -> float | None:
    """When less than `limit` will have been spent within the last `window_s`, if nothing more is; None if that is now.

    Args:
        spent: times and amounts. What is not within the window does not count, nor what a clock that was set back
            has left in the future.
        limit: above 0.
        now_s: the time.
        window_s: how long something counts, from its own time on.
    """
    counting = sorted((at_s, amount) for at_s, amount in spent if at_s <= now_s < at_s + window_s)
    newest = list(accumulate((amount for _, amount in reversed(counting)), initial=0.0))
    if newest[-1] < limit:
        return None
    within = next(count for count, total in enumerate(newest[1:]) if total >= limit)  # the newest that fit in
    return counting[len(counting) - within - 1][0] + window_s


def most_generous(quotas: Iterable[Quota]) -> Quota:
    """The most that one of them gives, amount by amount; None where none says anything."""
    found = list(quotas)
    return Quota(
        _most(quota.requests_per_minute for quota in found),
        _most(quota.tokens_per_day for quota in found),
        _most(quota.gpu_s_per_day for quota in found),
    )


def limits_for(
    asker: Asker, operator: OperatorAccess, server: ServerAccess, *, person: Quota, whole_server: Quota
) -> list[Limit]:
    """All that holds for somebody: what the operator gives them everywhere, what moderators give them here, and what
    either gives the server. Each of them holds, so moderators give nobody more than the operator does.

    A guest has no share in the server's, and brings no roles.

    Args:
        asker: who asks.
        operator: what the operator's file says.
        server: what the moderators decided.
        person: what the operator gives everybody whom the file says nothing of.
        whole_server: the same for servers.
    """
    role_ids = frozenset[int]() if asker.is_guest else asker.role_ids
    person_scope, *of_server = scopes_of(asker)
    limits = [Limit(person_scope, _own(operator.quotas, asker, role_ids).over(person))]
    if of_server and asker.server_id is not None:
        member_scope, server_scope = of_server
        everyone = server.quotas.get(Subject(SubjectKind.ROLE, asker.server_id), Quota())
        limits.append(Limit(member_scope, _own(server.quotas, asker, role_ids).over(everyone)))
        here = Subject(SubjectKind.PLACE, asker.server_id)
        limits.append(Limit(server_scope, operator.quotas.get(here, Quota()).over(whole_server)))
        limits.append(Limit(server_scope, server.quotas.get(here, Quota())))
    return limits


def scopes_of(asker: Asker) -> list[Scope]:
    """Where what somebody uses is added up: for the person, and in a server for them there and for the server."""
    scopes = [Scope(ScopeKind.PERSON, asker.person_id)]
    if asker.server_id is not None and not asker.is_guest:
        scopes.append(Scope(ScopeKind.MEMBER, asker.person_id, asker.server_id))
        scopes.append(Scope(ScopeKind.SERVER, asker.server_id))
    return scopes


def _own(quotas: Mapping[Subject, Quota], asker: Asker, role_ids: frozenset[int]) -> Quota:
    """What is said of the person, else of the most generous of their roles."""
    person = quotas.get(Subject(SubjectKind.PERSON, asker.person_id), Quota())
    roles = (quotas.get(Subject(SubjectKind.ROLE, role_id), Quota()) for role_id in role_ids)
    return person.over(most_generous(roles))


def _most(amounts: Iterable[int | None]) -> int | None:
    said = [amount for amount in amounts if amount is not None]
    return 0 if 0 in said else max(said, default=None)
