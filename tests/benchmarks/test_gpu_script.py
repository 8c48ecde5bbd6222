"""`python -m benchmarks.gpu` comes to its end whatever a stage does to its process, and says what happened."""

from __future__ import annotations

import asyncio
import json
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import catalogue, checkpoints, supervisor, wheels
from benchmarks.gpu.own_tests import counted as counted_tests
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import Outcome, Stage, Verdict
from benchmarks.gpu.steps import counted as counted_events
from benchmarks.gpu.steps import waits_by_line
from benchmarks.gpu.supervisor import NoCuda, Options, grouped, supervise
from benchmarks.gpu.worker import found
from tests.benchmarks import odd_stages


def supervised(
    out: Path, stages: Sequence[Stage], *, seconds: float = 100.0, tiny: bool = True
) -> dict[str, Any]:
    """Run stages; the outcomes by name, as the file of results has them."""
    results = Results(out, stages, {"tiny": tiny})
    options = Options(odd_stages.__name__, out, out, seconds, tiny)
    asyncio.run(supervise(options, stages, results, lambda _: None))
    document = json.loads((out / "results.json").read_text())
    assert document["about"]["stages_left"] == 0
    return {one["name"]: one for one in document["stages"]}


def chosen(*names: str) -> list[Stage]:
    return program.selected(odd_stages.STAGES, ",".join(names))


def test_a_stage_that_fails_or_takes_its_process_along_does_not_end_the_others(tmp_path: Path) -> None:
    names = ("first", "raises", "second", "not-so", "third", "dies", "gpu", "beside", "last")
    ended = supervised(tmp_path, chosen(*names))
    assert list(ended) == list(names)
    assert {name: one["verdict"] for name, one in ended.items()} == {
        "first": "passed",
        "raises": "failed",
        "second": "passed",
        "not-so": "failed",
        "third": "passed",
        "dies": "died",
        "gpu": "not run",
        "beside": "passed",
        "last": "passed",
    }
    assert ended["first"]["figures"]["answer"] == 42
    # Told before the end, and kept.
    assert ended["raises"]["figures"] == {"before": "it went wrong"}
    assert ended["raises"]["note"].startswith("ValueError: this is why\n")
    assert "odd_stages.py" in ended["raises"]["note"]
    assert ended["dies"]["figures"] == {"before": "it died"}
    assert ended["gpu"]["note"] == "needs CUDA: not run"
    # The file was whole after each stage.
    assert ended["second"]["figures"]["seen"] == ["first", "raises"]
    # What only does not hold leaves the process, and what is in it, to the next stage.
    assert ended["not-so"]["note"] == "two is one: no (2)"
    assert ended["third"]["figures"]["pid"] == ended["not-so"]["figures"]["pid"]
    assert ended["first"]["figures"]["pid"] != ended["third"]["figures"]["pid"]
    assert ended["beside"]["figures"]["pid"] != ended["last"]["figures"]["pid"]
    page = (tmp_path / "summary.txt").read_text()
    assert "FAILED: raises, not-so, dies" in page
    assert "all is well" in page
    assert "[NO ] two is one (2)" in page
    assert "[no ] a slow machine is fast" in page


def test_a_stage_that_hangs_in_native_code_is_ended_at_its_deadline_and_the_log_says_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GRACE_S", 1.0)
    monkeypatch.setattr(supervisor, "LEAST_S", 0.1)
    short = [Stage(one.name, one.shows, one.run, 0.5, 0.5) for one in chosen("slow", "hangs")]
    ended = supervised(tmp_path, [*short, *chosen("last")])
    assert {name: one["verdict"] for name, one in ended.items()} == {
        "slow": "late",
        "hangs": "hung",
        "last": "passed",
    }
    assert 0 < ended["slow"]["figures"]["left_s"] <= 0.5
    assert ended["hangs"]["figures"] == {"before": "it hung"}
    assert ended["hangs"]["seconds"] < 10
    assert "in hangs" in (tmp_path / "log.txt").read_text()


