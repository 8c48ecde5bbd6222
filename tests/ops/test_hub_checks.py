"""What `check` says about the Hub: its real client, with a server in the Hub's place."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.inference.catalog import ModelCatalog, ModelSpec
from bot.inference.loader import ModelLoader
from bot.ops.checks import run_checks
from bot.ops.clock import Clock
from bot.ops.findings import Finding, Verdict
from bot.ops.hub_checks import HubChecks
from tests.inference.hub_standin import COMMIT, REPOSITORY, Hub, Refusal, client_of, serving

TINY = ModelSpec(
    alias="tiny", repository=REPOSITORY, revision=COMMIT, context_tokens=256, description="a model"
)
OTHER = ModelSpec(alias="other", source="embedded", context_tokens=256, description="another")
GATED = Refusal(403, "GatedRepo", "Access to model tests/tiny is restricted.")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with serving(Hub()) as hub, client_of(hub.url, str(tmp_path / "hub"), monkeypatch):
        yield hub


async def found(
    tmp_path: Path, token: str | None = None, *, default: str = "other", clock: Clock | None = None
) -> dict[str, Finding]:
    checks = HubChecks(token, ModelLoader(tmp_path / "cache"), clock or Clock())
    catalog = ModelCatalog({"tiny": TINY, "other": OTHER}, default=default)
    findings = {finding.id: finding async for finding in run_checks(checks.checks(catalog))}
    await checks.answer.aclose()
    return findings


async def test_a_hub_that_answers_is_ok_and_only_models_on_it_are_asked_for(tmp_path: Path, hub: Hub) -> None:
    findings = await found(tmp_path)
    assert list(findings) == ["hub", "access.tiny"]
    assert {finding.verdict for finding in findings.values()} == {Verdict.OK}
    assert "without HF_TOKEN" in findings["hub"].text
    assert findings["access.tiny"].text == f"the Hub gives the files of {REPOSITORY}"
    assert hub.sent_bytes == 0  # nothing is fetched


async def test_a_token_that_is_known_is_told_with_whose_it_is(tmp_path: Path, hub: Hub) -> None:
    assert (await found(tmp_path, "hf_valid"))["hub"].text == "answers, and HF_TOKEN is valid: somebody"
    assert hub.authorizations == ["Bearer hf_valid"] * 2


async def test_a_token_that_is_not_known_fails_with_the_page(tmp_path: Path, hub: Hub) -> None:
    findings = await found(tmp_path, "hf_SECRET")
    assert findings["hub"].verdict is Verdict.FAILED
    assert f"make a new one on {hub.url}/settings/tokens" in findings["hub"].text
    assert findings["access.tiny"].text == "not checked: the Hub did not answer, see hub"
    assert "SECRET" not in str(findings)


@pytest.mark.parametrize(("default", "verdict"), [("other", Verdict.WARNING), ("tiny", Verdict.FAILED)])
async def test_terms_that_were_not_accepted_fail_only_if_the_model_answers_by_default(
    tmp_path: Path, hub: Hub, default: str, verdict: Verdict
) -> None:
    hub.access_refused = GATED
    access = (await found(tmp_path, "hf_valid", default=default))["access.tiny"]
    assert access.verdict is verdict
    assert f"accept their terms first: open {hub.url}/{REPOSITORY}" in access.text


async def test_a_model_that_is_here_needs_no_access(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.access_refused = GATED
    monkeypatch.setattr(ModelLoader, "present", lambda *_: tmp_path)
    access = (await found(tmp_path))["access.tiny"]
    assert (access.verdict, access.text) == (Verdict.OK, "its files are here, the Hub need not be asked")


async def test_a_hub_out_of_reach_is_a_warning_because_models_that_are_here_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with client_of(address, str(tmp_path / "hub"), monkeypatch):
            findings = await found(tmp_path)
    assert findings["hub"].verdict is Verdict.WARNING
    assert f"{address} cannot be reached" in findings["hub"].text
    assert "HTTPS_PROXY" in findings["hub"].text
    assert findings["access.tiny"].verdict is Verdict.WARNING


async def test_the_hubs_clock_is_noted(tmp_path: Path, hub: Hub) -> None:
    hub.ahead_s = -120
    clock = Clock()
    await found(tmp_path, clock=clock)
    told = clock.verdict()
    assert told is not None
    assert told[0] is Verdict.FAILED
    assert "ahead of the Hub" in told[1]
