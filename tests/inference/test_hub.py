"""Fetching a model from the Hub: only what is needed, all of it, and a sentence when it cannot be had.

The Hub's own client, against a stand-in on this machine.
"""

from __future__ import annotations

import errno
import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from huggingface_hub import constants, hf_hub_download

from bot.errors import ModelUnavailable
from bot.inference.catalog import ModelSpec
from bot.inference.hub import fetch, fetched, size_bytes
from tests.inference.hub_standin import (
    COMMIT,
    FILES,
    OTHER_COMMIT,
    REPOSITORY,
    WANTED,
    Hub,
    Refusal,
    client_of,
    serving,
)

BYTES = sum(len(FILES[path]) for path in WANTED)
SHARD = "model-00002-of-00002.safetensors"


def spec_of(revision: str = COMMIT, repository: str = REPOSITORY) -> ModelSpec:
    return ModelSpec(
        alias="tiny", repository=repository, revision=revision, context_tokens=256, description="a model"
    )


SPEC = spec_of()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with serving(Hub()) as hub, client_of(hub.url, str(cache), monkeypatch):
        yield hub


def not_reported(_: str, __: float | None) -> None:
    """Nobody looks."""


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def why_not(spec: ModelSpec = SPEC, token: str | None = None) -> str:
    """What a person reads when a fetch fails."""
    with pytest.raises(ModelUnavailable) as caught:
        fetch(spec, token, not_reported)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    assert "None" not in said
    return said


# --- It works -------------------------------------------------------------------------------------------------


def test_the_size_counts_only_the_files_that_are_needed(hub: Hub) -> None:
    assert size_bytes(SPEC, None) == BYTES


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_a_fetch_brings_what_is_needed_and_nothing_else(hub: Hub, revision: str) -> None:
    folder = fetch(spec_of(revision), None, not_reported)
    assert names_in(folder) == sorted(WANTED)
    assert all((folder / path).read_bytes() == FILES[path] for path in WANTED)


def test_progress_rises_from_nothing_to_all(hub: Hub) -> None:
    told: list[float | None] = []
    steps: set[str] = set()

    def report(step: str, fraction: float | None) -> None:
        steps.add(step)
        told.append(fraction)

    fetch(SPEC, None, report)
    fractions = [fraction for fraction in told if fraction is not None]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert (len(fractions), steps) == (len(told), {"downloading tiny"})


def test_progress_ends_at_all_even_if_some_was_here_before(hub: Hub) -> None:
    hub.file_refused[SHARD] = Refusal(500)
    why_not()
    hub.file_refused.clear()
    told: list[float | None] = []
    fetch(SPEC, None, lambda _, fraction: told.append(fraction))
    assert told[-1] == 1.0


