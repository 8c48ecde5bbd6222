"""A batch's thread keeps to one CUDA stream and begins when loads are done; CUDA itself is a list of what was asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bot.inference import batch as batch_module
from bot.inference import own_stream
from bot.inference.batch import Batch
from tests.inference.checkpoints import save_checkpoint
from tests.inference.stepping import loaded_exactly

GPU = torch.device("cuda", 0)


class Cuda:
    """Stands in for `torch.cuda`: which stream is current on which thread, and what was waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.current = threading.local()
        self.made = 0
        self.fails = False
        monkeypatch.setattr(torch.cuda, "Stream", self.new_stream)
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.cuda, "device", self.device)
        monkeypatch.setattr(torch.cuda, "default_stream", lambda _: self.called("the default stream"))
        own_stream._stream.cache_clear()

    def called(self, name: str) -> SimpleNamespace:
        def synchronize() -> None:
            self.log.append(f"waited for {name}")
            if self.fails:
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")

        return SimpleNamespace(name=name, synchronize=synchronize)

    def new_stream(self, device: torch.device) -> SimpleNamespace:
        assert device == GPU
        self.made += 1
        return self.called(f"stream {self.made}")

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.current.name = stream.name
        yield
        self.current.name = ""

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        assert device == GPU
        yield

    def says(self, what: str) -> None:
        self.log.append(f"{what} on {getattr(self.current, 'name', '') or 'the default stream'}")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    yield Cuda(monkeypatch)
    own_stream._stream.cache_clear()


class Manager:
    """As much of transformers' as there is to do."""

    def __init__(self, cuda: Cuda, device: torch.device) -> None:
        self.cuda = cuda
        self.model = SimpleNamespace(device=device)

    def _create_batch_processor(self) -> Any:
        self.cuda.says("cache made")
        inputs = SimpleNamespace(compute_stream=self.cuda.called("a stream of its own"))
        offloading = SimpleNamespace(_compute_stream=inputs.compute_stream)
        return SimpleNamespace(inputs_and_outputs=inputs, offloading_manager=offloading)

    def _run_generation_loop(self) -> None:
        processor = self._create_batch_processor()
        self.cuda.says("inputs copied")
        with torch.cuda.stream(processor.inputs_and_outputs.compute_stream):
            self.cuda.says("computed")
        with torch.cuda.stream(processor.offloading_manager._compute_stream):
            self.cuda.says("offloaded")


def test_inputs_and_steps_of_all_batches_are_on_one_stream(cuda: Cuda) -> None:
    for _ in range(2):
        manager = Manager(cuda, GPU)
        own_stream.keep_to_one_stream(manager)
        thread = threading.Thread(target=manager._run_generation_loop)
        assert "_run_generation_loop" in thread.name
        thread.start()
        thread.join()
    did = ["cache made", "inputs copied", "computed", "offloaded"]
    assert cuda.log == [f"{what} on stream 1" for what in did] * 2


def test_on_the_cpu_nothing_is_changed(cuda: Cuda) -> None:
    manager = Manager(cuda, torch.device("cpu"))
    own_stream.keep_to_one_stream(manager)
    own_stream.wait_for_loads(manager.model.device)
    own_stream.wait_for_steps(manager.model.device)
    assert set(vars(manager)) == {"cuda", "model"}
    assert cuda.log == []


def test_a_device_that_has_failed_is_not_waited_for(cuda: Cuda) -> None:
    cuda.fails = True
    own_stream.wait_for_steps(GPU)
    assert cuda.log == ["waited for stream 1"]


def test_a_batch_begins_when_loads_are_done_and_frees_its_memory_when_its_steps_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    loaded = loaded_exactly(save_checkpoint("llama", tmp_path / "llama"))
    batch = Batch(loaded, requests=2)
    monkeypatch.setattr(batch_module, "wait_for_loads", lambda _: log.append("loads done"))
    monkeypatch.setattr(
        batch_module,
        "wait_for_steps",
        lambda _: log.append(f"steps done, cache {'there' if batch._manager.batch_processor else 'gone'}"),
    )
    start = batch._manager.start

    def started() -> None:
        log.append("begun")
        start()

    monkeypatch.setattr(batch._manager, "start", started)
    batch.start()
    while batch._manager.batch_processor is None:
        assert batch.is_running
    batch.close()
    assert log == ["loads done", "begun", "steps done, cache there"]
