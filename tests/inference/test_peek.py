"""A model that is only on the Hub is looked at through a few small files and the headers of its weights."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.errors import HubUnreachable, ModelUnavailable
from bot.inference.anatomy import examine
from bot.inference.catalog import ModelSpec
from bot.inference.hub import fetch, fetched, free_disk_bytes, peek
from bot.inference.inspector import Inspector
from bot.inference.loader import ModelLoader
from tests.inference.checkpoints import save_checkpoint
from tests.inference.hub_standin import COMMIT, OTHER_COMMIT, REPOSITORY, Hub, Refusal, client_of, serving

SPEC = ModelSpec(
    alias="tiny", repository=REPOSITORY, revision=COMMIT, context_tokens=256, description="a model"
)


@pytest.fixture(scope="module", params=["one file", "shards"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = "5GB" if request.param == "one file" else "1MB"
    return save_checkpoint("gemma", tmp_path_factory.mktemp("models") / "gemma", max_shard_size=size)


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    hub = Hub(files=files | {"README.md": b"Read me.", "original/model.safetensors": b"x" * 10_000_000})
    with serving(hub), client_of(hub.url, str(tmp_path / "cache"), monkeypatch):
        yield hub


@pytest.fixture
def inspector(tmp_path: Path) -> Inspector:
    return Inspector(ModelLoader(tmp_path))


def why_not(inspector: Inspector) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        inspector.look(SPEC)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_look_at_the_hub_tells_the_same_as_a_look_at_the_disk(
    hub: Hub, checkpoint: Path, inspector: Inspector
) -> None:
    found = inspector.look(SPEC)
    assert found.anatomy == examine(checkpoint, SPEC)
    weights = sum(
        len(data) for name, data in hub.files.items() if name.endswith(".safetensors") and "/" not in name
    )
    assert found.missing_bytes == pytest.approx(weights, rel=0.02)


def test_another_revision_of_a_model_that_is_here_is_all_to_be_fetched(
    hub: Hub, inspector: Inspector
) -> None:
    fetch(SPEC, None, lambda *_: None)
    changed = {name: data[:-1] + b"\7" for name, data in hub.files.items() if name.endswith(".safetensors")}
    hub.other_files = hub.files | changed
    found = inspector.look(SPEC.model_copy(update={"revision": OTHER_COMMIT}))
    assert found.missing_bytes == sum(len(data) for name, data in changed.items() if "/" not in name)


def test_the_weights_stay_where_they_are(
    hub: Hub, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A header is asked for with 100 kB of what follows: pad the weights so that it shows.
    for name in [name for name in hub.files if name.endswith(".safetensors")]:
        hub.files[name] += b"\0" * 5_000_000
    inspector.look(SPEC)
    assert hub.sent_bytes < 1_500_000
    assert fetched(SPEC) is None
    asked = {request.rpartition("/")[2] for request in hub.requests}
    assert "README.md" not in asked


def test_a_model_that_was_looked_at_is_fetched_whole_afterwards_and_then_asks_nobody(
    hub: Hub, inspector: Inspector
) -> None:
    before = inspector.look(SPEC)
    folder = fetch(SPEC, None, lambda *_: None)
    assert fetched(SPEC) == folder
    hub.requests.clear()
    after = inspector.look(SPEC)
    assert (after.anatomy, after.missing_bytes) == (before.anatomy, 0)
    assert hub.requests == []


def test_the_token_goes_along(hub: Hub, tmp_path: Path) -> None:
    Inspector(ModelLoader(tmp_path), "hf_secret").look(SPEC)
    assert set(hub.authorizations) == {"Bearer hf_secret"}


def test_without_a_token_none_is_sent(
    hub: Hub, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    inspector.look(SPEC)
    assert set(hub.authorizations) == {None}


@pytest.mark.parametrize("at", ["listing", "file"])
def test_terms_that_were_not_accepted_are_said_with_the_page(hub: Hub, inspector: Inspector, at: str) -> None:
    refusal = Refusal(403, "GatedRepo", "Access to model tests/tiny is restricted.")
    if at == "listing":
        hub.listing_refused = refusal
    else:
        hub.file_refused = dict.fromkeys(hub.files, refusal)
    assert f"open {hub.url}/{REPOSITORY}" in why_not(inspector)


def test_a_repository_that_does_not_exist_is_named(hub: Hub, inspector: Inspector) -> None:
    with pytest.raises(ModelUnavailable, match="There is no tests/typo on the Hub"):
        inspector.look(SPEC.model_copy(update={"repository": "tests/typo"}))


def test_a_refused_header_is_said_with_its_number(hub: Hub, inspector: Inspector) -> None:
    hub.file_refused = {name: Refusal(500) for name in hub.files if name.endswith(".safetensors")}
    assert "The Hub answered 500" in why_not(inspector)


def test_a_repository_without_safetensors_is_a_sentence(hub: Hub, inspector: Inspector) -> None:
    hub.files = {name: data for name, data in hub.files.items() if not name.endswith(".safetensors")}
    hub.files["pytorch_model.bin"] = b"pickle"
    assert "no safetensors weights" in why_not(inspector)


@pytest.mark.parametrize("start", [b"\xff" * 8, (6).to_bytes(8, "little") + b"{nope}", b""])
def test_a_broken_header_is_a_sentence(hub: Hub, inspector: Inspector, start: bytes) -> None:
    for name in [name for name in hub.files if name.endswith(".safetensors")]:
        hub.files[name] = start + b"x" * (200 if start else 3)
    assert "is broken or was cut off" in why_not(inspector)


def test_a_hub_that_does_not_answer_is_told_from_one_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        with client_of(f"http://127.0.0.1:{taken.getsockname()[1]}", str(tmp_path), monkeypatch):
            with pytest.raises(HubUnreachable, match="the Hub cannot be reached"):
                peek(SPEC, None)
            assert free_disk_bytes() > 0


def test_a_hub_that_is_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.inference.hub.REQUEST_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with client_of(address, str(tmp_path), monkeypatch), pytest.raises(HubUnreachable):
            peek(SPEC, None)