def test_progress_never_goes_back_when_the_network_is_behind_the_disk_or_before_it(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_xet_does(*_: object, tqdm_class: type[Any], **__: object) -> str:
        network = tqdm_class(desc="Downloading bytes", total=0, initial=0, unit="B", unit_scale=True)
        disk = tqdm_class(desc="Reconstructing", total=0, initial=0, unit="B", unit_scale=True)
        files = tqdm_class(desc="Fetching 6 files", total=6)
        for from_network, to_disk in ((0.3, 0.1), (0.1, 0.4), (0.1, 0.5)):
            for bar, part in ((network, from_network), (disk, to_disk)):
                bar.n += round(part * BYTES)
                bar.refresh()
            files.n += 2
            files.refresh()
        for bar in (network, disk, files):
            bar.close()
        return str(cache)

    monkeypatch.setattr("bot.inference.hub.snapshot_download", as_xet_does)
    told: list[float] = []
    fetch(SPEC, None, lambda _, fraction: told.append(fraction or 0.0))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_no_thread_watches_the_bars_that_nobody_sees(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies of bars that come and go while it goes through them."""
    monitor = Mock()
    monkeypatch.setattr("tqdm.std.TMonitor", monitor)
    monkeypatch.setattr("tqdm.std.tqdm.monitor", None)
    fetch(SPEC, None, not_reported)
    assert not monitor.called


def test_the_fetch_prints_nothing_of_its_own(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    fetch(SPEC, None, not_reported)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_what_was_fetched_is_found_again_without_asking_anybody(hub: Hub, revision: str) -> None:
    spec = spec_of(revision)
    assert fetched(spec) is None
    folder = fetch(spec, None, not_reported)
    hub.requests.clear()
    assert fetched(spec) == folder
    assert hub.requests == []


def test_another_revision_is_another_model(hub: Hub) -> None:
    fetch(SPEC, None, not_reported)
    assert fetched(spec_of("f" * 40)) is None


def test_nothing_is_asked_when_nothing_is_there(hub: Hub) -> None:
    assert fetched(SPEC) is None
    assert hub.requests == []


def test_an_interrupted_fetch_is_not_taken_for_a_model_and_the_next_one_completes_it(hub: Hub) -> None:
    hub.file_refused[SHARD] = Refusal(500)
    why_not()
    assert fetched(SPEC) is None
    hub.file_refused.clear()
    hub.requests.clear()
    folder = fetch(SPEC, None, not_reported)
    assert fetched(SPEC) == folder
    assert (folder / SHARD).read_bytes() == FILES[SHARD]
    brought = [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]
    assert f"GET /{REPOSITORY}/resolve/{COMMIT}/{SHARD}" in brought
    assert len(brought) < len(WANTED)


def test_a_config_that_another_program_looked_at_is_not_taken_for_a_model(hub: Hub) -> None:
    # The cache is shared: whoever asked for one file of this model has left a folder with just that file.
    hf_hub_download(REPOSITORY, "config.json", revision=COMMIT, token=False)
    assert fetched(SPEC) is None


OTHER_TOKENIZERS = [
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("tekken.json",),
    ("tiktoken.model",),
]


@pytest.mark.parametrize("names", OTHER_TOKENIZERS, ids=" and ".join)
def test_a_model_with_other_tokenizer_files_is_fetched_whole_and_known_without_the_hub(
    hub: Hub, names: tuple[str, ...]
) -> None:
    hub.files = {path: held for path, held in hub.files.items() if path != "tokenizer.json"}
    hub.files |= dict.fromkeys(names, b"words")
    folder = fetch(SPEC, None, not_reported)
    assert set(names) <= set(names_in(folder))
    hub.requests.clear()
    assert fetched(SPEC) == folder
    assert hub.requests == []


@pytest.mark.parametrize("names", [(), ("vocab.json",), ("merges.txt",), ("tokenizer_config.json",)])
def test_a_model_with_half_a_tokenizer_is_not_taken_for_whole(hub: Hub, names: tuple[str, ...]) -> None:
    hub.files = {path: held for path, held in hub.files.items() if path != "tokenizer.json"}
    hub.files |= dict.fromkeys(names, b"words")
    fetch(SPEC, None, not_reported)
    assert fetched(SPEC) is None


@pytest.mark.parametrize("token", ["hf_secret", None])
def test_the_token_is_sent_if_there_is_one_and_nothing_is_sent_if_there_is_none(
    hub: Hub, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    fetch(SPEC, token, not_reported)
    assert len(hub.authorizations) > len(WANTED)
    assert set(hub.authorizations) == {token and f"Bearer {token}"}


# --- It does not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("at", ["listing", "file"])
def test_terms_that_were_not_accepted_are_said_with_the_page_and_the_token(
    hub: Hub, status: int, at: str
) -> None:
    refusal = Refusal(status, "GatedRepo", "Access to model tests/tiny is restricted.")
    if at == "listing":
        hub.listing_refused = refusal
    else:
        hub.file_refused = dict.fromkeys(FILES, refusal)
    said = why_not()
    assert f"open {hub.url}/{REPOSITORY}" in said
    assert "HF_TOKEN" in said


def test_a_repository_that_does_not_exist_is_named_with_the_key_to_check(hub: Hub) -> None:
    said = why_not(spec_of(repository="tests/typo"))
    assert "There is no tests/typo on the Hub" in said
    assert "'repository'" in said


def test_a_private_repository_looks_like_one_that_does_not_exist(hub: Hub) -> None:
    hub.listing_refused = Refusal(401, "RepoNotFound", "Repository not found")
    assert "private and HF_TOKEN does not open it" in why_not()


@pytest.mark.parametrize("revision", ["f" * 40, "no-such-branch"])
def test_a_revision_that_does_not_exist_is_named_with_the_key_to_check(hub: Hub, revision: str) -> None:
    said = why_not(spec_of(revision))
    assert f"has no revision '{revision}'" in said
    assert "'revision'" in said


def test_a_token_that_is_not_valid_is_said_to_be_that_and_not_repeated(hub: Hub) -> None:
    hub.listing_refused = Refusal(401, None, "Invalid credentials in Authorization header")
    said = why_not(token="hf_secret")
    assert "HF_TOKEN" in said
    assert "try again later" not in said
    assert "hf_secret" not in said


def test_a_token_without_the_right_permission_is_said_to_be_that(hub: Hub) -> None:
    hub.listing_refused = Refusal(
        403, None, "Enable access to public gated repositories in your token's settings"
    )
    said = why_not(token="hf_secret")
    assert "HF_TOKEN" in said
    assert "try again later" not in said


@pytest.mark.parametrize("status", [500, 503, 429])
def test_trouble_at_the_hub_is_said_with_its_number(hub: Hub, status: int) -> None:
    hub.listing_refused = Refusal(status)
    said = why_not()
    assert f"The Hub answered {status} when asked for tiny" in said
    assert "try again later" in said


def test_trouble_at_the_hub_with_one_file_does_not_blame_the_network(hub: Hub) -> None:
    hub.file_refused[SHARD] = Refusal(500)
    said = why_not()
    assert "500" in said
    assert "check the network" not in said


def test_a_hub_that_cannot_be_reached_is_a_sentence_with_the_command_for_later(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        with client_of(f"http://127.0.0.1:{taken.getsockname()[1]}", str(cache), monkeypatch):
            said = why_not()
            assert fetched(SPEC) is None
    assert "the Hub cannot be reached" in said
    assert "python -m bot pull tiny" in said


def test_offline_mode_is_a_sentence_too(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the Hub cannot be reached" in why_not()
    assert hub.requests == []


def test_a_file_that_came_with_another_size_than_announced_is_refused_with_a_reason(hub: Hub) -> None:
    hub.lies[SHARD] = len(FILES[SHARD]) + 7
    why_not()
    assert fetched(SPEC) is None


def test_a_disk_that_is_too_small_is_said_in_numbers_before_anything_is_fetched(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["model-00003-of-00003.safetensors"] = b"3" * 60_000_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=42_000_000))
    said = why_not()
    assert f"does not fit on the disk of {cache}: it takes 0.1 GB and 0.0 GB are free" in said
    assert "HF_HOME" in said
    assert not any("/resolve/" in request for request in hub.requests)


def test_what_is_here_already_needs_no_space_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(SPEC, None, not_reported)
    (folder / "chat_template.jinja").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    assert names_in(fetch(SPEC, None, not_reported)) == sorted(WANTED)


def test_the_files_of_another_revision_count_as_missing_and_those_that_are_the_same_do_not(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(SPEC, None, not_reported)
    other = spec_of(OTHER_COMMIT)
    hub.other_files = FILES | {SHARD: b"3" * 2000}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1999))
    assert "does not fit on the disk" in why_not(other)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2000))
    told: list[float] = []
    folder = fetch(other, None, lambda _, fraction: told.append(fraction or 0.0))
    assert (folder / SHARD).read_bytes() == b"3" * 2000
    assert all(fraction < 1 for fraction in told[:-1])


def test_what_a_killed_fetch_had_begun_is_not_taken_for_here(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.file_refused[SHARD] = Refusal(500)
    why_not()
    hub.file_refused.clear()
    blobs = cache / f"models--{REPOSITORY.replace('/', '--')}" / "blobs"
    (blobs / "0123.4567.incomplete").write_bytes(b"2" * 5000)  # which the Hub's client never goes on with
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1999))
    assert "does not fit on the disk" in why_not()


def test_a_disk_that_fills_up_on_the_way_is_a_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download._chmod_and_move", full)
    said = why_not()
    assert "does not fit on the disk" in said
    assert "HF_HOME" in said


def test_a_cache_that_cannot_be_written_is_a_sentence(hub: Hub, cache: Path) -> None:
    cache.touch()  # a file where the folder should be
    why_not()


def test_no_traceback_and_no_token_reach_the_person(hub: Hub) -> None:
    hub.listing_refused = Refusal(500, None, "at hub.js line 5")
    said = why_not(token="hf_secret")
    assert "hub.js" not in said
    assert "hf_secret" not in said
