"""`check`: one line for each thing, the fix where one is needed, and an exit code for scripts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.inference.catalog import load_catalog
from bot.inference.embedded import checkpoint_path
from bot.ops.doctor import check, examine
from bot.ops.findings import Finding, Verdict
from bot.settings import Settings, load_settings
from tests.inference.checkpoints import save_checkpoint
from tests.inference.hub_standin import client_of

TOKEN = "part-one.part_2.part3"


@pytest.fixture(autouse=True)
def nothing_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No Hub, and nothing of it on this disk."""
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with client_of(address, str(tmp_path / "hub"), monkeypatch):
            yield


def settings_of(tmp_path: Path, **values: object) -> Settings:
    return load_settings(
        None,
        **{
            "discord_token": TOKEN,
            "cache_dir": tmp_path / "cache",
            "data_dir": tmp_path / "data",
            **values,
        },
    )


def found(settings: Settings) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(settings)}


def test_a_machine_that_is_ready_is_all_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint("llama", checkpoint_path(tmp_path / "cache"))
    assert check(settings_of(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {"ok"}
    subjects = [line.split()[1] for line in lines]
    assert subjects == ["token", "CACHE_DIR", "DATA_DIR", "catalogue", "device", *load_catalog()]
    assert not any(TOKEN in line for line in lines)


def test_a_missing_token_is_a_warning_because_the_demo_needs_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(tmp_path, discord_token=None)
    assert found(settings)["token"].verdict is Verdict.WARNING
    assert check(settings) == 0
    assert "DISCORD_TOKEN is not set" in capsys.readouterr().out


def test_a_model_that_is_not_fetched_yet_is_a_warning_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(tmp_path)
    findings = found(settings)
    assert findings["smol"].verdict is Verdict.WARNING
    assert "`python -m bot pull smol`" in findings["smol"].text
    # Nobody asked for this one yet; it is no fault that it is not here.
    assert findings["gemma"].verdict is Verdict.OK
    assert "`python -m bot pull gemma`" in findings["gemma"].text
    assert check(settings) == 0


def test_the_model_that_answers_by_default_is_the_one_that_is_warned_of(tmp_path: Path) -> None:
    findings = found(settings_of(tmp_path, default_model="gemma"))
    assert findings["gemma"].verdict is Verdict.WARNING
    assert findings["smol"].verdict is Verdict.OK
    assert "gemma answers by default" in findings["catalogue"].text


def test_a_fault_in_the_catalogue_fails_with_its_line_and_the_rest_is_still_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "models.toml"
    own.write_text("[gemma]\ncontext_tokens = 3\n")
    assert check(settings_of(tmp_path, models_file=own)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "ok", "ok", "failed"]
    assert f"{own}, line 2: " in lines[-1]


def test_a_default_that_does_not_exist_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(settings_of(tmp_path, default_model="gema")) == 1
    assert "Did you mean 'gemma'?" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["CACHE_DIR", "DATA_DIR"])
def test_a_folder_that_cannot_be_written_fails_under_its_setting_with_the_fix(
    tmp_path: Path, name: str
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    finding = found(settings_of(tmp_path, **{name.lower(): in_the_way}))[name]
    assert finding.verdict is Verdict.FAILED
    assert str(in_the_way) in finding.text
    assert "choose another folder" in finding.text
    assert "Errno" not in finding.text


def test_a_folder_whose_rights_are_missing_fails_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # these tests may run as root, who may write anywhere
    finding = found(settings_of(tmp_path))["DATA_DIR"]
    assert finding.verdict is Verdict.FAILED
    assert f"{tmp_path}/data is not writable" in finding.text
    assert "choose another folder" in finding.text


def test_a_model_whose_folder_is_gone_fails(tmp_path: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text(f'[tiny]\nsource = "{tmp_path}/gone"\ncontext_tokens = 256\ndescription = "a model"\n')
    finding = found(settings_of(tmp_path, models_file=own))["tiny"]
    assert finding.verdict is Verdict.FAILED
    assert f"{tmp_path}/gone" in finding.text


def test_every_finding_is_one_line(tmp_path: Path) -> None:
    own = tmp_path / "models.toml"
    own.write_text(f'[tiny]\nsource = "{tmp_path}/gone"\ncontext_tokens = 256\ndescription = "a model"\n')
    assert not any("\n" in finding.text for finding in examine(settings_of(tmp_path, models_file=own)))
