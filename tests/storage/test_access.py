"""What moderators decided, and what was used, kept in the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from bot.storage.access import AccessRules, Quota, Rule, ServerAccess, Subject, SubjectKind
from bot.storage.database import Database, open_database
from bot.storage.usage import SPAN_S, Scope, ScopeKind, Spent, UsageSpans

ALICE, MEMBERS = Subject(SubjectKind.PERSON, 80351110224678912), Subject(SubjectKind.ROLE, 201)
CHANNEL = Subject(SubjectKind.PLACE, 102)
PERSON, OTHER = Scope(ScopeKind.PERSON, 1), Scope(ScopeKind.PERSON, 2)
MEMBER, SERVER = Scope(ScopeKind.MEMBER, 1, 100), Scope(ScopeKind.SERVER, 100)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Database]:
    async with open_database(folder / "punchline.sqlite3") as database:
        yield database


async def test_what_was_decided_for_a_server_is_there_after_a_restart_and_for_no_other_server(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as database:
        rules = AccessRules(database)
        await rules.put_rule(100, Rule(ALICE, False), set_by=7)
        await rules.put_rule(100, Rule(ALICE, True, "mixtral"), set_by=7)
        await rules.put_rule(100, Rule(CHANNEL, True), set_by=7)
        await rules.put_quota(100, MEMBERS, Quota(None, 500, 0), set_by=7)
        await rules.switch_off(100, set_by=7)
    async with opened(tmp_path) as database:
        rules = AccessRules(database)
        decided = await rules.of(100)
        assert decided.is_off
        assert set(decided.rules) == {
            Rule(ALICE, False),
            Rule(ALICE, True, "mixtral"),
            Rule(CHANNEL, True),
        }
        assert decided.quotas == {MEMBERS: Quota(None, 500, 0)}
        assert await rules.of(101) == ServerAccess()


async def test_a_later_decision_about_the_same_is_the_one_that_holds(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        rules = AccessRules(database)
        for allowed in (True, False):
            await rules.put_rule(100, Rule(ALICE, allowed), set_by=7)
        await rules.put_quota(100, ALICE, Quota(1, 2, 3), set_by=7)
        await rules.put_quota(100, ALICE, Quota(None, 5, None), set_by=7)
        decided = await rules.of(100)
        assert decided.rules == (Rule(ALICE, False),)
        assert decided.quotas == {ALICE: Quota(None, 5, None)}


async def test_clearing_says_whether_there_was_something_and_leaves_the_rest(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        rules = AccessRules(database)
        await rules.put_rule(100, Rule(ALICE, False, "phi"), set_by=7)
        await rules.put_rule(101, Rule(ALICE, False), set_by=7)
        await rules.put_quota(100, ALICE, Quota(1), set_by=7)
        await rules.switch_off(100, set_by=7)
        assert not await rules.clear_rule(100, ALICE)
        assert await rules.clear_rule(100, ALICE, "phi")
        assert await rules.clear_quota(100, ALICE)
        assert not await rules.clear_quota(100, ALICE)
        await rules.put_rule(100, Rule(ALICE, False), set_by=7)
        await rules.put_quota(100, ALICE, Quota(1), set_by=7)
        assert await rules.clear_all(100) == 2
        assert await rules.of(100) == ServerAccess(is_off=True)
        assert (await rules.of(101)).rules == (Rule(ALICE, False),)
        assert await rules.switch_on(100)
        assert not await rules.switch_on(100)


async def test_what_was_used_is_added_up_by_span_and_scope_and_nothing_is_lost_to_many_at_once(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as database:
        usage = UsageSpans(database)
        await asyncio.gather(*(usage.add([PERSON, MEMBER, SERVER], 30.5, 10, 0.5) for _ in range(20)))
        await usage.add([PERSON], SPAN_S + 1.0, 7, 0.25)
        await usage.add([OTHER, SERVER], 30.0, 1, 0.0)
    async with opened(tmp_path) as database:
        found = await UsageSpans(database).since([PERSON, MEMBER, SERVER, Scope(ScopeKind.SERVER, 9)], -1)
    assert found == {
        PERSON: [Spent(0, 200, 10.0), Spent(SPAN_S, 7, 0.25)],
        MEMBER: [Spent(0, 200, 10.0)],
        SERVER: [Spent(0, 201, 10.0)],
        Scope(ScopeKind.SERVER, 9): [],
    }


async def test_what_is_old_is_not_read_and_then_forgotten(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        usage = UsageSpans(database)
        for span in range(4):
            await usage.add([PERSON, SERVER], span * SPAN_S, 1, 1.0)
        assert [one.at_s for one in (await usage.since([PERSON], SPAN_S))[PERSON]] == [2 * SPAN_S, 3 * SPAN_S]
        assert await usage.forget(2 * SPAN_S) == 4
        assert len((await usage.since([PERSON], -1))[PERSON]) == 2


async def test_each_scope_is_looked_up_and_not_searched_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        plans: list[str] = []

        def explained(connection: Connection) -> None:
            rows = connection.exec_driver_sql(
                "EXPLAIN QUERY PLAN SELECT * FROM usage_spans WHERE (kind = 'person' AND subject_id = 1 AND "
                "server_id = 0 AND span_s > 5) OR (kind = 'server' AND subject_id = 2 AND server_id = 0 AND span_s > 5)"
            )
            plans.extend(row[3] for row in rows)

        await database.read(explained)
    searches = [plan for plan in plans if plan.startswith("SEARCH")]
    assert len(searches) == 2
    assert all("kind=? AND subject_id=? AND server_id=? AND span_s>?" in plan for plan in searches)


scopes = st.sampled_from([PERSON, OTHER, MEMBER, SERVER])
used = st.tuples(st.sets(scopes, min_size=1), st.integers(0, 3 * SPAN_S), st.integers(0, 1_000))


@settings(max_examples=25, deadline=None)
@given(uses=st.lists(used, max_size=12), since_s=st.integers(-1, 3 * SPAN_S))
def test_whatever_was_used_the_sums_are_those_of_the_parts(
    uses: list[tuple[set[Scope], int, int]], since_s: int
) -> None:
    import tempfile

    async def sums(folder: str) -> dict[Scope, int]:
        async with open_database(Path(folder) / "punchline.sqlite3") as database:
            usage = UsageSpans(database)
            for among, at_s, tokens in uses:
                await usage.add(among, at_s, tokens, 0.0)
            found = await usage.since([PERSON, OTHER, MEMBER, SERVER], since_s)
            return {scope: sum(one.tokens for one in spans) for scope, spans in found.items()}

    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(sums(folder))
    for scope in (PERSON, OTHER, MEMBER, SERVER):
        counting = (
            tokens for among, at_s, tokens in uses if scope in among and at_s // SPAN_S * SPAN_S > since_s
        )
        assert found[scope] == sum(counting)
