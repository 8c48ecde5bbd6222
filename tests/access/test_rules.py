"""Who may ask which model, where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.access.asker import Asker
from bot.access.rules import OperatorAccess, require_access
from bot.errors import AccessRefused, PlaceClosed
from bot.storage.access import Rule, ServerAccess, Subject, SubjectKind

ALICE, BOB = 1, 2
SERVER, CATEGORY, CHANNEL, THREAD = 100, 101, 102, 103
MEMBERS, MUTED = 201, 202

PLACES = (THREAD, CHANNEL, CATEGORY, SERVER)


def person(person_id: int) -> Subject:
    return Subject(SubjectKind.PERSON, person_id)


def role(role_id: int) -> Subject:
    return Subject(SubjectKind.ROLE, role_id)


def place(place_id: int) -> Subject:
    return Subject(SubjectKind.PLACE, place_id)


def allow(subject: Subject, alias: str = "") -> Rule:
    return Rule(subject, True, alias)


def deny(subject: Subject, alias: str = "") -> Rule:
    return Rule(subject, False, alias)


def asker(*roles: int, places: tuple[int, ...] = PLACES) -> Asker:
    return Asker(ALICE, places, frozenset(roles), SERVER)


def why_not(
    *moderators: Rule,
    who: Asker | None = None,
    operator: OperatorAccess | None = None,
    alias: str = "smol",
    is_off: bool = False,
) -> str:
    """What somebody is told, empty if they may ask."""
    try:
        require_access(
            operator or OperatorAccess(), ServerAccess(is_off, moderators), who or asker(MEMBERS), alias
        )
    except AccessRefused as refusal:
        return str(refusal)
    return ""


def test_without_rules_everybody_may_ask_everywhere() -> None:
    assert why_not() == ""
    assert why_not(who=Asker(BOB, (300,))) == ""


def test_a_rule_for_a_person_wins_over_those_for_their_roles() -> None:
    assert "moderators do not let you ask me" in why_not(deny(person(ALICE)), allow(role(MEMBERS)))
    assert why_not(allow(person(ALICE)), deny(role(MEMBERS))) == ""
    assert why_not(deny(person(BOB))) == ""


def test_of_several_roles_one_that_is_allowed_is_enough_and_everyone_comes_last() -> None:
    rules = (deny(role(SERVER)), allow(role(MEMBERS)), deny(role(MUTED)))
    assert why_not(*rules, who=asker(MEMBERS, MUTED)) == ""
    assert why_not(*rules, who=asker(MUTED)) != ""
    assert why_not(*rules, who=asker()) != ""
    assert why_not(allow(role(SERVER)), deny(role(MUTED)), who=asker(MUTED)) != ""


def test_the_nearest_place_decides() -> None:
    assert "here" in why_not(deny(place(CHANNEL)))
    assert why_not(deny(place(CHANNEL)), allow(place(THREAD))) == ""
    assert why_not(deny(place(SERVER)), allow(place(CHANNEL))) == ""
    assert why_not(deny(place(SERVER)), allow(place(CATEGORY))) == ""
    assert why_not(deny(place(SERVER)), allow(place(CATEGORY)), who=asker(places=(104, SERVER))) != ""


def test_somebody_who_is_allowed_is_not_allowed_everywhere() -> None:
    assert "anybody" in why_not(deny(place(CHANNEL)), allow(person(ALICE)))


def test_a_model_can_be_for_some_only() -> None:
    rules = (deny(role(SERVER), "mixtral"), allow(role(MEMBERS), "mixtral"))
    assert why_not(*rules, alias="mixtral", who=asker(MEMBERS)) == ""
    said = why_not(*rules, alias="mixtral", who=asker())
    assert "do not let you ask mixtral here" in said
    assert "`/model list`" in said
    assert why_not(*rules, alias="smol", who=asker()) == ""


def test_who_may_not_ask_at_all_may_not_ask_a_model_that_is_allowed_to_them() -> None:
    assert "ask me" in why_not(deny(person(ALICE)), allow(person(ALICE), "mixtral"), alias="mixtral")


def test_off_is_off_for_everybody() -> None:
    for operator in (OperatorAccess(), OperatorAccess(rules=(allow(person(ALICE)), allow(place(SERVER))))):
        assert "switched off" in why_not(allow(person(ALICE)), is_off=True, operator=operator)


def test_what_the_operator_denies_no_moderator_allows() -> None:
    for subject in (person(ALICE), role(MEMBERS), place(CHANNEL), place(SERVER)):
        operator = OperatorAccess(rules=(deny(subject),))
        rules = [allow(one) for one in (person(ALICE), role(MEMBERS), place(CHANNEL), place(SERVER))]
        assert "operator" in why_not(*rules, operator=operator)


def test_what_the_operator_allows_no_moderator_denies() -> None:
    operator = OperatorAccess(rules=(allow(person(ALICE)),))
    assert why_not(deny(person(ALICE)), deny(role(SERVER)), operator=operator) == ""
    operator = OperatorAccess(rules=(allow(place(CHANNEL)),))
    assert why_not(deny(place(CHANNEL)), operator=operator) == ""
    assert why_not(deny(place(CHANNEL)), deny(person(ALICE)), operator=operator) != ""


def test_a_bot_for_some_servers_only_answers_nobody_else_and_their_moderators_still_decide() -> None:
    operator = OperatorAccess(only={"": {place(SERVER), person(BOB)}})
    assert why_not(operator=operator) == ""
    assert "moderators" in why_not(deny(place(CHANNEL)), operator=operator)
    assert "only some people and servers" in why_not(operator=operator, who=Asker(ALICE, (300,)))
    assert why_not(operator=operator, who=Asker(BOB, (300,))) == ""
    elsewhere = Asker(ALICE, (301, 300), frozenset(), 300)
    assert "only some people and servers" in why_not(allow(person(ALICE)), operator=operator, who=elsewhere)


def test_a_model_for_some_roles_only_is_for_nobody_else() -> None:
    operator = OperatorAccess(only={"mixtral": {role(MEMBERS)}})
    assert why_not(operator=operator, alias="mixtral", who=asker(MEMBERS)) == ""
    assert "ask mixtral" in why_not(operator=operator, alias="mixtral", who=asker())
    assert why_not(operator=operator, alias="smol", who=asker()) == ""


def test_only_a_place_where_nobody_is_answered_by_any_model_is_closed() -> None:
    for rules, alias, closed in (
        ((deny(place(CHANNEL)),), "smol", True),
        ((deny(place(CHANNEL), "smol"),), "smol", False),
        ((deny(person(ALICE)),), "smol", False),
    ):
        with pytest.raises(AccessRefused) as caught:
            require_access(OperatorAccess(), ServerAccess(False, rules), asker(), alias)
        assert isinstance(caught.value, PlaceClosed) == closed


subjects = st.sampled_from(
    [*map(person, (ALICE, BOB)), *map(role, (SERVER, MEMBERS, MUTED)), *map(place, PLACES)]
)
rules_of_some = st.dictionaries(subjects, st.booleans(), max_size=6).map(
    lambda found: tuple(Rule(subject, allowed) for subject, allowed in found.items())
)
askers = st.builds(
    lambda roles, depth: asker(*roles, places=PLACES[depth:]),
    st.sets(st.sampled_from([MEMBERS, MUTED])),
    st.integers(0, 3),
)


@given(file=rules_of_some, moderators=rules_of_some, who=askers)
def test_moderators_open_nothing_that_the_file_has_shut(
    file: tuple[Rule, ...], moderators: tuple[Rule, ...], who: Asker
) -> None:
    operator = OperatorAccess(rules=file)
    if why_not(who=who, operator=operator):
        assert why_not(*moderators, who=who, operator=operator)


@given(moderators=rules_of_some, who=askers)
def test_a_rule_about_somebody_else_or_somewhere_else_changes_nothing(
    moderators: tuple[Rule, ...], who: Asker
) -> None:
    others = (deny(person(77)), deny(role(277)), deny(place(177)), deny(person(ALICE), "phi"))
    assert why_not(*moderators, who=who) == why_not(*moderators, *others, who=who)
