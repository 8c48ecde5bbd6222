"""Where a machine has several GPUs, all is on one: the operator's, or the one with most free memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import bitsandbytes  # noqa: F401  before CUDA is patched: what it is made of depends on that
import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig

from bot.errors import SettingsError
from bot.inference import accelerator, gpu_choice
from bot.inference.accelerator import read_accelerator
from bot.inference.anatomy import examine
from bot.inference.catalog import ModelSpec
from bot.inference.device import Sensors, budget_bytes, gpu, read_device
from bot.inference.gpu_choice import GpuChoice, choose_gpu
from bot.inference.loader import ModelLoader
from bot.inference.weights import read_weights
from bot.ops.accelerator_checks import gpu_verdict
from bot.ops.findings import Verdict
from tests.inference import tiny
from tests.inference.checkpoints import save_checkpoint

FIRST = "GPU-0b8ba6ee-1b9c-6a73-1e7f-d2b3a1f0c001"
SECOND = "GPU-7c1d22aa-0000-4b1e-9e0c-33aa55bb7702"
GB = 10**9


class _NVMLError(Exception):
    pass


def nvml(free: dict[str, int], *, split: bool = False) -> Any:
    """A stand-in for pynvml on a machine with these GPUs of 24 GB, in the order of `nvidia-smi`."""
    uuids = list(free)

    def unsupported(_: object) -> None:
        raise _NVMLError

    module = ModuleType("pynvml")
    vars(module).update(
        NVMLError=_NVMLError,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(uuids),
        nvmlDeviceGetHandleByIndex=lambda number: uuids[number],
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=24 * GB, free=free[handle]),
        nvmlDeviceGetName=lambda handle: f"Card {uuids.index(handle)}",
        nvmlDeviceGetUUID=lambda handle: handle,
        nvmlDeviceGetMigMode=(lambda _: [1, 1]) if split else unsupported,
        nvmlDeviceGetTemperature=lambda handle, _: 40 + uuids.index(handle),
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=uuids.index(handle)),
        nvmlSystemGetDriverVersion=lambda: "580.1",
        nvmlSystemGetCudaDriverVersion_v2=lambda: 13000,
    )
    return module


Machine = Callable[..., None]


@pytest.fixture(autouse=True)
def _own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(gpu_choice, "_choice", GpuChoice())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make a machine with GPUs, of which PyTorch sees those of CUDA_VISIBLE_DEVICES, as CUDA does."""

    def make(
        free: dict[str, int],
        *,
        known: bool = True,
        seen: list[str] | None = None,
        split: bool = False,
        total: int = 24 * GB,
    ) -> None:
        def visible() -> list[str]:
            variable = os.environ.get("CUDA_VISIBLE_DEVICES")
            if seen is not None or variable is None:
                return list(free) if seen is None else seen
            entries = [entry for entry in variable.split(",") if entry]
            return [list(free)[int(one)] if one.isdecimal() else one for one in entries]

        def of(device: object) -> str:
            index = getattr(device, "index", device)
            assert isinstance(index, int), "a reading of whatever device is current"
            return visible()[index]

        def properties(device: object) -> Any:
            uuid = of(device)
            return SimpleNamespace(name=f"Card {list(free).index(uuid)}", uuid=uuid.removeprefix("GPU-"))

        monkeypatch.setitem(sys.modules, "pynvml", nvml(free, split=split) if known else None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(visible()))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(visible()))
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[of(device)], total))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100 + list(free).index(of(device)))
        monkeypatch.setattr(
            torch.cuda, "get_device_capability", lambda device: (9, list(free).index(of(device)))
        )

    return make