async def test_told_to_end_it_leaves_no_process_behind(tmp_path: Path) -> None:
    stages = chosen("hangs")
    run = supervise(
        Options(odd_stages.__name__, tmp_path, tmp_path, 100.0, tiny=True),
        stages,
        Results(tmp_path, stages, {}),
        lambda _: None,
    )
    running = asyncio.create_task(run)
    hanging = tmp_path / "hanging"
    while not (hanging.exists() and hanging.read_text()):
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not psutil.pid_exists(int(hanging.read_text()))


def test_what_there_is_no_time_for_is_said_and_is_no_failure(tmp_path: Path) -> None:
    ended = supervised(tmp_path, chosen("first", "last"), seconds=1.0)
    assert {one["verdict"] for one in ended.values()} == {"no time"}
    page = (tmp_path / "summary.txt").read_text()
    assert "no stage failed" in page
    assert "No time was left for: first, last" in page


def test_without_a_gpu_it_refuses_with_a_sentence_that_names_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NoCuda):
        supervised(tmp_path, chosen("first"), tiny=False)
    monkeypatch.setattr(program, "catalogue", odd_stages)
    assert program.main(["--out", str(tmp_path), "--folder", str(tmp_path), "--only", "first"]) == 2
    said = capsys.readouterr()
    assert said.err == f"{program.REFUSAL}\n"
    assert "--tiny" in said.err
    assert said.out == ""


@pytest.mark.parametrize(("only", "code"), [("first", 0), ("first,gpu", 0), ("raises", 1), ("not-so", 1)])
def test_the_exit_code_says_whether_a_stage_failed(
    only: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "catalogue", odd_stages)
    mine = tmp_path / "mine"
    mine.write_text("something else")
    given = ["--tiny", "--out", str(tmp_path / "out"), "--folder", str(tmp_path), "--only", only]
    assert program.main(given) == code
    assert "TINY on the CPU" in capsys.readouterr().out
    assert mine.exists()
    assert not (tmp_path / "punchline-gpu").exists()


def test_stages_are_selected_by_name_in_their_own_order_and_an_unknown_one_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert [one.name for one in program.selected(catalogue.STAGES, "steps, load")] == ["load", "steps"]
    with pytest.raises(SystemExit):
        program.parsed(["--only", "laod"])
    assert "no stage is called laod: choose from machine, checkpoints" in capsys.readouterr().err


def test_results_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OUT", raising=False)
    assert program.parsed([]).out == Path("gpu-run")
    monkeypatch.setenv("OUT", "/somewhere")
    assert program.parsed([]).out == Path("/somewhere")
    assert program.parsed(["--out", "here"]).out == Path("here")


def test_every_stage_is_there_and_what_runs_beside_another_one_names_it() -> None:
    names = [one.name for one in catalogue.STAGES]
    assert len(set(names)) == len(names)
    for one in catalogue.STAGES:
        assert asyncio.iscoroutinefunction(found(one.run)), one.name
        assert one.beside is None or one.beside in names
    alone, beside = next(pair for pair in grouped(catalogue.STAGES) if pair[1])
    assert (alone.name, [one.name for one in beside]) == ("checkpoints", ["tests", "dead-gpu"])
    assert [one.name for one, _ in grouped(chosen("beside"))] == ["beside"]


def test_a_summary_in_the_middle_says_what_is_still_to_come(tmp_path: Path) -> None:
    stages = chosen("first", "last")
    results = Results(tmp_path, stages, {})
    results.add(Outcome(stages[0], Verdict.PASSED), 1.0)
    assert "Still to come: 1 stages" in (tmp_path / "summary.txt").read_text()


def test_lines_of_pytest_are_counted_also_when_it_was_broken_off_or_ran_in_several_processes() -> None:
    printed = """
tests/a.py::test_one PASSED                 [ 10%]
tests/a.py::test_two[x y] FAILED            [ 20%]
[gw1] [ 30%] PASSED tests/b.py::test_three
[gw0] [ 40%] SKIPPED tests/b.py::test_four
tests/a.py::test_five
FAILED tests/a.py::test_two[x y] - AssertionError: no
ERROR tests/c.py - ImportError
!!!!!!!! KeyboardInterrupt !!!!!!!!
"""
    assert counted_tests(printed) == {
        "passed": 2,
        "skipped": 1,
        "failed": ["tests/a.py::test_two[x y]", "tests/c.py"],
    }


