"""`check` says of each model whether it can run here, in numbers, and what would help."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bot.inference.catalog import ModelCatalog, load_catalog
from bot.inference.device import DeviceReading
from bot.inference.inspector import Inspector
from bot.inference.loader import ModelLoader
from bot.ops import fitting
from bot.ops.checks import run_checks
from bot.ops.findings import Finding, Verdict
from bot.ops.fitting import Fitting, Room
from bot.settings import Settings, load_settings
from tests.inference.checkpoints import save_checkpoint
from tests.inference.hub_standin import COMMIT, REPOSITORY, Hub, Refusal, client_of, serving

LOCAL = 'source = "{folder}"\n'
REMOTE = f'repository = "{REPOSITORY}"\nrevision = "{COMMIT}"\n'


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("models") / "llama", context_tokens=65_536)


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with (
        serving(Hub(files={path.name: path.read_bytes() for path in checkpoint.iterdir()})) as hub,
        client_of(hub.url, str(tmp_path / "hub"), monkeypatch),
    ):
        yield hub


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_of(monkeypatch, 24_000)


def gpu_of(monkeypatch: pytest.MonkeyPatch, total_mb: int, free_mb: int | None = None) -> None:
    free_mb = total_mb if free_mb is None else free_mb
    reading = DeviceReading("A GPU", True, total_mb * 10**6, free_mb * 10**6, 0)
    monkeypatch.setattr(fitting, "read_device", lambda: reading)


def of(tmp_path: Path, *places: str, default: str = "smol", more: str = "") -> tuple[Settings, ModelCatalog]:
    """Settings and a catalogue with a model for each place: tiny0, tiny1, …"""
    own = tmp_path / "models.toml"
    own.write_text(
        "\n".join(
            f'[tiny{n}]\n{place}context_tokens = 32768\ndescription = "a model"\n{more}'
            for n, place in enumerate(places)
        )
    )
    catalog = load_catalog(own, default=default)
    few = {alias: spec for alias, spec in catalog.items() if alias.startswith("tiny") or alias == default}
    settings = load_settings(None, cache_dir=tmp_path / "cache", models_file=own)
    return settings, ModelCatalog(few, default=default)


def looked(asked: tuple[Settings, ModelCatalog], **how: Any) -> dict[str, Finding]:
    settings, catalog = asked

    async def look() -> dict[str, Finding]:
        checks = Fitting(settings, catalog, ModelLoader(settings.cache_dir), **how).checks()
        return {finding.subject: finding async for finding in run_checks(checks)}

    return asyncio.run(look())


def found(asked: tuple[Settings, ModelCatalog], alias: str = "tiny0", **how: Any) -> Finding:
    return looked(asked, **how)[alias]


def local(folder: Path) -> str:
    return LOCAL.format(folder=folder)


@pytest.mark.usefixtures("device")
def test_a_model_that_is_here_and_fits_is_ok_with_the_numbers(tmp_path: Path, checkpoint: Path) -> None:
    finding = found(of(tmp_path, local(checkpoint)))
    assert finding.verdict is Verdict.OK
    assert finding.text.startswith("its files are here; needs about 0.3 GB for 32768 tokens")
    assert finding.text.endswith("this GPU has 24 GB")


def test_a_model_that_does_not_fit_fails_with_a_context_that_would(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of(monkeypatch, 100)
    finding = found(of(tmp_path, local(checkpoint)))
    assert finding.verdict is Verdict.FAILED
    assert "needs about 0.3 GB for 32768 tokens; this GPU has 0.1 GB" in finding.text
    assert "with context_tokens = 8192 in the catalogue it would fit" in finding.text


def test_the_context_that_is_offered_really_fits(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of(monkeypatch, 100)
    settings, catalog = of(tmp_path, local(checkpoint))
    smaller = catalog["tiny0"].model_copy(update={"context_tokens": 8192})
    specs = {"smol": catalog["smol"], "tiny0": smaller}
    assert found((settings, ModelCatalog(specs, default="smol"))).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("quantization", "helps"), [("none", 'quantization = "nf4"'), ("nf4", "a smaller model")]
)
def test_a_model_that_no_context_makes_fit_says_what_else_helps(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, quantization: str, helps: str
) -> None:
    gpu_of(monkeypatch, 1)
    finding = found(of(tmp_path, local(checkpoint), more=f'quantization = "{quantization}"\n'))
    assert finding.verdict is Verdict.FAILED
    assert helps in finding.text


def test_memory_that_something_else_holds_now_is_a_warning(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of(monkeypatch, 24_000, free_mb=100)
    finding = found(of(tmp_path, local(checkpoint)))
    assert finding.verdict is Verdict.WARNING
    assert "0.1 GB are free now: end what else uses it" in finding.text


@pytest.mark.usefixtures("device")
def test_a_broken_model_on_this_disk_fails(tmp_path: Path, checkpoint: Path) -> None:
    own = shutil.copytree(checkpoint, tmp_path / "own")
    (own / "model.safetensors").write_bytes(b"cut")
    finding = found(of(tmp_path, local(own)))
    assert finding.verdict is Verdict.FAILED
    assert "model.safetensors is broken" in finding.text


@pytest.mark.usefixtures("device", "hub")
def test_a_model_on_the_hub_is_told_with_its_need_and_the_command(tmp_path: Path) -> None:
    finding = found(of(tmp_path, REMOTE))
    assert finding.verdict is Verdict.OK
    assert "`python -m bot pull tiny0`; needs about 0.3 GB for 32768 tokens" in finding.text


@pytest.mark.usefixtures("device", "hub")
def test_the_default_model_that_is_not_fetched_is_a_warning(tmp_path: Path) -> None:
    assert found(of(tmp_path, REMOTE, default="tiny0")).verdict is Verdict.WARNING


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("default", "verdict"), [("smol", Verdict.WARNING), ("tiny0", Verdict.FAILED)])
def test_a_model_that_nobody_fetched_and_that_is_too_large_fails_only_if_it_answers_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default: str, verdict: Verdict
) -> None:
    gpu_of(monkeypatch, 1)
    assert found(of(tmp_path, REMOTE, default=default)).verdict is verdict


@pytest.mark.usefixtures("device", "hub")
def test_a_disk_that_is_too_small_for_the_download_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=400_000))  # enough for a look
    finding = found(of(tmp_path, REMOTE))
    assert finding.verdict is Verdict.WARNING
    assert "only 0.0 GB of disk are free" in finding.text
    smol = found(of(tmp_path, REMOTE), "smol")
    assert smol.verdict is Verdict.WARNING
    assert "it needs 464 MB of disk, and 0 MB are free" in smol.text


@pytest.mark.usefixtures("device")
def test_terms_that_were_not_accepted_are_a_warning_with_the_page(tmp_path: Path, hub: Hub) -> None:
    hub.listing_refused = Refusal(403, "GatedRepo", "Access to model tests/tiny is restricted.")
    finding = found(of(tmp_path, REMOTE))
    assert finding.verdict is Verdict.WARNING
    assert f"open {hub.url}/{REPOSITORY}" in finding.text


@pytest.mark.usefixtures("device")
def test_a_hub_that_does_not_answer_is_said_and_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    release = threading.Event()

    def hang(_: Inspector, spec: object) -> None:
        looks.append(str(spec))
        release.wait(60)

    monkeypatch.setattr(Inspector, "look", hang)
    monkeypatch.setattr(fitting, "PATIENCE_S", 0.05)
    told = looked(of(tmp_path, REMOTE, REMOTE, default="tiny1"))
    release.set()
    assert len(looks) == 1
    assert [told[alias].verdict for alias in ("tiny0", "tiny1")] == [Verdict.OK, Verdict.WARNING]
    assert all("the Hub cannot be reached" in told[alias].text for alias in ("tiny0", "tiny1"))


@pytest.mark.usefixtures("device")
def test_an_operators_budget_is_what_a_model_must_fit_into(tmp_path: Path, checkpoint: Path) -> None:
    settings, catalog = of(tmp_path, local(checkpoint))
    finding = found((settings.model_copy(update={"gpu_memory_budget": 100 * 10**6}), catalog))
    assert finding.verdict is Verdict.FAILED
    assert "GPU_MEMORY_BUDGET has 0.1 GB: with context_tokens = 8192" in finding.text


def test_in_a_bot_that_runs_what_is_in_memory_is_no_reason_why_another_model_does_not_fit(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_of(monkeypatch, 24_000, free_mb=100)
    room = Room("the bot", 20 * 10**9, 20 * 10**9)
    finding = found(of(tmp_path, local(checkpoint)), room=lambda: room)
    assert finding.verdict is Verdict.OK
    assert finding.text.endswith("the bot has 20 GB")


@pytest.mark.usefixtures("device")
def test_offline_the_hub_is_not_asked_and_that_is_said(tmp_path: Path, hub: Hub) -> None:
    finding = found(of(tmp_path, REMOTE), asks_hub=False)
    assert "NOT CHECKED, because of --offline" in finding.text
    assert hub.requests == []