def test_the_gpu_with_most_free_memory_is_used_and_cuda_sees_no_other(machine: Machine) -> None:
    machine({FIRST: 3 * GB, SECOND: 20 * GB})
    assert gpu() == torch.device("cuda", 0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == SECOND
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.parametrize("wanted", ["0", FIRST, "GPU-0b8ba6ee"])
def test_the_gpu_that_the_operator_names_is_used(machine: Machine, wanted: str) -> None:
    machine({FIRST: 3 * GB, SECOND: 20 * GB})
    choose_gpu(wanted)
    gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == FIRST


def test_every_reading_is_of_the_gpu_that_is_used(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine({FIRST: 3 * GB, SECOND: 20 * GB})
    reading = read_device()
    assert reading.name == "Card 1 (GPU 1 of 2)"
    assert (reading.total_bytes, reading.free_bytes, reading.process_bytes) == (24 * GB, 20 * GB, 101)
    assert reading.sensors == Sensors(41, 1, "580.1")
    assert 18.5 * GB < budget_bytes() < 19 * GB
    monkeypatch.setattr(accelerator, "_nf4_round_trip", lambda device: (0.1, device))
    found = read_accelerator()
    assert (found.device, found.capability, found.nf4_failure) == (reading, (9, 1), "cuda:0")
    assert [(one.number, one.free_bytes) for one in found.gpus] == [(0, 3 * GB), (1, 20 * GB)]
    assert found.visible is None  # the operator has hidden none


def test_where_cuda_was_asked_before_it_is_the_same_gpu_under_another_number(machine: Machine) -> None:
    machine({FIRST: 3 * GB, SECOND: 20 * GB}, seen=[FIRST, SECOND])
    assert gpu() == torch.device("cuda", 1)
    assert read_device().free_bytes == 20 * GB


@pytest.mark.parametrize(("wanted", "number"), [(None, 1), ("0", 0), (SECOND, 1)])
def test_a_driver_without_nvml_is_asked_by_way_of_pytorch(
    machine: Machine, wanted: str | None, number: int
) -> None:
    machine({FIRST: 3 * GB, SECOND: 20 * GB}, known=False)
    choose_gpu(wanted)
    assert gpu() == torch.device("cuda", number)
    choose_gpu("7")
    with pytest.raises(SettingsError, match="write a number from 0 to 1"):
        gpu()


def test_one_gpu_is_taken_as_it_is(machine: Machine) -> None:
    machine({FIRST: 3 * GB})
    assert read_device().name == "Card 0"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_gpu_in_instances_is_left_to_cuda(machine: Machine) -> None:
    machine({FIRST: 3 * GB, SECOND: 20 * GB}, split=True)
    gpu()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("visible", ["0", FIRST])
def test_a_gpu_that_the_operator_hides_is_not_used(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(gpu_choice, "_choice", GpuChoice())
    machine({FIRST: 3 * GB, SECOND: 20 * GB})
    assert read_device().free_bytes == 3 * GB
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    choose_gpu("1")
    with pytest.raises(
        SettingsError, match="names GPU 1, which CUDA_VISIBLE_DEVICES hides from the bot: unset"
    ):
        gpu()


@pytest.mark.parametrize("wanted", ["2", "GPU-deadbeef"])
def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(machine: Machine, wanted: str) -> None:
    machine({FIRST: 3 * GB, SECOND: 20 * GB})
    choose_gpu(wanted)
    says = "names no GPU of this machine, which has 0 .Card 0., 1 .Card 1.: write one of these numbers"
    for look in (gpu, read_device, ModelLoader(Path()).prepare):
        with pytest.raises(SettingsError, match=says):
            look()
    assert "GPU_DEVICE names no GPU" in read_accelerator().refused


def test_a_gpu_that_is_wanted_on_a_machine_without_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu() is None
    choose_gpu("0")
    with pytest.raises(SettingsError, match="no driver tells of a GPU here: see whether `nvidia-smi` works"):
        gpu()
    assert "no driver tells of a GPU" in read_accelerator().refused


@pytest.mark.parametrize(("hidden", "is_said"), [(None, True), ("", False), ("-1", False)])
def test_a_bot_that_runs_on_the_cpu_beside_a_gpu_says_so_unless_the_operator_hides_it(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hidden: str | None,
    is_said: bool,
) -> None:
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        monkeypatch.setattr(gpu_choice, "_choice", GpuChoice())
    machine({FIRST: 3 * GB}, seen=[])
    ModelLoader(Path()).prepare()
    assert ("models run on the CPU" in caplog.text) is is_said


@pytest.mark.parametrize(
    ("visible", "free"),
    [
        ("1,0", 20 * GB),
        (f"{SECOND},{FIRST}", 20 * GB),
        (" 0 , 1", 20 * GB),
        ("0,-1,1", 3 * GB),  # nothing after what names none, as with CUDA
        ("0,7", 3 * GB),
    ],
)
def test_of_those_that_the_operator_lets_it_see_it_takes_the_one_with_most_free_memory(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, visible: str, free: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(gpu_choice, "_choice", GpuChoice())
    machine({FIRST: 3 * GB, SECOND: 20 * GB}, seen=[FIRST] if free < 10 * GB else None)
    assert read_device().free_bytes == free


def test_a_uuid_that_begins_as_two_do_is_refused(machine: Machine) -> None:
    machine({FIRST: 3 * GB, FIRST[:-1] + "9": 20 * GB})
    choose_gpu(FIRST[:12])
    with pytest.raises(SettingsError, match="write one of these numbers"):
        gpu()


def test_a_gpu_that_pytorch_cannot_use_is_refused_and_the_check_says_why(machine: Machine) -> None:
    machine({FIRST: 3 * GB, SECOND: 20 * GB}, seen=[])
    assert not read_device().is_gpu
    choose_gpu("1")
    with pytest.raises(SettingsError, match="PyTorch can use no GPU here: `python -m bot check` says why"):
        gpu()
    verdict, text = gpu_verdict(read_accelerator())
    assert verdict is Verdict.FAILED
    assert text.startswith("the driver 580.1 sees 2 GPU(s), and PyTorch none: ")


def test_mixtral_fits_a_gpu_with_29_gb_free(tmp_path: Path, machine: Machine) -> None:
    MixtralConfig(tie_word_embeddings=False).save_pretrained(tmp_path)  # those of 8x7B
    tiny.byte_level(chat_template=tiny.MIXTRAL_1).save_pretrained(tmp_path)
    machine({FIRST: 29 * GB}, total=32 * GB)
    spec = ModelSpec(alias="mixtral", source=str(tmp_path), context_tokens=8192, description="a model")
    anatomy = examine(tmp_path, spec, {})
    assert anatomy.weights_bytes > 24 * GB
    assert anatomy.footprint(8192).peak_bytes < budget_bytes()
    assert anatomy.loading_bytes < 0.25 * GB


@pytest.mark.parametrize("quantize", [True, False])
def test_a_model_is_put_on_that_gpu_whole_whatever_memory_is_free(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, quantize: bool
) -> None:
    folder = save_checkpoint("llama", tmp_path / "llama")
    machine({FIRST: 1, SECOND: 2}, seen=[FIRST, SECOND])
    asked: dict[str, Any] = {}

    class Read(Exception):
        pass

    def read(*_: object, **options: Any) -> None:
        asked.update(options)
        raise Read

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", read)
    with pytest.raises(Read):
        read_weights(folder, quantize=quantize)
    assert asked["device_map"] == {"": torch.device("cuda", 1)}
