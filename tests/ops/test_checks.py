"""Checks run at once, each in its time, and one that goes wrong is a line like any other."""

from __future__ import annotations

import asyncio
import json

import pytest

from bot.errors import StorageError
from bot.ops.checks import Check, NotChecked, Once, run_checks
from bot.ops.findings import Finding, Verdict, document, worst


async def ran(*checks: Check, offline: bool = False) -> list[Finding]:
    return [finding async for finding in run_checks(checks, offline=offline)]


def raising(error: BaseException) -> Check:
    async def look() -> str:
        raise error

    return Check("one", "one", look)


@pytest.mark.parametrize(
    ("error", "verdict", "text"),
    [
        (StorageError("The disk is full."), Verdict.FAILED, "The disk is full."),
        (NotChecked("see token"), Verdict.WARNING, "not checked: see token"),
        (
            ImportError("libcudart.so.13: cannot open\nshared object"),
            Verdict.FAILED,
            "could not be checked (ImportError: libcudart.so.13: cannot open shared object)",
        ),
        (KeyError("what somebody wrote"), Verdict.FAILED, "could not be checked (KeyError)"),
    ],
)
async def test_whatever_goes_wrong_in_a_check_is_its_line(
    error: Exception, verdict: Verdict, text: str
) -> None:
    (finding,) = await ran(raising(error))
    assert (finding.verdict, finding.text) == (verdict, text)


async def test_a_check_that_hangs_ends_in_its_time_with_what_to_do() -> None:
    async def hang() -> str:
        await asyncio.Event().wait()
        return ""

    (finding,) = await ran(Check("one", "one", hang, patience_s=0.01, if_late="look at the cable"))
    assert (finding.verdict, finding.text) == (Verdict.FAILED, "no answer within 0 s: look at the cable")


async def test_checks_run_at_once_and_their_lines_keep_their_order() -> None:
    second_ran = asyncio.Event()

    async def first() -> str:
        await second_ran.wait()  # for ever, if they ran one after the other
        return "first"

    async def second() -> str:
        second_ran.set()
        return "second"

    findings = await asyncio.wait_for(ran(Check("a", "a", first), Check("b", "b", second)), 10)
    assert [finding.text for finding in findings] == ["first", "second"]


async def test_whoever_asks_the_network_is_left_out_offline_and_that_is_loud() -> None:
    asked = False

    async def ask() -> str:
        nonlocal asked
        asked = True
        return "answered"

    (left_out, kept) = await ran(Check("a", "a", ask, asks="Discord"), Check("b", "b", ask), offline=True)
    assert asked
    assert left_out.verdict is Verdict.WARNING
    assert left_out.text.startswith("NOT CHECKED, because of --offline")
    assert kept.text == "answered"


async def test_leaving_early_leaves_nothing_running() -> None:
    ended = asyncio.Event()

    async def hang() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ""

    async def quick() -> str:
        return "quick"

    findings = run_checks([Check("a", "a", quick), Check("b", "b", hang)])
    assert (await anext(findings)).text == "quick"
    await findings.aclose()
    assert ended.is_set()


async def test_what_several_need_is_done_once_and_one_who_is_out_of_time_does_not_take_it_from_the_others() -> (
    None
):
    begun = 0
    go_on = asyncio.Event()

    async def work() -> str:
        nonlocal begun
        begun += 1
        await go_on.wait()
        return "done"

    once = Once(work)

    async def look() -> str:
        return await once()

    hurried = asyncio.create_task(Check("a", "a", look, patience_s=0.01).finding())
    patient = asyncio.create_task(Check("b", "b", look).finding())
    assert "no answer" in (await hurried).text
    go_on.set()
    assert (await patient).text == "done"
    assert begun == 1


def test_the_document_has_the_shape_that_scripts_rely_on() -> None:
    findings = [
        Finding("token", Verdict.OK, "token", "valid"),
        Finding("hub", Verdict.WARNING, "hub", "„slow“"),
        Finding("model.smol", Verdict.FAILED, "smol", "too large: choose another"),
    ]
    told = json.loads(document(findings))
    assert set(told) == {"version", "punchline", "verdict", "counts", "checks"}
    assert (told["version"], told["verdict"]) == (1, "failed")
    assert told["counts"] == {"ok": 1, "warning": 1, "failed": 1}
    assert told["checks"][2] == {
        "id": "model.smol",
        "verdict": "failed",
        "subject": "smol",
        "text": "too large: choose another",
    }


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [([], "ok"), (["ok", "ok"], "ok"), (["warning", "ok"], "warning"), (["failed", "warning"], "failed")],
)
def test_the_worst_line_decides(verdicts: list[str], expected: str) -> None:
    assert worst([Finding("a", Verdict(verdict), "a", "") for verdict in verdicts]) == expected
