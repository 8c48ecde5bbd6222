"""How much somebody may have, and when there is more."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.access.asker import Asker
from bot.access.quotas import DAY_S, limits_for, most_generous, opens_at_s, scopes_of
from bot.access.rules import OperatorAccess
from bot.storage.access import Quota, ServerAccess, Subject, SubjectKind
from bot.storage.usage import Scope, ScopeKind

ALICE, SERVER, MEMBERS, PATRONS, NEWCOMERS = 1, 100, 201, 202, 203

times = st.integers(0, 3_000)
spendings = st.lists(st.tuples(times, st.integers(0, 9)), max_size=40)
amounts = st.none() | st.integers(0, 50)
quotas = st.builds(Quota, amounts, amounts, amounts)


def within(spent: list[tuple[int, int]], now_s: float, window_s: float) -> int:
    """What counts at a time, said as plainly as can be."""
    return sum(amount for at_s, amount in spent if at_s <= now_s and now_s - at_s < window_s)


@given(spent=spendings, limit=st.integers(1, 40), now_s=times, window_s=st.integers(1, 1_000))
def test_it_opens_at_the_first_moment_at_which_less_than_the_limit_counts(
    spent: list[tuple[int, int]], limit: int, now_s: int, window_s: int
) -> None:
    opens_s = opens_at_s(spent, limit, now_s, window_s)
    known = [(at_s, amount) for at_s, amount in spent if at_s <= now_s]  # the future is a clock's mistake
    if opens_s is None:
        assert within(spent, now_s, window_s) < limit
        return
    assert now_s < opens_s <= now_s + window_s
    assert within(known, opens_s, window_s) < limit
    assert all(within(known, moment, window_s) >= limit for moment in range(now_s, int(opens_s)))


@given(spent=spendings, limit=st.integers(1, 40), now_s=times)
def test_nobody_is_kept_out_by_what_they_did_before_the_window_or_by_the_order_of_the_rows(
    spent: list[tuple[int, int]], limit: int, now_s: int
) -> None:
    recent = [one for one in spent if now_s - one[0] < 100]
    assert opens_at_s(spent, limit, now_s, 100) == opens_at_s(recent[::-1], limit, now_s, 100)


def test_ten_requests_a_minute_open_again_a_minute_after_the_first_of_them() -> None:
    asked = [(float(second), 1.0) for second in range(10)]
    assert opens_at_s(asked[:9], 10, 9.5, 60) is None
    assert opens_at_s(asked, 10, 9.5, 60) == 60.0
    assert opens_at_s(asked, 10, 60.0, 60) is None


def test_an_answer_that_went_far_past_a_limit_keeps_it_shut_until_that_answer_is_a_day_old() -> None:
    assert opens_at_s([(0.0, 5), (600.0, 1_000_000)], 10, 700.0, DAY_S) == 600.0 + DAY_S


@given(st.lists(quotas, max_size=5))
def test_of_several_quotas_each_amount_is_the_most_and_no_limit_is_more_than_any(found: list[Quota]) -> None:
    most = most_generous(found)
    for name in ("requests_per_minute", "tokens_per_day", "gpu_s_per_day"):
        said = [value for quota in found if (value := getattr(quota, name)) is not None]
        expected = None if not said else 0 if 0 in said else max(said)
        assert getattr(most, name) == expected


def asker(*roles: int, is_guest: bool = False) -> Asker:
    return Asker(ALICE, (300, SERVER), frozenset(roles), SERVER, is_guest)


def tokens(amount: int) -> Quota:
    return Quota(tokens_per_day=amount)


def role(role_id: int) -> Subject:
    return Subject(SubjectKind.ROLE, role_id)


FILE = OperatorAccess(
    quotas={
        role(PATRONS): tokens(500),
        role(MEMBERS): tokens(300),
        role(NEWCOMERS): tokens(10),
        Subject(SubjectKind.PERSON, 7): Quota(0, 0, 0),
        Subject(SubjectKind.PLACE, SERVER): tokens(9_000),
    }
)
DEFAULT = Quota(5, 100, 60)


def tokens_by_scope(who: Asker, server: ServerAccess = ServerAccess()) -> list[tuple[ScopeKind, int | None]]:  # noqa: B008
    limits = limits_for(who, FILE, server, person=DEFAULT, whole_server=tokens(1_000))
    return [(limit.scope.kind, limit.quota.tokens_per_day) for limit in limits]


def test_the_most_generous_role_wins_over_what_everybody_has_and_a_stingy_one_does_too() -> None:
    assert tokens_by_scope(asker())[0] == (ScopeKind.PERSON, 100)
    assert tokens_by_scope(asker(MEMBERS, PATRONS, NEWCOMERS))[0] == (ScopeKind.PERSON, 500)
    assert tokens_by_scope(asker(NEWCOMERS))[0] == (ScopeKind.PERSON, 10)


def test_what_a_role_does_not_say_is_what_everybody_has() -> None:
    (everywhere, *_) = limits_for(asker(PATRONS), FILE, ServerAccess(), person=DEFAULT, whole_server=Quota())
    assert everywhere.quota == Quota(5, 500, 60)


def test_a_persons_own_quota_wins_over_their_roles() -> None:
    (everywhere, *_) = limits_for(
        Asker(7, (SERVER,), frozenset({NEWCOMERS}), SERVER), FILE, ServerAccess(), person=DEFAULT,
        whole_server=Quota(),
    )  # fmt: skip
    assert everywhere.quota == Quota(0, 0, 0)


def test_moderators_quotas_hold_in_their_server_beside_the_operators() -> None:
    server = ServerAccess(
        quotas={
            role(SERVER): tokens(50),
            role(PATRONS): tokens(90_000),
            Subject(SubjectKind.PLACE, SERVER): tokens(70),
        }
    )
    assert tokens_by_scope(asker(PATRONS), server) == [
        (ScopeKind.PERSON, 500),
        (ScopeKind.MEMBER, 90_000),
        (ScopeKind.SERVER, 9_000),
        (ScopeKind.SERVER, 70),
    ]
    assert tokens_by_scope(asker(), server)[1] == (ScopeKind.MEMBER, 50)


def test_a_guest_of_a_server_and_somebody_in_a_direct_message_have_only_their_own_limits() -> None:
    generous = ServerAccess(quotas={role(PATRONS): tokens(1)})
    assert tokens_by_scope(asker(PATRONS, is_guest=True), generous) == [(ScopeKind.PERSON, 100)]
    assert tokens_by_scope(Asker(ALICE, (300,)), generous) == [(ScopeKind.PERSON, 100)]
    assert scopes_of(asker(is_guest=True)) == [Scope(ScopeKind.PERSON, ALICE)]
