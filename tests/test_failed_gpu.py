"""The GPU fails for good in the middle of an answer: everybody hears so, nothing is lost, and the process ends."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import discord.http
import pytest
import torch

from bot.bench import discord_payloads, discord_standin
from bot.bench.discord_standin import StandIn
from bot.cli import EXIT_FAILED, EXIT_USAGE, main
from bot.demo.page import serve_with
from bot.demo.terminal import answer_with
from bot.errors import DeviceFailed
from bot.inference import batches
from bot.inference.batch import Batch
from bot.inference.device_failure import DeviceFailure, is_device_failure
from bot.inference.loader import LoadedModel, ModelLoader
from bot.inference.local import LocalEngine
from bot.ops import device_failures
from bot.settings import Settings, load_settings
from tests.deploy.unit import ROOT, settings_of
from tests.inference.checkpoints import save_checkpoint

TOKEN = "part-one.part-two.part-three"
SAID = "The GPU has failed, and the bot must start anew. Please ask again in a minute."

# Begins the bot with a model whose forward pass fails after some steps, as a GPU does whose kernel has asserted.
PROGRAM = """
import sys
import torch
from bot.inference import loader

load = loader.ModelLoader.load
def failing(self, spec, report):
    loaded = load(self, spec, report)
    forward, calls = loaded.model.forward, iter(range(10_000))
    def fail(*args, **kwargs):
        if next(calls) >= 12:
            raise ERROR
        return forward(*args, **kwargs)
    loaded.model.forward = fail
    return loaded
loader.ModelLoader.load = failing

from bot.cli import program
sys.argv = ["punchline", "run"]
program()
"""
ERRORS = {
    "accelerator": 'torch.AcceleratorError("CUDA error: device-side assert triggered")',
    "words": 'RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")',
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    save_checkpoint("llama", tmp_path / "tiny")
    models = "\n".join(
        f'[{alias}]\nsource = "{tmp_path / "tiny"}"\ncontext_tokens = {512 + number}\nquantization = "none"\n'
        f'description = "a model"\n[{alias}.sampling]\nmin_new_tokens = 100\n'
        for number, alias in enumerate(("tiny", "other"))
    )
    (tmp_path / "models.toml").write_text(models)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "deploy" / "towards_standin"), str(ROOT)]),
        "DISCORD_TOKEN": TOKEN,
        "DATA_DIR": str(tmp_path / "data"),
        "CACHE_DIR": str(tmp_path / "cache"),
        "MODELS_FILE": str(tmp_path / "models.toml"),
        "DEFAULT_MODEL": "tiny",
        "BATCH_REQUESTS": "2",
    }


def last_words(side: StandIn, tokens: list[str]) -> dict[str, str]:
    words: dict[str, str] = {}
    for arrival in side.arrivals():
        if arrival.token in tokens and arrival.content:
            words[arrival.token] = arrival.content
    return words


def log_of(process: subprocess.Popen[str], ready: Callable[[], None]) -> str:
    """All that it logs to its end; `ready` is called when it is connected."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "ready as" in line:
            ready()
    return "".join(lines)


@pytest.mark.parametrize("error", ERRORS)
def test_everybody_reads_a_sentence_what_was_said_is_kept_and_the_process_ends_to_be_started_anew(
    tmp_path: Path, environment: dict[str, str], error: str
) -> None:
    with discord_standin.running(0.01) as side:
        environment["DISCORD_STANDIN"] = discord.http.Route.BASE.removeprefix("http://")
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.replace("ERROR", ERRORS[error])],
            env=environment,
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        watchdog = threading.Timer(100, process.kill)
        watchdog.start()

        def ask() -> None:
            for number, model in enumerate(("tiny", "tiny", "tiny", "other"), start=1):
                side.dispatch(discord_payloads.command_payload(number, "joke", topic="tea", model=model))

        log = log_of(process, ask)
        watchdog.cancel()
        assert process.wait(30) == EXIT_FAILED, log
        process.stderr.close()
        said = last_words(side, [f"token{number}" for number in range(1, 5)])
    assert len(said) == 4  # two who were answered, one who waited for a place, and one for another model
    assert all(SAID in content for content in said.values()), said
    assert log.rstrip().splitlines()[-1].startswith("The GPU has failed, so this process ends")
    assert ERRORS[error].split('"')[1] in log  # for the operator
    assert "tea" not in log
    with closing(sqlite3.connect(tmp_path / "data" / "punchline.sqlite3")) as database:
        kept = database.execute("SELECT reason, length(answer), end_shown FROM replies").fetchall()
    assert [(reason, shown) for reason, _, shown in kept] == [("error", 1)] * 4
    assert any(length for _, length, _ in kept)  # the words of those who were being answered
    assert (tmp_path / "data" / "gpu-failures.txt").read_text().count("\n") == 1
    assert settings_of()["Restart"] == ["on-failure"]
    assert str(EXIT_FAILED) not in settings_of()["RestartPreventExitStatus"]


