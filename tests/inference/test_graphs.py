"""A step of decoding that is recorded once and repeated says to everybody what the ordinary way says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bot.chat.messages import ChatMessage, Role
from bot.inference import graphs, layout, manager
from bot.inference import whole_device as whole_device_module
from bot.inference.catalog import ModelSpec, SamplingParams
from bot.inference.engine import GenerationRequest
from bot.inference.fixed_step import Shape, shape_of
from bot.inference.graphs import CudaCapture, Repeat, can_be_recorded
from bot.inference.layout import Request
from bot.inference.loader import ModelLoader
from bot.inference.local import LocalEngine
from bot.inference.whole_device import recording, whole_device
from tests.inference.checkpoints import save_checkpoint
from tests.inference.reading import ending
from tests.inference.recording import Recorder
from tests.inference.stepping import Stepped, loaded_exactly

ENDS = (2, 257, 258, 259, 260)
HOW: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 3, "repetition_penalty": 1.3},
    {"temperature": 0.8, "seed": 4, "top_k": 20, "top_p": 0.9},
    {"temperature": 1.5, "seed": 5, "top_k": 0, "repetition_penalty": 1.1},
    {"temperature": 0.0, "repetition_penalty": 1.5},
    {"temperature": 1.0, "seed": 6, "top_k": 3},
]


def prompt(number: int, length: int) -> list[int]:
    return [3 + (37 * number + 11 * place) % 250 for place in range(length)]


def mixed(batch: Stepped) -> list[list[int]]:
    """People come, are answered, leave in the middle or stay, and others come with what they left behind. What is in
    the cache before is no number, except where padding is to look."""
    cache = batch.processor.cache
    cache.cache_tensor[cache.bytes_per_sector :].view(cache.dtype).fill_(math.nan)
    names = [batch.add(prompt(n, 5 + 9 * n), 30 + 4 * n, **HOW[n % 6]) for n in range(3)]
    for _ in range(12):
        batch.step()
    names += [batch.add(prompt(3, 70), 80, **HOW[3]), batch.add(prompt(4, 31), 25, **HOW[4])]
    for _ in range(20):
        batch.step()
    batch.cancel(names[1])
    names += [batch.add(prompt(n, 1 + n), 40, **HOW[n % 6]) for n in range(5, 9)]
    for _ in range(10):
        batch.step()
    names.append(batch.add(prompt(9, 150), 20, **HOW[1]))
    batch.steps()
    return [batch.said[name] for name in names]


@pytest.fixture(scope="module", params=["llama", "qwen", "phi", "gemma", "long-phi"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("graphs") / request.param
    return loaded_exactly(save_checkpoint(request.param, folder, is_attentive=True))


def known(batch: Stepped, loaded: Any) -> set[int]:
    """Where all memory begins that stays as long as the batch."""
    inputs, sampler = batch.processor.inputs_and_outputs, batch.manager.logit_processor
    tensors = [
        *loaded.model.parameters(),
        *loaded.model.buffers(),
        inputs._bulk_input_tensor,
        inputs.write_index_storage,
        inputs.output_ids,
        inputs.cache.cache_tensor,
        *(one._numbers for one in inputs.decoding._tables.values()),
        sampler._ends,
        sampler._fixed_broken,
        sampler._seen._table,
    ]
    return {one.untyped_storage().data_ptr() for one in tensors if one is not None}


def test_everybody_hears_what_the_ordinary_way_says(loaded: Any) -> None:
    with Stepped(loaded) as batch:
        expected = mixed(batch)
    recorder = Recorder()
    with Stepped(loaded, new_capture=lambda: recorder) as batch:
        assert mixed(batch) == expected
        decoding = batch.processor.inputs_and_outputs.decoding
        assert decoding.recorded == len(recorder.tapes) < 30
        assert decoding.repeated > 2 * decoding.recorded
        # Anything else would be gone, or another step's, when the device repeats it.
        assert set[int]().union(*(tape.given for tape in recorder.tapes)) <= known(batch, loaded)


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("llama", tmp_path_factory.mktemp("graphs") / "llama")


@pytest.fixture(scope="module")
def llama(llama_folder: Path) -> Any:
    return loaded_exactly(llama_folder)


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(
        alias="tiny", source=str(folder), context_tokens=512, quantization="none", description="a model"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NEEDS A GPU: CUDA records and repeats steps")
@pytest.mark.parametrize("family", ["llama", "phi", "gemma"])
def test_cuda_repeats_what_the_ordinary_way_says(tmp_path: Path, family: str) -> None:
    loaded = loaded_exactly(save_checkpoint(family, tmp_path / family, is_attentive=True))
    with Stepped(loaded) as batch:
        expected = mixed(batch)
    with Stepped(loaded, new_capture=CudaCapture) as batch:
        assert mixed(batch) == expected
        decoding = batch.processor.inputs_and_outputs.decoding
        assert decoding.repeated > 2 * decoding.recorded > 0


def test_what_is_copied_to_a_gpu_at_once_is_what_a_repeated_step_reads(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stepped(llama) as batch:
        expected = mixed(batch)
    monkeypatch.setattr(manager, "needs_staging", lambda _: True)
    monkeypatch.setattr(layout, "on_gpu", lambda _: True)
    recorder = Recorder()
    with Stepped(llama, new_capture=lambda: recorder) as batch:
        assert mixed(batch) == expected
        assert set[int]().union(*(tape.given for tape in recorder.tapes)) <= known(batch, llama)


def test_rows_of_nobody_leave_everybodys_seen_words_alone(llama: Any) -> None:
    loaded = replace(llama, eos_token_ids=ENDS)
    prompts = [prompt(n, 40) for n in range(3)]  # and a fourth row of nobody
    with Stepped(loaded, new_capture=Recorder) as batch:
        names = [batch.add(one, 40, temperature=1.0, seed=7, repetition_penalty=1.2) for one in prompts]
        while len(batch.said) < 3:
            batch.step()
        seen = batch.manager.logit_processor._seen
        for _ in range(30):
            batch.step()
            for name, one in zip(names, prompts, strict=True):
                kept = {int(id_) for id_ in seen._table[seen._slots[name]]}
                assert kept == {*one, *batch.said[name]}


def test_numbers_that_overflow_end_their_own_answer_in_a_repeated_step(llama: Any) -> None:
    with Stepped(llama, new_capture=Recorder) as batch:
        names = [batch.add(prompt(n, 20), 60) for n in range(2)]
        for _ in range(10):
            batch.step()
        draws = batch.batch._draws
        before = len(batch.said[names[0]])
        allocator = next(iter(batch.processor.cache.cache_allocators.values()))
        page = allocator.block_table[names[1]][0] * allocator.block_physical_stride
        allocator._kv_token_views[0][0][page] = math.nan
        batch.step()
        outputs = [SimpleNamespace(request_id=n, generated_tokens=batch.said[n], error=None) for n in names]
        for one in outputs:
            one.is_finished = lambda: True
        assert batch.manager.logit_processor.check(outputs)
        assert draws[names[0]].valid_tokens is None
        assert draws[names[1]].valid_tokens == before
        assert batch.processor.inputs_and_outputs.decoding.repeated > 5


class Unable:
    """A capture that records no step, and is asked again as long as it says so."""

    def __init__(self, tries: int) -> None:
        self.asked = 0
        self._tries = tries

    @property
    def is_able(self) -> bool:
        return self.asked < self._tries

    def taken(self, run: Callable[[], None]) -> Repeat | None:
        self.asked += 1
        run()
        return None


@pytest.mark.parametrize("tries", [1, 20])
def test_where_steps_cannot_be_recorded_they_are_taken_all_the_same(llama: Any, tries: int) -> None:
    unable = Unable(tries)
    with Stepped(llama) as batch:
        expected = mixed(batch)
    with Stepped(llama, new_capture=lambda: unable) as batch:
        assert mixed(batch) == expected
    assert unable.asked == tries


def test_no_more_steps_are_kept_than_there_is_room_for(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Stepped(llama) as batch:
        expected = mixed(batch)
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
    with Stepped(llama, new_capture=Recorder) as batch:
        assert mixed(batch) == expected
        assert len(batch.processor.inputs_and_outputs.decoding._all) == 2


def test_a_model_of_experts_has_its_steps_taken_one_by_one(tmp_path: Path) -> None:
    loaded = loaded_exactly(save_checkpoint("mixtral", tmp_path / "mixtral"))
    assert not can_be_recorded(loaded.model)
    recorder = Recorder()
    with Stepped(loaded, new_capture=lambda: recorder) as batch:
        name = batch.add(prompt(0, 9), 6)
        batch.steps()
        assert len(batch.said[name]) == 6
    assert recorder.tapes == []


def people(*lengths: int, new: int = 1) -> list[Request]:
    return [Request(str(n), n, length - new, new) for n, length in enumerate(lengths)]


def test_shapes_are_few_and_hold_everybody() -> None:
    assert shape_of(people(5), 32, 16) == Shape(1, 8)
    assert shape_of(people(5, 256, 100), 32, 16) == Shape(4, 8)
    assert shape_of(people(5, 257, 100), 32, 16) == Shape(4, 16)
    assert shape_of(people(*range(1, 10)), 32, 12) == Shape(12, 8)


def test_a_step_that_reads_a_prompt_or_is_mostly_padding_is_taken_as_it_is() -> None:
    assert shape_of(people(40, 50, new=2), 32, 16) is None
    assert shape_of(people(8_000, *[40] * 15), 32, 16) is None
    assert shape_of(people(*[8_000] * 16), 32, 16) == Shape(16, 256)


class Cuda:
    """Stands in for `torch.cuda`, as far as recording goes: a list of what was asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.log: list[str] = []
        self.fails = fails
        monkeypatch.setattr(CudaCapture, "has_failed", False)
        monkeypatch.setattr(graphs, "_abandoned", [])
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            said = partial(lambda name, device, pool: self.log.append(f"{name} {pool}"), name)
            monkeypatch.setattr(torch._C, name, said, raising=False)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the batch's stream")
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=self.replay))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    @contextmanager
    def graph(self, graph: Any, *, pool: Any, stream: str, capture_error_mode: str) -> Iterator[None]:
        self.log.append(f"recording on {stream}, {capture_error_mode}")
        assert not whole_device_is_free()  # a load that begins now waits
        yield
        if self.fails:
            raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")

    def replay(self) -> None:
        self.log.append("repeated")

    def run(self) -> None:
        self.log.append("run")


