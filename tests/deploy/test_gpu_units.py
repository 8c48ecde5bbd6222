"""What the units give the bot of a machine's GPUs: all of them, and memory and folders that suit them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import torch

from tests.deploy.unit import COMPILED, ROOT, environment, settings_of

GPU_UNIT = ROOT / "deploy" / "punchline-gpu.service"


def test_device_files_are_made_for_every_gpu_and_for_instances(tmp_path: Path) -> None:
    driver = tmp_path / "driver"
    for number, minor in enumerate((0, 1, 7)):
        (driver / f"gpus/0000:{number:02x}:00.0").mkdir(parents=True)
        (driver / f"gpus/0000:{number:02x}:00.0/information").write_text(
            f"Model: \t\t NVIDIA L4\nIRQ:   \t\t 64\nDevice Minor: \t {minor}\nGPU Firmware: \t 580.95.05\n"
        )
    (driver / "capabilities/gpu0/mig/gi1").mkdir(parents=True)
    (driver / "capabilities/gpu0/mig/gi1/access").touch()
    modprobe = tmp_path / "nvidia-modprobe"
    modprobe.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    modprobe.chmod(0o755)
    for line in settings_of(GPU_UNIT)["ExecStart"]:
        assert line.startswith("-"), "a machine on which it fails has another way"
        command = line[1:].replace("/usr/bin/nvidia-modprobe", str(modprobe)).replace("$$", "$")
        words = shlex.split(command.replace("/proc/driver/nvidia", str(driver)))
        subprocess.run(words, check=True, timeout=20)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["-c 0 -u", "-c 0", "-c 1", "-c 7", f"-f {driver}/capabilities/gpu0/mig/gi1/access"]


def test_a_machine_without_the_driver_is_left_alone() -> None:
    assert settings_of(GPU_UNIT)["ConditionPathExists"] == ["/usr/bin/nvidia-modprobe"]


def test_the_bot_may_use_the_files_of_all_gpus_and_no_other_device() -> None:
    allowed = settings_of()["DeviceAllow"]
    kinds = ("nvidia", "nvidiactl", "nvidia-frontend", "nvidia-uvm", "nvidia-caps")
    assert allowed == [f"char-{kind} rw" for kind in kinds]  # a kind is all of its files, as /dev/nvidia1
    assert settings_of()["DevicePolicy"] == ["closed"]


def test_what_is_compiled_is_kept_where_the_service_may_write_and_load_libraries() -> None:
    cache = f"/var/cache/{settings_of()['CacheDirectory'][0]}/"
    assert all(environment()[name].startswith(cache) for name in COMPILED)


def test_memory_of_a_gpu_grows_in_place_by_a_name_that_pytorch_knows() -> None:
    name, value = "PYTORCH_ALLOC_CONF", environment()["PYTORCH_ALLOC_CONF"]
    assert value == "expandable_segments:True"
    libraries = Path(torch.__file__).parent / "lib"
    assert any(name.encode() in library.read_bytes() for library in libraries.glob("libc10*.so"))
