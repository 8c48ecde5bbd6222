"""Discord's limits are kept by planning, and an end has room at any time."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from bot.replies.budget import LATE_S, Budget


def test_four_may_be_made_at_once_and_one_is_kept_for_the_end() -> None:
    budget = Budget(reserve=1)
    for _ in range(4):
        assert budget.wait_s(10.0) == 0.0
        budget.spend(10.0)
    assert budget.wait_s(10.0) == 5.0
    assert budget.wait_s(10.0, urgent=True) == 0.0
    budget.spend(10.0)
    assert budget.wait_s(11.0, urgent=True) == 4.0
    assert budget.wait_s(15.0) == 0.0


def test_spread_out_requests_leave_a_place_soon_for_what_is_urgent() -> None:
    budget = Budget(spacing_s=1.0)
    for second in range(7):
        assert budget.wait_s(float(second)) == 0.0
        budget.spend(float(second))
    assert budget.wait_s(6.0) == 1.0
    assert budget.wait_s(6.0, urgent=True) == 1.0


def test_moments_of_lateness_do_not_add_up() -> None:
    budget = Budget(spacing_s=1.0)
    now_s = 100.0
    for _ in range(40):
        budget.spend(now_s)
        now_s += budget.wait_s(now_s) + 0.02
    assert now_s < 140.1


def test_who_has_others_ahead_waits_until_they_have_been() -> None:
    budget = Budget(requests=2, window_s=5.0)
    assert [budget.wait_s(0.0, ahead=others) for others in range(5)] == [0.0, 0.0, 5.0, 5.0, 10.0]


def test_a_bucket_that_nobody_used_for_its_window_is_idle() -> None:
    budget = Budget()
    assert budget.is_idle(0.0)
    budget.spend(1.0)
    assert not budget.is_idle(5.9)
    assert budget.is_idle(6.0)


@example([(0.0, False), (1.0625, False), *[(0.0, True)] * 5], 0, 1.0)
@given(
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=80),
    st.integers(0, 2),
    st.sampled_from([0.0, 1.0]),
)
def test_never_more_than_five_in_any_five_seconds_and_nobody_waits_longer(
    steps: list[tuple[float, bool]], reserve: int, spacing_s: float
) -> None:
    budget = Budget(reserve=reserve, spacing_s=spacing_s)
    now_s, made = 0.0, []
    for pause_s, urgent in steps:
        now_s += pause_s
        wait_s = budget.wait_s(now_s, urgent=urgent)
        assert 0.0 <= wait_s <= 5.0
        now_s += wait_s
        budget.spend(now_s)
        made.append(now_s)
    # Where requests keep a distance, a late one counts as made in time: the window may be shorter by that moment.
    window_s = 5.0 - (LATE_S if spacing_s else 0.0)
    for at in made:
        assert sum(at - window_s + 1e-9 < other <= at for other in made) <= 5