def whole_device_is_free() -> bool:
    free = whole_device_module._turn.acquire(blocking=False)
    if free:
        whole_device_module._turn.release()
    return free


def test_a_step_is_taken_before_it_is_recorded_on_the_batchs_own_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, capture = Cuda(monkeypatch), CudaCapture()
    repeat = capture.taken(cuda.run)
    assert repeat is not None and capture.is_able
    repeat()
    assert cuda.log == ["run", "recording on the batch's stream, thread_local", "run", "repeated"]
    assert whole_device_is_free()


def test_a_step_that_cuda_cannot_record_is_taken_and_no_other_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, capture = Cuda(monkeypatch, fails=True), CudaCapture()
    assert capture.taken(cuda.run) is None
    assert cuda.log[0] == "run"
    # Else no load could empty PyTorch's cache any more.
    assert cuda.log[-2:] == ["_cuda_endAllocateToPool (0, 1)", "_cuda_releasePool (0, 1)"]
    assert not capture.is_able and not CudaCapture().is_able
    assert whole_device_is_free()


def test_nothing_is_recorded_while_a_model_is_loaded_and_all_is_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, capture = Cuda(monkeypatch), CudaCapture()
    with whole_device():
        assert capture.taken(cuda.run) is None
        assert cuda.log == ["run"]
    assert capture.is_able
    assert capture.taken(cuda.run) is not None


