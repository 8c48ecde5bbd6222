"""The installation's pages, the unit and the command beside it say the same, and nothing that is not there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bot.cli import build_parser
from bot.settings import Settings
from tests.deploy.pages import DOCS, blocks, settings_named
from tests.deploy.unit import ROOT, UNIT, environment, exec_start

PAGES = ("install-systemd.md", "install-docker.md")
NOT_SETTINGS = {"ADDRESS_OF_THIS_REPOSITORY", "CUDA_IMAGE", "INSTALL_TEST_DOWNLOADS"}


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_a_page_names_exists(page: str) -> None:
    named = settings_named(page) - NOT_SETTINGS
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_a_page_names_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    named = {name.rstrip(".") for name in re.findall(r"(?<![\w/])(?:/opt/punchline/)?(deploy/[\w.-]+)", text)}
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_bot_a_page_names_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    named = set(
        re.findall(r"(?:^|`|--rm )punchline ((?:check|pull|run|backup|restore)[ \w./-]*)", text, re.MULTILINE)
    )
    assert named
    for command in named:
        build_parser().parse_args(command.split())


def test_the_unit_and_the_command_beside_it_use_the_same_folders_and_program() -> None:
    command = (ROOT / "deploy" / "punchline").read_text(encoding="utf-8")
    assert dict(re.findall(r"^  ([A-Z_]+)=(\S+) \\$", command, re.MULTILINE)) == {
        "HOME": "/var/lib/punchline",
        **environment(),
    }
    program, *options, run = exec_start()
    assert f"{program} {' '.join(options)}" in command
    assert run == "run"


def test_the_installation_uses_every_file_of_the_service() -> None:
    typed = "\n".join(blocks("install-systemd.md", "Install"))
    for name in ("punchline", "punchline.service", "punchline-gpu.service", "punchline.sysusers"):
        assert f"/opt/punchline/deploy/{name}" in typed


def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NEEDS SYSTEMD-ANALYZE, which comes with systemd")
    # It looks whether programs are there; here they are not installed.
    for unit in (UNIT, UNIT.with_name("punchline-gpu.service")):
        text = unit.read_text(encoding="utf-8").replace("/opt/punchline/.venv/bin/punchline", sys.executable)
        (tmp_path / unit.name).write_text(text.replace("/usr/bin/nvidia-modprobe", "/bin/true"))
    files = [str(file) for file in tmp_path.iterdir()]
    ran = subprocess.run(["systemd-analyze", "verify", *files], capture_output=True, text=True, timeout=60)
    # systemd before 254 passes over how long it waits between starts.
    newer = ("'RestartSteps'", "'RestartMaxDelaySec'", "Documentation")
    ours = [line for line in ran.stderr.splitlines() if "punchline" in line]
    assert [line for line in ours if not any(name in line for name in newer)] == []


def test_systemd_rates_the_service_as_well_confined() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NEEDS SYSTEMD-ANALYZE, which comes with systemd")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", str(UNIT)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unrecognized option" in ran.stderr:
        pytest.skip("NEEDS SYSTEMD 250 OR NEWER, which can rate a unit that is not installed")
    assert ran.returncode == 0, ran.stdout.splitlines()[-1]
