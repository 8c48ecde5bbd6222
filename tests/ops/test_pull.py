"""`pull`: a model's files are fetched before anybody asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.errors import ModelUnavailable, UnknownModel
from bot.inference import embedded
from bot.inference.embedded import Progress, checkpoint_path
from bot.ops.pull import pull
from bot.settings import Settings, load_settings
from tests.inference.hub_standin import COMMIT, FILES, REPOSITORY, WANTED, Hub, Refusal, client_of, serving

CATALOGUE = f"""
[tiny]
repository = "{REPOSITORY}"
revision = "{COMMIT}"
context_tokens = 256
description = "a model"
[here]
source = "FOLDER"
context_tokens = 256
description = "a folder"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    own = tmp_path / "models.toml"
    own.write_text(CATALOGUE.replace("FOLDER", str(tmp_path / "here")))
    return load_settings(None, cache_dir=tmp_path / "cache", models_file=own)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub()) as hub, client_of(hub.url, str(tmp_path / "hub"), monkeypatch):
        yield hub


@pytest.fixture
def ensured(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Making the embedded model succeeds at once; for which folders it was asked."""
    asked: list[Path] = []

    def ensure(cache_dir: Path, report: Progress) -> Path:
        asked.append(cache_dir)
        report("downloading smol", 0.5)
        report("downloading smol", 1.0)
        report("converting smol", None)
        folder = checkpoint_path(cache_dir)
        folder.mkdir(parents=True)
        return folder

    monkeypatch.setattr(embedded, "ensure_checkpoint", ensure)
    return asked


def test_an_alias_that_nobody_knows_is_refused_with_the_nearest(settings: Settings) -> None:
    with pytest.raises(UnknownModel, match="Did you mean 'gemma'"):
        pull(settings, "gema")


def test_the_embedded_model_says_what_it_needs_shows_its_steps_and_where_it_is(
    settings: Settings, ensured: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert pull(settings, "SMOL") == 0
    captured = capsys.readouterr()
    assert captured.out == (
        "smol: needs 273 MB of disk, and 191 MB more while it is prepared\n"
        f"smol is ready: {checkpoint_path(settings.cache_dir)}\n"
    )
    assert "downloading smol" in captured.err
    assert "100 %" in captured.err
    assert "converting smol …" in captured.err
    assert ensured == [settings.cache_dir]


def test_the_embedded_model_that_is_here_already_is_not_made_again(
    settings: Settings, ensured: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint_path(settings.cache_dir)
    folder.mkdir(parents=True)
    assert pull(settings, "smol") == 0
    assert capsys.readouterr() == (f"smol is here already: {folder}\n", "")
    assert ensured == []


def test_a_model_from_the_hub_is_fetched_once(
    settings: Settings, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["model-00001-of-00002.safetensors"] = b"1" * 1_000_000_00
    assert pull(settings, "tiny") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "tiny: needs 0.1 GB of disk"
    folder = Path(second.removeprefix("tiny is ready: "))
    assert sorted(path.name for path in folder.iterdir()) == sorted(WANTED)

    hub.requests.clear()
    assert pull(settings, "tiny") == 0
    assert capsys.readouterr() == (f"tiny is here already: {folder}\n", "")
    assert hub.requests == []


def test_the_hubs_token_goes_along(settings: Settings, hub: Hub) -> None:
    own = load_settings(None, hf_token="hf_secret", models_file=settings.models_file)
    assert pull(own, "tiny") == 0
    assert set(hub.authorizations) == {"Bearer hf_secret"}


def test_terms_that_were_not_accepted_are_a_sentence(settings: Settings, hub: Hub) -> None:
    hub.file_refused = dict.fromkeys(FILES, Refusal(403, "GatedRepo"))
    with pytest.raises(ModelUnavailable, match="accept their terms"):
        pull(settings, "tiny")


def test_a_folder_of_ones_own_needs_no_fetching_but_must_be_there(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelUnavailable, match="'source'"):
        pull(settings, "here")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.json").write_text("{}")
    assert pull(settings, "here") == 0
    assert capsys.readouterr().out == f"here is here already: {tmp_path}/here\n"