async def test_a_model_is_loaded_while_nothing_is_recorded(
    engine: LocalEngine, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    load = ModelLoader.load

    def watched(self: ModelLoader, *given: Any) -> Any:
        with recording() as may:
            seen.append(may)
        return load(self, *given)

    monkeypatch.setattr(ModelLoader, "load", watched)
    await engine.fetch(spec_of(llama_folder), lambda _: None)
    await engine.load(spec_of(llama_folder), lambda _: None)
    assert seen == [False]
    with recording() as may:
        assert may


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
async def test_without_a_gpu_the_setting_is_told_and_people_are_answered(
    llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = LocalEngine(ModelLoader(tmp_path), budget_bytes=10**9, cuda_graphs=True)
    try:
        asked = GenerationRequest(
            spec_of(llama_folder),
            (ChatMessage(Role.USER, "Hi"),),
            SamplingParams(temperature=0.0, max_new_tokens=5, min_new_tokens=5),
        )
        events = [event async for event in engine.generate(asked)]
    finally:
        await engine.aclose()
    assert ending(events).usage.completion_tokens == 5
    assert "CUDA_GRAPHS is on, and there is no GPU" in caplog.text


def test_on_a_gpu_a_dense_model_is_recorded_and_experts_are_not(
    llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(graphs, "is_on_gpu", lambda _: True)
    assert graphs.cuda_capture(llama.model) is CudaCapture
    experts = loaded_exactly(save_checkpoint("mixtral", tmp_path / "mixtral")).model
    assert graphs.cuda_capture(experts) is None
    assert "is a model of experts" in caplog.text
