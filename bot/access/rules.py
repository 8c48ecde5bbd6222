"""Who may ask which model, where. Pure.

The rules about people and those about places are looked at apart, and both must let somebody pass. Among the former a
rule for the person wins, then those for their roles, of which one that allows is enough, then that for @everyone: the
order of Discord's own permissions. Among the latter the nearest wins: thread, channel, category, server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from bot.access.asker import Asker
from bot.errors import AccessRefused, PlaceClosed
from bot.storage.access import EVERY_MODEL, Quota, Rule, ServerAccess, Subject, SubjectKind


@dataclass(frozen=True, slots=True)
class OperatorAccess:
    """What the operator's file says. What it allows or denies, no moderator changes.

    Attributes:
        rules: who is allowed and denied.
        only: by model (`EVERY_MODEL` for all), the only ones that may ask; a model that is not there is for everybody.
            To be among them is no more than that: moderators may still say no.
        quotas: how much people, roles and servers have.
    """

    rules: tuple[Rule, ...] = ()
    only: Mapping[str, Collection[Subject]] = field(default_factory=dict)
    quotas: Mapping[Subject, Quota] = field(default_factory=dict)


def person_allowed(rules: Iterable[Rule], asker: Asker, alias: str) -> bool | None:
    """What the rules for a model say about a person; None if nothing."""
    found = {rule.subject: rule.allowed for rule in rules if rule.alias == alias}
    if (own := found.get(Subject(SubjectKind.PERSON, asker.person_id))) is not None:
        return own
    said = [found.get(Subject(SubjectKind.ROLE, role_id)) for role_id in asker.role_ids]
    if True in said or False in said:
        return True in said
    return found.get(Subject(SubjectKind.ROLE, asker.server_id)) if asker.server_id is not None else None


def place_allowed(rules: Iterable[Rule], asker: Asker, alias: str) -> bool | None:
    """What the rules for a model say about a place; None if nothing."""
    found = {rule.subject: rule.allowed for rule in rules if rule.alias == alias}
    said = (found.get(Subject(SubjectKind.PLACE, place_id)) for place_id in asker.place_ids)
    return next((one for one in said if one is not None), None)


def require_on(server: ServerAccess) -> None:
    """Let pass where moderators have not switched the bot off.

    Raises:
        PlaceClosed: they have.
    """
    if server.is_off:
        raise PlaceClosed("I am switched off in this server. Its moderators can switch me on: `/access on`.")


def require_access(operator: OperatorAccess, server: ServerAccess, asker: Asker, alias: str) -> None:
    """Let pass who may ask this model here.

    Raises:
        PlaceClosed: nobody is answered here.
        AccessRefused: this person is not, or not by this model.
    """
    require_on(server)
    _require(operator, server, asker, EVERY_MODEL)
    if alias != EVERY_MODEL:
        _require(operator, server, asker, alias)


def _require(operator: OperatorAccess, server: ServerAccess, asker: Asker, alias: str) -> None:
    what = alias or "me"
    other = " Name another model, or see `/model list`." if alias else ""
    by_place = place_allowed(operator.rules, asker, alias)
    by_person = person_allowed(operator.rules, asker, alias)
    if by_place is False:
        raise _closed(alias)(f"The bot's operator does not let anybody ask {what} here.{other}")
    if by_person is False:
        raise AccessRefused(f"The bot's operator does not let you ask {what}.{other}")
    if not (by_place or by_person or _is_among(operator.only.get(alias), asker)):
        raise AccessRefused(f"The bot's operator lets only some people and servers ask {what}.{other}")
    if by_place is None and place_allowed(server.rules, asker, alias) is False:
        elsewhere = other or " Try another channel."
        raise _closed(alias)(f"This server's moderators do not let anybody ask {what} here.{elsewhere}")
    if by_person is None and person_allowed(server.rules, asker, alias) is False:
        raise AccessRefused(f"This server's moderators do not let you ask {what} here.{other}")


def _closed(alias: str) -> type[AccessRefused]:
    """Where one model may not be asked, others may, and it is no secret."""
    return AccessRefused if alias else PlaceClosed


def _is_among(only: Collection[Subject] | None, asker: Asker) -> bool:
    if only is None:
        return True
    theirs = {Subject(SubjectKind.PERSON, asker.person_id)}
    theirs |= {Subject(SubjectKind.ROLE, role_id) for role_id in asker.role_ids}
    theirs |= {Subject(SubjectKind.PLACE, place_id) for place_id in asker.place_ids}
    return not theirs.isdisjoint(only)
