"""What moderators decide for their server, and what they read about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import astuple

from bot.access.gate import Gate
from bot.access.sentences import spoken_time
from bot.deadline import before_answer
from bot.errors import UnknownModel, UsageError
from bot.inference.catalog import ModelCatalog
from bot.storage.access import EVERY_MODEL, AccessRules, Quota, Rule, ServerAccess, Subject, SubjectKind

SUBJECTS_LIMIT = 100  # of rules, and of quotas, that one server can have
TEXT_LIMIT = 4_096  # characters of an embed's description, Discord API v10
_MARKS = {SubjectKind.PERSON: "<@{}>", SubjectKind.ROLE: "<@&{}>", SubjectKind.PLACE: "<#{}>"}
_OFF = "I am **switched off** here: nobody is answered. `/access on` switches me on."
_MORE = "… and more"


class Moderation:
    """Takes decisions. What its methods return is a sentence for the moderator.

    Args:
        rules: where decisions are kept.
        gate: what holds people to them.
        catalog: the models that rules can be for.
    """

    def __init__(self, rules: AccessRules, gate: Gate, catalog: ModelCatalog) -> None:
        self._rules = rules
        self._gate = gate
        self._catalog = catalog

    async def decide(
        self, server_id: int, subject: Subject, model: str | None, *, allowed: bool, by: int
    ) -> str:
        """Allow somebody, or everybody at a place, to ask; or deny it.

        Raises:
            UnknownModel: there is no such model.
            UsageError: the server has too many rules.
            StorageError: the database does not take it.
        """
        rule = Rule(subject, allowed, self._alias(model))
        known = (await before_answer(self._rules.of(server_id))).rules
        _room(sum((one.subject, one.alias) != (subject, rule.alias) for one in known))
        await before_answer(self._rules.put_rule(server_id, rule, set_by=by))
        return f"From now on: {_rule_text(rule, server_id)}.{self._overruled(rule)}"

    async def clear(self, server_id: int, subject: Subject, model: str | None) -> str:
        """Forget a rule.

        Raises:
            UnknownModel: there is no such model.
            StorageError: the database does not take it.
        """
        alias = await self._alias_in_rules(server_id, model)
        was_set = await before_answer(self._rules.clear_rule(server_id, subject, alias))
        about = f"{_name(subject, server_id)}{f' and {alias}' if alias else ''}"
        return f"The rule about {about} is gone." if was_set else f"There was no rule about {about}."

    async def clear_all(self, server_id: int) -> str:
        """Forget all rules and quotas; the switch stays as it is.

        Raises:
            StorageError: the database does not take it.
        """
        count = await before_answer(self._rules.clear_all(server_id))
        return f"{count} rules and quotas are gone. What the bot's operator decided still holds."

    async def allot(self, server_id: int, subject: Subject, quota: Quota, *, by: int) -> str:
        """Say how much somebody, or the server, may have; amounts that are not named stay. None named: forget it.

        Raises:
            UsageError: the server has too many quotas.
            StorageError: the database does not take it.
        """
        name = _name(subject, server_id, of_quota=True)
        if quota == Quota():
            was_set = await before_answer(self._rules.clear_quota(server_id, subject))
            return f"The quota of {name} is gone." if was_set else f"There was no quota of {name}."
        known = (await before_answer(self._rules.of(server_id))).quotas
        _room(sum(one != subject for one in known))
        whole = quota.over(known.get(subject, Quota()))
        await before_answer(self._rules.put_quota(server_id, subject, whole, set_by=by))
        return (
            f"From now on: {name} may have {_amounts(whole)}. What the bot's operator allows holds as well."
        )

    async def switch(self, server_id: int, *, on: bool, by: int) -> str:
        """Switch the bot off for the whole server, or on again.

        Raises:
            StorageError: the database does not take it.
        """
        if on:
            was_off = await before_answer(self._rules.switch_on(server_id))
            return "I am on again." if was_off else "I am on already."
        await before_answer(self._rules.switch_off(server_id, set_by=by))
        return f"{_OFF} Answers that are on their way go on; stop them with their button."

    async def text(self, server_id: int) -> str:
        """All that holds for a server, as far as a message has room for it.

        Raises:
            StorageError: the database does not answer.
        """
        decided = await before_answer(self._rules.of(server_id))
        tokens, gpu_s = await self._gate.used_by_server(server_id)
        used = f"Used within a day: {tokens:,} tokens, {spoken_time(gpu_s)} of GPU time."
        return _fitting([*_lines(decided, server_id), "", used, *self._operators_lines(server_id)])

    def _alias(self, model: str | None) -> str:
        return self._catalog.resolve(model).alias if model else EVERY_MODEL

    async def _alias_in_rules(self, server_id: int, model: str | None) -> str:
        """The same, also for a model that has left the catalogue and that rules are about still."""
        try:
            return self._alias(model)
        except UnknownModel:
            typed = str(model).strip().lower()
            if typed not in {rule.alias for rule in (await before_answer(self._rules.of(server_id))).rules}:
                raise
            return typed

    def _overruled(self, rule: Rule) -> str:
        """A warning that the operator's file says the contrary."""
        others = (
            one for one in self._gate.operator.rules if (one.subject, one.alias) == (rule.subject, rule.alias)
        )
        if any(one.allowed != rule.allowed for one in others):
            return " But the bot's operator decided otherwise, and that wins."
        return ""

    def _operators_lines(self, server_id: int) -> Iterator[str]:
        """What the operator gives a person and this server."""
        own = self._gate.operator.quotas.get(Subject(SubjectKind.PLACE, server_id), Quota())
        yield f"The operator gives the server {_amounts(own.over(self._gate.limits.server))},"
        yield f"and a person {_amounts(self._gate.limits.person)}."