def test_a_disk_that_hangs_keeps_neither_the_sentence_nor_the_end(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with discord_standin.running(0.01) as side:
        environment["DISCORD_STANDIN"] = discord.http.Route.BASE.removeprefix("http://")
        program = PROGRAM.replace("ERROR", ERRORS["accelerator"])
        process = subprocess.Popen(
            [sys.executable, "-c", program], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()

        def ask() -> None:
            os.mkfifo(tmp_path / "data" / "gpu-failures.txt")  # whoever opens it waits for ever
            side.dispatch(discord_payloads.command_payload(1, "joke", topic="tea", model="tiny"))

        log = log_of(process, ask)
        watchdog.cancel()
        assert process.wait(30) == EXIT_FAILED, log
        assert process.stderr is not None
        process.stderr.close()
        assert SAID in last_words(side, ["token1"])["token1"]


def failed(folder: Path, times: int, *, ago_s: float = 60.0) -> None:
    folder.mkdir(exist_ok=True)
    for _ in range(times):
        device_failures.record(folder, time.time() - ago_s)


def test_after_five_failures_within_an_hour_it_does_not_start_and_says_what_to_do(
    tmp_path: Path,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bot.app._serve", lambda *_, **__: asyncio.sleep(0))
    failed(tmp_path / "data", 4)
    failed(tmp_path / "data", 3, ago_s=-9_999)  # a clock that was wrong counts for nothing
    assert main(["run"]) == 0
    failed(tmp_path / "data", 5)
    assert main(["run"]) == EXIT_USAGE
    said = capsys.readouterr().err
    assert "has failed 5 times within the last hour" in said
    assert "nvidia-smi" in said
    assert f"delete {tmp_path / 'data' / 'gpu-failures.txt'}" in said
    assert settings_of()["RestartPreventExitStatus"] == [str(EXIT_USAGE)]
    (tmp_path / "data" / "gpu-failures.txt").unlink()
    failed(tmp_path / "data", 5, ago_s=3_700)
    assert main(["run"]) == 0


async def test_check_says_how_often_it_has_failed(tmp_path: Path) -> None:
    assert device_failures.failure_checks(tmp_path) == []
    failed(tmp_path, 2)
    (check,) = device_failures.failure_checks(tmp_path)
    told: Any = await check.look()
    assert told[0] == "warning"
    assert "failed 2 times" in told[1]


@pytest.mark.parametrize(
    ("error", "is_failure"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), True),
        (
            torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
            False,
        ),
        (torch.AcceleratorError("CUDA error: invalid configuration argument"), False),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("CUDA error in a word of somebody's"), False),
        (KeyError("device-side assert"), False),
    ],
    ids=lambda one: str(one)[:40],
)
def test_what_counts_as_a_failed_device(error: Exception, is_failure: bool) -> None:
    behind = RuntimeError("while loading")
    behind.__cause__ = error
    assert is_device_failure(error) is is_device_failure(behind) is is_failure


class Failing(ModelLoader):
    """Its models fail as a GPU does, at the first step or already when they are loaded."""

    at_load = False

    def load(self, spec: Any, report: Any) -> LoadedModel:
        error = torch.AcceleratorError("CUDA error: device-side assert triggered")
        if self.at_load:
            try:
                raise error
            except RuntimeError as caught:
                raise ValueError("in the middle of a load") from caught
        loaded = super().load(spec, report)

        def fail(*_: Any, **__: Any) -> None:
            raise error

        vars(loaded.model)["forward"] = fail
        return loaded


@pytest.fixture
def settings(tmp_path: Path, environment: dict[str, str]) -> Settings:
    return load_settings(
        None,
        data_dir=tmp_path,
        cache_dir=tmp_path,
        models_file=tmp_path / "models.toml",
        default_model="tiny",
    )


@pytest.mark.parametrize(
    ("at_load", "is_batched"),
    [(False, True), (False, False), (True, True)],
    ids=["in a step", "in an answer of its own", "in a load"],
)
async def test_one_command_in_the_terminal_says_so_and_fails(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    at_load: bool,
    is_batched: bool,
) -> None:
    monkeypatch.setattr(batches, "is_batchable", lambda _: is_batched)
    loader = Failing(tmp_path)
    loader.at_load = at_load
    failure = DeviceFailure()
    engine = LocalEngine(loader, budget_bytes=10**9, failure=failure)
    assert await answer_with(settings, "/joke topic:tea", engine) == 1
    await engine.aclose()
    assert SAID in capsys.readouterr().err
    assert failure.has_happened


async def test_the_demo_page_ends_with_a_sentence(settings: Settings, tmp_path: Path) -> None:
    failure = DeviceFailure()
    engine = LocalEngine(Failing(tmp_path), budget_bytes=10**9, failure=failure)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_with(settings, 0, engine, ready, failure))
    await ready
    failure.happen()
    with pytest.raises(DeviceFailed, match="start the demo anew"):
        await asyncio.wait_for(serving, 60)
    await engine.aclose()


async def test_nobody_is_given_to_a_device_that_has_failed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = DeviceFailure()
    engine = LocalEngine(Failing(tmp_path), budget_bytes=10**9, failure=failure)
    assert await answer_with(settings, "/joke topic:tea", engine) == 1
    monkeypatch.setattr(Batch, "__init__", lambda *_, **__: pytest.fail("another batch was made"))
    assert await answer_with(settings, "/joke topic:tea", engine) == 1
    await engine.aclose()
