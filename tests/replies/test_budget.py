"""Discord's limits are kept by planning, and an end has room at any time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.replies.budget import Budget


def test_four_may_be_made_at_once_and_one_is_kept_for_the_end() -> None:
    budget = Budget()
    for _ in range(4):
        assert budget.wait_s(10.0) == 0.0
        budget.spend(10.0)
    assert budget.wait_s(10.0) == 5.0
    assert budget.wait_s(10.0, urgent=True) == 0.0
    budget.spend(10.0)
    assert budget.wait_s(11.0, urgent=True) == 4.0
    assert budget.wait_s(15.0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=80))
def test_never_more_than_five_in_any_five_seconds_and_nobody_waits_longer(
    steps: list[tuple[float, bool]],
) -> None:
    budget = Budget()
    now_s, made = 0.0, []
    for pause_s, urgent in steps:
        now_s += pause_s
        wait_s = budget.wait_s(now_s, urgent=urgent)
        assert 0.0 <= wait_s <= 5.0
        now_s += wait_s
        budget.spend(now_s)
        made.append(now_s)
    for at in made:
        assert sum(at - 5.0 + 1e-9 < other <= at for other in made) <= 5