def _room(others: int) -> None:
    if others >= SUBJECTS_LIMIT:
        raise UsageError(
            f"This server has {SUBJECTS_LIMIT} of them, and no more is possible. Clear some with `/access clear`; "
            "roles need fewer than people."
        )


def _lines(decided: ServerAccess, server_id: int) -> Iterator[str]:
    yield _OFF if decided.is_off else "I am on here."
    for rule in decided.rules:
        yield f"• {_rule_text(rule, server_id)}"
    if not decided.rules:
        yield "Everybody may ask everywhere: there are no rules."
    for subject, quota in decided.quotas.items():
        yield f"• {_name(subject, server_id, of_quota=True)}: {_amounts(quota)}"


def _rule_text(rule: Rule, server_id: int) -> str:
    verb = "may" if rule.allowed else "may **not**"
    model = f" **{rule.alias}**" if rule.alias else " me"
    if rule.subject.kind is SubjectKind.PLACE:
        return f"people {verb} ask{model} in {_name(rule.subject, server_id)}"
    return f"{_name(rule.subject, server_id)} {verb} ask{model}"


def _name(subject: Subject, server_id: int, *, of_quota: bool = False) -> str:
    if subject.id == server_id:
        if subject.kind is SubjectKind.ROLE:
            return "each person" if of_quota else "@everyone"
        return "the whole server" if of_quota else "channels without a rule of their own"
    return _MARKS[subject.kind].format(subject.id)


def _amounts(quota: Quota) -> str:
    words = (("request", "a minute"), ("token", "a day"), ("GPU second", "a day"))
    said = [
        f"{amount:,} {word}{'s' * (amount != 1)} {span}" if amount else f"any number of {word}s {span}"
        for amount, (word, span) in zip(astuple(quota), words, strict=True)
        if amount is not None
    ]
    return ", ".join(said)


def _fitting(lines: Iterable[str]) -> str:
    """As many lines as there is room for, the last ones in any case."""
    every = list(lines)
    ending = every[-4:]
    room = TEXT_LIMIT - sum(len(line) + 1 for line in ending) - len(_MORE) - 1
    shown: list[str] = []
    for line in every[:-4]:
        if (room := room - len(line) - 1) < 0:
            shown.append(_MORE)
            break
        shown.append(line)
    return "\n".join([*shown, *ending])