def test_events_of_the_profiler_become_figures_of_one_step() -> None:
    events = [
        ("aten::mm", "DeviceType.CPU", 0, 10),
        ("cudaLaunchKernel", "DeviceType.CPU", 1, 2),
        ("cudaLaunchKernelExC", "DeviceType.CPU", 3, 2),
        ("cudaStreamSynchronize", "DeviceType.CPU", 5, 100),
        ("cudaMemcpyAsync", "DeviceType.CPU", 6, 1),
        ("gemm", "DeviceType.CUDA", 1_000, 3_000),
        ("gemm", "DeviceType.CUDA", 2_000, 3_000),  # on another stream at the same time
        ("softmax", "DeviceType.CUDA", 10_000, 1_000),
    ]
    seen = counted_events(events, steps=2, wall_s=10e-6)
    assert (seen["launches"], seen["synchronizations"], seen["copies"], seen["operators"]) == (
        1,
        0.5,
        0.5,
        0.5,
    )
    assert seen["gpu_busy"] == pytest.approx(0.5)
    assert seen["longest_kernels"] == {"gemm": pytest.approx(6 / 7), "softmax": pytest.approx(1 / 7)}


def test_kernels_of_attention_are_told_by_name() -> None:
    events = [
        ("aten::_scaled_dot_product_attention_math", "DeviceType.CPU", 0, 10),
        ("aten::_scaled_dot_product_flash_attention", "DeviceType.CPU", 20, 10),
        ("aten::_scaled_dot_product_flash_attention", "DeviceType.CPU", 40, 10),
    ]
    assert counted_events(events, steps=2, wall_s=1e-6)["attention"] == {
        "aten::_scaled_dot_product_attention_math": 0.5,
        "aten::_scaled_dot_product_flash_attention": 1.0,
    }


def test_waits_for_the_gpu_are_told_by_the_line_that_waits() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for line in (3, 8, 3, 3):
            warnings.warn_explicit(
                "called a synchronizing CUDA operation", UserWarning, "/x/sampler.py", line
            )
        warnings.warn_explicit("of something else", UserWarning, "/x/other.py", 1)
    assert waits_by_line(caught, steps=2) == {"sampler.py:3": 1.5, "sampler.py:8": 0.5}


def test_a_vocabulary_has_as_many_different_words_as_the_model_has_tokens() -> None:
    for count in (640, 32_064):
        made = list(checkpoints.words(count))
        assert len(made) == len(set(made)) == count
        assert all(word.isalpha() or len(word) == 1 or word.startswith("<") for word in made)


def test_a_wheel_is_slimmed_with_its_record(tmp_path: Path) -> None:
    wheel = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    files = [f"bitsandbytes/libbitsandbytes_{name}.so" for name in ("cpu", "cuda130", "cuda128", "rocm70")]
    files += ["bitsandbytes/__init__.py", "bitsandbytes-1.dist-info/RECORD"]
    with zipfile.ZipFile(wheel, "w") as made:
        for name in files:
            made.writestr(name, "".join(f"{one},sha256=x,1\n" for one in files))
    wheels.slim(wheel, wheels.is_for("130"))
    with zipfile.ZipFile(wheel) as slimmed:
        left = slimmed.namelist()
        record = slimmed.read("bitsandbytes-1.dist-info/RECORD").decode()
    assert left == [*files[:2], *files[4:]]
    assert [line.split(",")[0] for line in record.splitlines()] == left


def test_wheels_are_what_the_project_needs_less_what_pytorch_brings() -> None:
    names = wheels.needed(["transformers>=5", "torch>=2", "pytest-asyncio"], "3.12")
    assert {"transformers", "tokenizers", "huggingface-hub", "pytest", "pytest-asyncio"} <= set(names)
    assert not {"torch", "sympy", "numpy", "colorama"} & set(names)
    assert wheels.pinned(["huggingface-hub"], "huggingface_hub==1.2\n# none\n") == ["huggingface_hub==1.2"]
    with pytest.raises(ValueError, match=r"no version of other"):
        wheels.pinned(["other"], "")
